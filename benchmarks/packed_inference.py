"""Times packed inference against float32: layer by layer, and whole networks.

  python -m benchmarks.packed_inference
  python -m benchmarks.packed_inference --threads=1 --networks=

A layer takes float activations, makes bits of them and convolves, as each does
in a network; with `packed` the kernel is packed beforehand. The base, `xla`, is
the same with bits as float32 in XLA's convolution. A network is what
`ovsw_jax.deploy` runs, at random weights; `torch` is `torch_peer` in
evaluation, `onnx` the exported network in onnxruntime, both in float32. Ratios
are the base's time over the contestant's.

What bounds a packed layer stands beside it: `pack` is making and packing the
bits alone, `call` an empty call from Python, which each inference is as well,
and `Gop/s` what is left of the layer after both, in multiplications and
additions: a core's limit there is how many words it counts in a second.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks import arguments, machine, report, timing, workers
from benchmarks.workload import NETWORKS

_LAYERS = "56x64,28x128,14x256,7x512"
CONTESTANTS = ("packed", "torch", "onnx")
_PART_ROUNDS = 9


class Work(NamedTuple):
  """A network, or a convolution of as many output as input channels."""

  batch: int
  network: str | None = None
  size: int = 0
  channels: int = 0
  kernel: int = 0


def layers(text: str) -> list[tuple[int, int]]:
  """Comma-separated SIZExCHANNELS."""
  try:
    pairs = [tuple(map(arguments.count, p.split("x"))) for p in text.split(",")]
    return [(size, channels) for size, channels in pairs]
  except (ValueError, argparse.ArgumentTypeError):
    raise argparse.ArgumentTypeError(
      f"{text!r} is no list of SIZExCHANNELS such as 56x64"
    ) from None


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
    return {
      name: min(_seconds(form, images) for _ in range(_PART_ROUNDS))
      for name, form in (("pack", pack), ("call", empty))
    }

  def run(self, steps: int) -> int:
    """Makes so many inferences, one after another."""
    for _ in range(steps):
      self._run()
    return steps


def _seconds(form: Callable, images: Any, calls: int = 20) -> float:
  import jax

  jax.block_until_ready(form(images))
  began = time.perf_counter()
  for _ in range(calls):
    jax.block_until_ready(form(images))
  return (time.perf_counter() - began) / calls


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


def measure(
  work: Sequence[Work], chosen: argparse.Namespace
) -> tuple[list[dict[str, Any]], str]:
  """A row for each piece of work, and the device."""
  open_, rows, device = {}, [], ""
  say = report.Progress()
  try:
    for kind in ("xla", *chosen.contestants):
      open_[kind] = workers.Worker(
        "benchmarks.packed_inference:Contestant",
        {"kind": kind},
        threads=chosen.threads,
        allocator=chosen.allocator,
      ).__enter__()
    for item in work:
      say(f"{item}")
      here = {
        kind: worker
        for kind, worker in open_.items()
        if not (kind == "onnx" and item.network is None)
      }
      facts = {kind: w.call("prepare", item) for kind, w in here.items()}
      device = facts["xla"]["device"]
      times = timing.alternate(
        here["xla"].time,
        {kind: w.time for kind, w in here.items() if kind != "xla"},
        rounds=chosen.rounds,
        seconds=chosen.turn_seconds,
      )
      row = {**item._asdict(), "facts": facts}
      row["xla_seconds"] = timing.summary(times.base)
      for kind, triples in times.others.items():
        row[f"{kind}_seconds"] = timing.summary([t.other for t in triples])
        row[f"{kind}_speedup"] = timing.ratio(triples, of_base=True)
      if item.network is None and "packed" in here:
        row["parts"] = here["packed"].call("parts", item)
      rows.append(row)
  finally:
    say.clear()
    for worker in open_.values():
      worker.close()
  return rows, device


def _bounds(row: dict[str, Any]) -> list[str]:
  """Cells of what bounds a packed layer; empty for what is none."""
  if "parts" not in row:
    return ["", "", ""]
  pack, call = row["parts"]["pack"], row["parts"]["call"]
  operations = 2 * row["batch"] * row["size"] ** 2
  operations *= row["channels"] ** 2 * row["kernel"] ** 2
  left = row["packed_seconds"]["median"] - max(pack, call)
  rate = f"{operations / left / 1e9:,.0f}" if left > 0 else ""
  return [f"{1e3 * pack:.3f}", f"{1e3 * call:.3f}", rate]


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a piece of work."""
  kinds = content["settings"]["contestants"]
  header = ["work", "XLA, ms"]
  for kind in kinds:
    header += [f"{kind}, ms", "faster"]
  parts = any("parts" in row for row in content["rows"])
  if parts:
    header += ["pack, ms", "call, ms", "Gop/s"]
  rows = []
  for row in content["rows"]:
    if row["network"] is not None:
      label = f"{row['network']}, batch {row['batch']}"
    else:
      label = (
        f"{row['channels']}@{row['size']}, {row['kernel']}x{row['kernel']}, "
        f"batch {row['batch']}"
      )
    cells = [label, report.milliseconds(row["xla_seconds"])]
    for kind in kinds:
      known = f"{kind}_seconds" in row
      cells += (
        [
          report.milliseconds(row[f"{kind}_seconds"]),
          report.times(row[f"{kind}_speedup"], digits=1),
        ]
        if known
        else ["", ""]
      )
    if parts:
      cells += _bounds(row)
    rows.append(cells)
  lines = [report.markdown(header, rows)]
  for row in content["rows"]:
    if row["network"] is not None:
      sizes = {k: row["facts"][k]["weight_bytes"] for k in ("xla", "packed")}
      lines.append(
        f"{row['network']}: {sizes['packed'] / 1e6:.2f} MB of weights packed, "
        f"{sizes['xla'] / 1e6:.2f} MB as float32."
      )
  return "\n\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("packed_inference", __doc__)
  parser.add_argument(
    "--layers",
    type=lambda text: layers(text) if text else [],
    default=_LAYERS,
    metavar="SIZExCHANNELS",
    help="comma-separated; empty for none (default: %(default)s)",
  )
  parser.add_argument(
    "--kernels",
    type=arguments.counts,
    default="3,1",
    metavar="SIZES",
    help="kernel sizes of the layers (default: %(default)s)",
  )
  parser.add_argument(
    "--batches",
    type=arguments.counts,
    default="1,8",
    metavar="SIZES",
    help="batch sizes of the layers (default: %(default)s)",
  )
  parser.add_argument(
    "--networks",
    type=arguments.names(NETWORKS),
    default="resnet18",
    metavar="NAMES",
    help=f"comma-separated, at batch 1: {', '.join(NETWORKS)} "
    "(default: %(default)s)",
  )
  installed = [k for k in ("torch",) if machine.version(k) is not None]
  parser.add_argument(
    "--contestants",
    type=arguments.names(CONTESTANTS),
    default=",".join(["packed", *installed]),
    metavar="NAMES",
    help=f"comma-separated: {', '.join(CONTESTANTS)} (default: %(default)s)",
  )
  parser.add_argument(
    "--turn-seconds",
    type=arguments.seconds,
    default=0.03,
    help="a turn makes so many inferences that the base takes about as long "
    "(default: %(default)s)",
  )
  parser.add_argument(
    "--smoke",
    action="store_true",
    help="a tiny layer, to see that it works here; numbers that mean nothing",
  )
  arguments.add_rounds(parser, 9)
  arguments.add_process(parser)
  arguments.add_out(parser, "packed_inference")
  chosen = parser.parse_args(argv)
  if chosen.smoke:
    chosen.layers, chosen.kernels, chosen.batches = [(4, 8)], [3], [1]
    chosen.networks, chosen.rounds = [], 2
    chosen.contestants = ["packed"]
  return chosen


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  work: list[Work] = [
    Work(batch, None, size, channels, kernel)
    for size, channels in chosen.layers
    for kernel in chosen.kernels
    for batch in chosen.batches
  ]
  work += [Work(1, name) for name in chosen.networks]
  rows, device = measure(work, chosen)
  report.show(report.make("packed_inference", chosen, rows, device), table)


if __name__ == "__main__":
  arguments.start(main)
