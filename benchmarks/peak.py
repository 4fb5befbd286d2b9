"""Measures the peak of a device: FLOP/s of large matrix products.

  python -m benchmarks.peak
  python -m benchmarks.peak --dtypes=bfloat16 --sizes=8192,16384

The figure that achieved FLOP/s are compared with. A chain of products of square
matrices runs in one dispatch; the best size counts, at the median of its runs.
`float32` is JAX's default precision, which on recent GPUs and TPUs is less than
float32 inside; `float32_highest` asks for all of it.
"""

import argparse
import functools
import math
from collections.abc import Sequence
from typing import Any

from benchmarks import arguments, report, timing, workers

DTYPES = ("bfloat16", "float32", "float32_highest")
_SIZES = {"cpu": [1024, 2048]}
_SIZES_ELSEWHERE = [4096, 8192, 16384]


class Product:
  """A chain of products of two square matrices."""

  def __init__(self, dtype: str, size: int, length: int):
    import jax
    import jax.numpy as jnp

    name, _, precision = dtype.partition("_")
    left, right = jax.random.normal(jax.random.key(0), (2, size, size))
    self._left = left.astype(name)
    self._right = (right / math.sqrt(size)).astype(name)
    self._length = length

    @jax.jit
    def chain(left, right):
      step = lambda _, x: jnp.matmul(x, right, precision=precision or None)
      return jax.lax.fori_loop(0, length, step, left)

    self._run = functools.partial(chain, self._left, self._right)

  def run(self, count: int) -> int:
    """Makes at least `count` products; waits for the last."""
    import jax

    chains = -(-count // self._length)
    jax.block_until_ready([self._run() for _ in range(chains)][-1])
    return chains * self._length


class Peak:
  """Measures in the process it is in."""

  def measure(
    self, dtype: str, sizes: Sequence[int] | None, rounds: int, seconds: float
  ) -> dict[str, Any]:
    """FLOP/s of the best size, and of all."""
    import jax

    device = jax.devices()[0]
    by_size = {}
    for size in sizes or _SIZES.get(device.platform, _SIZES_ELSEWHERE):
      product = Product(dtype, size, length=10)
      turn = functools.partial(timing.measure, product.run)
      times = timing.alternate(turn, {}, rounds=rounds, seconds=seconds)
      median = timing.summary(times.base)["median"]
      by_size[str(size)] = 2 * size**3 / median
    return {
      "dtype": dtype,
      "flops_per_second": max(by_size.values()),
      "by_size": by_size,
      "device": device.device_kind,
    }


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a precision."""
  rows = [
    [
      row["dtype"],
      f"{row['flops_per_second'] / 1e12:.3g}",
      max(row["by_size"], key=row["by_size"].get),
    ]
    for row in content["rows"]
  ]
  return report.markdown(["matrix product", "TFLOP/s", "size"], rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("peak", __doc__)
  parser.add_argument(
    "--dtypes",
    type=arguments.names(DTYPES),
    default=",".join(DTYPES),
    metavar="NAMES",
    help="comma-separated (default: %(default)s)",
  )
  parser.add_argument(
    "--sizes",
    type=arguments.counts,
    help="sides of the matrices (default: 1024,2048 on a CPU, "
    "4096,8192,16384 elsewhere)",
  )
  parser.add_argument("--smoke", action="store_true", help="tiny matrices")
  arguments.add_rounds(parser, 10)
  arguments.add_process(parser)
  arguments.add_out(parser, "peak")
  chosen = parser.parse_args(argv)
  if chosen.smoke:
    chosen.sizes, chosen.rounds = [64], 2
  return chosen


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  show = report.Progress()
  rows = []
  with workers.Worker(
    "benchmarks.peak:Peak",
    {},
    threads=chosen.threads,
    allocator=chosen.allocator,
  ) as worker:
    for dtype in chosen.dtypes:
      show(f"multiplying in {dtype}")
      seconds = 0.0 if chosen.smoke else 0.2
      rows.append(
        worker.call("measure", dtype, chosen.sizes, chosen.rounds, seconds)
      )
  show.clear()
  report.show(report.make("peak", chosen, rows, rows[0]["device"]), table)


if __name__ == "__main__":
  arguments.start(main)
