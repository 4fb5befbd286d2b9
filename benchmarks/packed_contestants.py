"""What `packed_inference` times: a layer or network, by one of the forms."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import machine, timing
from benchmarks.workload import NETWORKS

_PART_ROUNDS, _PART_CALLS = 9, 20


class Work(NamedTuple):
  """A network, or a convolution of as many output as input channels."""

  batch: int
  network: str | None = None
  size: int = 0
  channels: int = 0
  kernel: int = 0


class Contestant:
  """Runs a piece of work in the process it is in, by one of the forms."""

  def __init__(self, kind: str):
    self._make = {
      "xla": functools.partial(_jax, real=True),
      "packed": functools.partial(_jax, real=False),
      "torch": _torch,
      "onnx": _onnx,
    }[kind]
    self._run: Callable[[], Any] = lambda: None
    if kind == "torch":
      import torch  # pyrefly: ignore[missing-import]

      torch.set_num_threads(machine.cores())

  def prepare(self, work: Work) -> dict[str, Any]:
    """Builds what `run` runs; says what it is made of."""
    self._run, facts = self._make(work)
    return facts

  def parts(self, work: Work) -> dict[str, float]:
    """Seconds of packing alone and of an empty call."""
    import jax

    from ovsw_jax import sign
    from ovsw_jax.products import _packed

    shape = (work.batch, work.size, work.size, work.channels)
    images = jax.random.normal(jax.random.key(0), shape)
    pack = jax.jit(lambda x: _packed.pack(sign.hard_sign(x)))
    empty = jax.jit(lambda x: x[:1, :1, :1, :1])
    found = {}
    for name, form in (("pack", pack), ("call", empty)):
      run = functools.partial(_calls, functools.partial(form, images))
      run(1)  # compiles
      rounds = range(_PART_ROUNDS)
      found[name] = min(timing.measure(run, _PART_CALLS) for _ in rounds)
    return found

  def run(self, steps: int) -> int:
    """Makes so many inferences, one after another."""
    for _ in range(steps):
      self._run()
    return steps


def _calls(form: Callable[[], Any], steps: int) -> int:
  import jax

  for _ in range(steps):
    jax.block_until_ready(form())
  return steps


@functools.cache
def _packed(name: str):
  """A network of random weights, packed."""
  import jax
  import numpy as np

  from ovsw_jax import deploy, models

  side, classes = NETWORKS[name]
  model = models.make(name, num_classes=classes)
  shapes = jax.eval_shape(
    functools.partial(model.init, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, side, side, 3), np.float32),
  )
  rng = np.random.default_rng(0)

  def random(path, leaf):
    normal = rng.normal(size=leaf.shape).astype(np.float32)
    if path[-1].key == "kernel":  # of a trained kernel's size
      normal /= np.sqrt(normal[..., 0].size)
    return np.abs(normal) + 0.5 if path[-1].key in ("scale", "var") else normal

  variables = jax.tree_util.tree_map_with_path(random, shapes)
  return deploy.pack(model, variables, image_shape=(side, side, 3))


def _jax(work: Work, *, real: bool) -> tuple[Callable[[], Any], dict]:
  import jax
  import jax.numpy as jnp

  from ovsw_jax import products
  from ovsw_jax.deploy import _layers

  key = jax.random.key(0)
  if work.network is None:
    module = _layers.PackedConv(work.channels, work.kernel, real=real)
    shape = (work.batch, work.size, work.size, work.channels)
    kernel = jax.random.normal(key, (work.kernel, work.kernel, *shape[-1:] * 2))
    bits = jnp.where(kernel >= 0, 1.0, -1.0)
    variables: Any = {"params": {"words": products.pack_kernel(bits)}}
    bytes_ = bits.nbytes if real else bits.size // 8
  else:
    packed = _packed(work.network)
    shape = (work.batch, *packed.image_shape)
    module = packed.description.module(real=real)
    variables = packed.variables
    words = sum(
      leaf.nbytes
      for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
      if path[-1].key == "words"
    )
    bytes_ = packed.nbytes + (31 * words if real else 0)
  images = jax.random.normal(key, shape)
  function = jax.jit(lambda images: module.apply(variables, images))
  compiled = function.lower(images).compile()
  memory = compiled.memory_analysis()
  facts = {
    "device": jax.devices()[0].device_kind,
    "weight_bytes": bytes_,
    "temporary_bytes": memory.temp_size_in_bytes if memory else None,
  }
  return lambda: jax.block_until_ready(compiled(images)), facts


def _torch(work: Work) -> tuple[Callable[[], Any], dict]:
  import torch  # pyrefly: ignore[missing-import]

  from benchmarks import torch_peer

  torch.manual_seed(0)
  if work.network is None:
    channels, size = work.channels, work.size
    kernel = torch.randn(channels, channels, work.kernel, work.kernel).sign()
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    module = lambda x: torch.nn.functional.conv2d(
      x.sign(), kernel, padding=work.kernel // 2
    )
  else:
    (size, classes), channels = NETWORKS[work.network], 3
    module = torch_peer.make(work.network, classes, size).eval()
    for part in module.modules():
      if isinstance(part, torch_peer.BinaryConv2d):
        _freeze(part)
    module = module.to(memory_format=torch.channels_last)
  images = torch.randn(work.batch, channels, size, size)
  images = images.contiguous(memory_format=torch.channels_last)

  def run():
    with torch.inference_mode():
      return module(images)

  return run, {}


def _freeze(conv: Any) -> None:
  """Takes the weight's sign and scale once, and not in every forward pass."""
  import torch  # pyrefly: ignore[missing-import]

  with torch.no_grad():
    latent = conv.weight
    bits = latent.sign().contiguous(memory_format=torch.channels_last)
    centred = latent - latent.mean(dim=(1, 2, 3), keepdim=True)
    deviation = torch.sqrt(centred.var(dim=(1, 2, 3)) + 1e-5)
    scale = (centred.abs().mean(dim=(1, 2, 3)) / deviation).reshape(1, -1, 1, 1)
  conv.forward = lambda x: (
    scale
    * torch.nn.functional.conv2d(
      x.sign(), bits, None, conv.stride, conv.padding
    )
  )


def _onnx(work: Work) -> tuple[Callable[[], Any], dict]:
  import numpy as np
  import onnxruntime  # pyrefly: ignore[missing-import]

  from ovsw_jax import deploy

  if work.network is None:
    raise ValueError("onnxruntime runs whole networks: pass --layers=")
  packed = _packed(work.network)
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = machine.cores()
  session = onnxruntime.InferenceSession(deploy.to_onnx(packed), options)
  images = np.zeros((work.batch, *packed.image_shape), np.uint8)
  return lambda: session.run(None, {"images": images}), {}
