"""Times the forms of a binary convolution that `products` chooses from.

  python -m benchmarks.convolution_forms
  python -m benchmarks.convolution_forms --layers=128x32x16,128x32x16/2

Forward and both gradients of a 3x3 convolution, as XLA's convolution and in the
forms that a CPU gets: on packed bits, which are popcount, and matrix products
with unpacked patches for the kernel's gradient; both gradients in tiles
(Winograd's); and on packed bits with the input's gradient apart, by remainders
of the stride. Forward packs its bits inside what is measured. A layer is
BATCHxSIZExCHANNELS, with as many output channels as input channels, or with a
/STRIDE, so many times as many of them.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks import arguments, report, timing, workers

_LAYERS = (
  "128x32x16,128x32x16/2,128x16x32,128x16x32/2,128x8x64,"
  "32x32x64,32x32x64/2,32x16x128,32x16x128/2,32x8x256,32x8x256/2,32x4x512"
)
_PARTS = ("forward", "gradients")
# Beside XLA's convolution, where a part has them.
_FORMS = ("packed", "tiles", "apart")


class Layer(NamedTuple):
  """Shape of a convolution's input, and its stride."""

  batch: int
  size: int
  channels: int
  stride: int = 1

  @property
  def outputs(self) -> int:
    """Output channels."""
    return self.channels * self.stride


def layers(text: str) -> list[Layer]:
  """Comma-separated BATCHxSIZExCHANNELS or BATCHxSIZExCHANNELS/STRIDE."""

  def layer(part: str) -> Layer:
    shape, *stride = part.split("/")
    batch, size, channels = map(arguments.count, shape.split("x"))
    return Layer(batch, size, channels, *map(arguments.count, stride))

  try:
    return [layer(part) for part in text.split(",")]
  except (TypeError, ValueError, argparse.ArgumentTypeError):
    raise argparse.ArgumentTypeError(
      f"{text!r} is no list of BATCHxSIZExCHANNELS such as 128x32x16 or "
      "128x32x16/2"
    ) from None


class Forms:
  """Measures in the process it is in."""

  def measure(self, layer: Layer, rounds: int, seconds: float) -> list[dict]:
    """A row for each part of a training step on this layer."""
    import jax

    rows = []
    for part, forms in _parts(layer).items():
      turns = {name: _turn(form) for name, form in forms.items()}
      times = timing.alternate(
        turns.pop("xla"), turns, rounds=rounds, seconds=seconds
      )
      row = {**layer._asdict(), "part": part}
      row |= {"device": jax.devices()[0].device_kind}
      row["xla_seconds"] = timing.summary(times.base)
      for name, triples in times.others.items():
        row[f"{name}_seconds"] = timing.summary([t.other for t in triples])
        row[f"{name}_over_xla"] = timing.ratio(triples)
      rows.append(row)
    return rows


def _parts(layer: Layer) -> dict[str, dict[str, Callable[[], Any]]]:
  """The forms of each part of a training step, compiled when first called."""
  import jax
  import jax.numpy as jnp

  from ovsw_jax import products, sign
  from ovsw_jax.products import _packed, _tiling, _winograd, _xla

  strides = (layer.stride, layer.stride)
  geometry = products.ConvGeometry(strides, padding=((1, 1), (1, 1)))
  shape = (layer.batch, layer.size, layer.size, layer.channels)
  kernel_shape = (3, 3, layer.channels, layer.outputs)
  keys = jax.random.split(jax.random.key(0), 3)
  bits = sign.hard_sign(jax.random.normal(keys[0], shape))
  kernel = sign.hard_sign(jax.random.normal(keys[1], kernel_shape))
  side = -(-layer.size // layer.stride)
  gradient = jax.random.normal(
    keys[2], (layer.batch, side, side, layer.outputs)
  )
  packed = products.pack_bits(bits)

  def counted(bits, kernel):
    sums = _packed.convolve(products.pack_bits(bits), kernel, geometry)
    return sums.astype(jnp.float32)

  options = {"input_shape": shape, "geometry": geometry}

  def xla(gradient, packed, kernel):
    unpacked = products.unpack_bits(packed, layer.channels, jnp.float32)
    to_input = _xla.input_gradient(gradient, kernel, **options)
    return to_input, _xla.kernel_gradient(
      gradient, unpacked, kernel_shape, geometry
    )

  def patches(gradient, packed, kernel, of_input=_xla.input_gradient):
    return of_input(gradient, kernel, **options), _packed.kernel_gradient(
      gradient, packed, shape, kernel_shape, geometry
    )

  apart = functools.partial(patches, of_input=_xla.strided_input_gradient)

  def tiles(gradient, packed, kernel):
    return _winograd.gradients(gradient, packed, kernel, geometry, tiling)

  def form(function, *operands):
    return functools.partial(jax.jit(function), *operands)

  xla_forward = functools.partial(
    _xla.convolve, geometry=geometry, dtype=jnp.float32
  )
  forward = {
    "xla": form(xla_forward, bits, kernel),
    "packed": form(counted, bits, kernel),
  }
  forms = {"xla": xla, "packed": patches}
  tiling = _tiling.choose(shape[1:3], layer.batch, kernel_shape, geometry)
  if tiling:
    forms["tiles"] = tiles
  if layer.stride > 1:
    forms["apart"] = apart
  gradients = {
    name: form(function, gradient, packed, kernel)
    for name, function in forms.items()
  }
  return dict(zip(_PARTS, (forward, gradients), strict=True))


def _turn(form: Callable[[], Any]) -> timing.Turn:
  import jax

  def run(steps: int) -> int:
    jax.block_until_ready([form() for _ in range(steps)])
    return steps

  return functools.partial(timing.measure, run)


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a layer and part."""
  header = ["batch, size, width / stride", "part", "XLA, ms"]
  for name in _FORMS:
    header += [f"{name}, ms", "ratio"]
  rows = []
  for row in content["rows"]:
    cells = [
      f"{row['batch']}, {row['size']}x{row['size']}, {row['channels']}"
      + (f" / {row['stride']}" if row["stride"] > 1 else ""),
      row["part"],
      report.milliseconds(row["xla_seconds"]),
    ]
    for name in _FORMS:
      if f"{name}_seconds" in row:
        cells += [
          report.milliseconds(row[f"{name}_seconds"]),
          report.times(row[f"{name}_over_xla"]),
        ]
      else:
        cells += ["", ""]
    rows.append(cells)
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("convolution_forms", __doc__)
  parser.add_argument(
    "--layers",
    type=layers,
    default=_LAYERS,
    help="comma-separated BATCHxSIZExCHANNELS, or with /STRIDE (default: "
    "%(default)s)",
  )
  parser.add_argument(
    "--smoke",
    action="store_true",
    help="tiny layers, to see that it works here; numbers that mean nothing",
  )
  arguments.add_rounds(parser, 15)
  arguments.add_process(parser)
  arguments.add_out(parser, "convolution_forms")
  chosen = parser.parse_args(argv)
  if chosen.smoke:
    chosen.layers, chosen.rounds = [Layer(128, 4, 8), Layer(2, 5, 8, 2)], 2
  return chosen


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  rows = []
  with workers.Worker(
    "benchmarks.convolution_forms:Forms",
    {},
    threads=chosen.threads,
    allocator=chosen.allocator,
  ) as worker:
    for layer in chosen.layers:
      rows += worker.call("measure", layer, chosen.rounds, 0.02)
  content = report.make("convolution_forms", chosen, rows, rows[0]["device"])
  report.show(content, table)


if __name__ == "__main__":
  arguments.start(main)
