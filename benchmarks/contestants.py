"""The contestants of a comparison, each started in a process of its own."""

import importlib.util
from typing import Any

from benchmarks import machine, workers
from benchmarks.workload import Workload

PEERS = ("torch", "linen")
_TORCH_DEVICES = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda"}


def check_torch(peers: list[str]) -> None:
  """Raises ValueError, with the remedy, if a peer needs PyTorch in vain."""
  if "torch" in peers and importlib.util.find_spec("torch") is None:
    raise ValueError(
      "the peer `torch` needs PyTorch: pip install torch, or leave it out of "
      "--peers"
    )


def jax_worker(
  work: Workload,
  *,
  threads: int | None = None,
  allocator: str = "tuned",
  **options: Any,
) -> workers.Worker:
  """Starts a step of ours or of plain linen; see `jax_step.build`."""
  return workers.Worker(
    "benchmarks.jax_step:build",
    {"work": work, **options},
    threads=threads,
    allocator=allocator,
  )


def torch_worker(
  work: Workload,
  platform: str,
  *,
  threads: int | None = None,
  allocator: str = "tuned",
  channels_last: bool = True,
) -> workers.Worker:
  """Starts a step of the PyTorch peer on JAX's platform.

  Channels-last is the default everywhere: it was a little faster on a CPU, too.

  Raises:
    ValueError: if PyTorch has no such platform.
  """
  if platform not in _TORCH_DEVICES:
    raise ValueError(
      f"there is no PyTorch peer on {platform!r}; leave it out of --peers"
    )
  return workers.Worker(
    "benchmarks.torch_step:TorchStep",
    {
      "work": work,
      "device": _TORCH_DEVICES[platform],
      "channels_last": channels_last,
      "threads": threads or machine.cores(),
    },
    threads=threads,
    allocator=allocator,
  )
