"""A training step of the PyTorch peer, on a batch that stays on the device."""

import torch  # pyrefly: ignore[missing-import]
from torch.nn import functional as F  # pyrefly: ignore[missing-import]

from benchmarks import torch_peer, workload


class TorchStep:
  """Forward, cross-entropy, backward and SGD, `n` times at a call."""

  def __init__(
    self,
    work: workload.Workload,
    *,
    device: str = "cpu",
    channels_last: bool = True,
    threads: int | None = None,
  ):
    if threads:
      torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
      raise ValueError(
        f"torch {torch.__version__} sees no CUDA device and jax has one; "
        "install a torch build for it, or leave the peer out"
      )
    self._device = torch.device(device)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    self._layout = (
      torch.channels_last if channels_last else torch.contiguous_format
    )
    model = torch_peer.make(work.network, work.classes, work.side, work.blocks)
    self._model = model.to(self._device, memory_format=self._layout).train()
    images = torch.randn(work.batch, 3, work.side, work.side)
    self._images = images.to(self._device, memory_format=self._layout)
    self._labels = torch.randint(
      work.classes, (work.batch,), device=self._device
    )
    self._optimizer = torch.optim.SGD(
      model.parameters(),
      lr=workload.LEARNING_RATE,
      momentum=workload.MOMENTUM,
      weight_decay=workload.WEIGHT_DECAY,
    )
    self._autocast = work.dtype == "bfloat16"

  def _loss(self):
    with torch.autocast(
      self._device.type, torch.bfloat16, enabled=self._autocast
    ):
      return F.cross_entropy(self._model(self._images), self._labels)

  def loss(self) -> float:
    """The loss on the batch, as training sees it."""
    return self._loss().item()

  def run(self, steps: int) -> int:
    """Makes so many steps and waits for the last."""
    for _ in range(steps):
      self._optimizer.zero_grad(set_to_none=True)
      self._loss().backward()
      self._optimizer.step()
    if self._device.type == "cuda":
      torch.cuda.synchronize()
    return steps

  def describe(self) -> dict:
    """What was measured on, in plain values."""
    gpu = self._device.type == "cuda"
    return {
      "torch": torch.__version__,
      "device": torch.cuda.get_device_name() if gpu else "cpu",
      "threads": torch.get_num_threads(),
      "channels_last": self._layout is torch.channels_last,
      "autocast": "bfloat16" if self._autocast else None,
      "peak_bytes": torch.cuda.max_memory_allocated() if gpu else None,
    }
