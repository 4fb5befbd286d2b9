"""Where XLA puts a step's temporaries in the memory that they share.

  python -m benchmarks.layout
  python -m benchmarks.layout --models=cifar_resnet18 --batches=32
  python -m benchmarks.layout --smoke

XLA plans that memory twice, in the order of the temporaries' sizes and in that
of their lives, and keeps the plan that needs less. By size, large ones begin a
whole number of pages apart, by life anywhere. On a CPU that tells, likely since
a kernel that reads what lies a few cache lines before what it writes, modulo a
page, waits for stores to other addresses (4K aliasing). So of two steps with
the same kernels one takes a few percent longer, and which of them is chance.
Look here before believing `optimizer_cost`. `in whole pages` is the share of
large temporaries that begin so many; compiles, and measures no time.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import arguments, optimizer_cost, programs, report
from benchmarks.workload import Workload

_PAGE = 4096
_LARGE = 2**16  # Bytes; kernels on fewer take no time.

# Fields of XLA's BufferAssignmentProto and of the messages in it.
_ALLOCATIONS = 3
_SIZE, _ASSIGNED = 2, 9
_NO_TEMPORARIES = {3, 5, 7, 12}  # thread-local, parameter, result, constant
_OFFSET, _BYTES = 2, 3


class Layout(NamedTuple):
  """The largest piece of memory for temporaries."""

  size: int  # bytes
  pieces: list[tuple[int, int]]  # offset and bytes of each temporary

  @property
  def in_pages(self) -> float:
    """The share of the large temporaries that begin at a whole page."""
    offsets = [offset for offset, size in self.pieces if size >= _LARGE]
    if not offsets:
      return 1.0
    return sum(offset % _PAGE == 0 for offset in offsets) / len(offsets)


def of(compiled: Any) -> Layout:
  """The layout of a program, a `jax.stages.Compiled`; empty without any."""
  assignment = compiled.memory_analysis().serialized_buffer_assignment_proto
  found = []
  for number, allocation in _fields(assignment):
    if number != _ALLOCATIONS:
      continue
    fields = list(_fields(allocation))
    if any(value for number, value in fields if number in _NO_TEMPORARIES):
      continue
    size = next((value for number, value in fields if number == _SIZE), 0)
    assigned = [
      dict(_fields(value)) for number, value in fields if number == _ASSIGNED
    ]
    pieces = [(one.get(_OFFSET, 0), one.get(_BYTES, 0)) for one in assigned]
    found.append(Layout(size, pieces))
  return max(found, key=lambda layout: layout.size, default=Layout(0, []))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
  """Numbers and values of a protocol buffer's fields, in their order."""
  at = 0

  def varint() -> int:
    nonlocal at
    value = shift = 0
    while True:
      byte = message[at]
      at += 1
      value |= (byte & 127) << shift
      shift += 7
      if byte < 128:
        return value

  while at < len(message):
    key = varint()
    number, kind = key >> 3, key & 7
    if kind == 0:
      yield number, varint()
      continue
    size = {1: 8, 5: 4}.get(kind) or varint()
    yield number, message[at : at + size]
    at += size


class Compiled:
  """Compiles in the process it is in."""

  def measure(self, work: Workload, variant: str) -> dict[str, Any]:
    """The layout of a step with an optimizer."""
    from benchmarks import jax_step

    made = optimizer_cost.recipe(work, variant)
    step = jax_step.JaxStep(work, made, chunk=1)
    found = of(step.compiled())
    return {
      **work._asdict(),
      "image_size": work.side,
      "variant": variant,
      "device": step.describe()["device"],
      "temporary_bytes": found.size,
      "in_whole_pages": found.in_pages,
    }


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a workload and optimizer."""
  header = ["model", "batch", "precision", "optimizer", "MB", "in whole pages"]
  rows = [
    [
      row["network"],
      str(row["batch"]),
      row["dtype"],
      row["variant"],
      f"{row['temporary_bytes'] / 1e6:.1f}",
      f"{row['in_whole_pages']:.0%}",
    ]
    for row in content["rows"]
  ]
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list]:
  """The arguments, checked, and the workloads."""
  return programs.parse(
    "layout", __doc__, argv, variants="sgd,ovsw+flips/compact"
  )


def main(argv: Sequence[str] | None = None) -> None:
  chosen, work = parse(argv)
  rows = programs.measured("benchmarks.layout:Compiled", work, chosen.variants)
  report.show(report.make("layout", chosen, rows, rows[0]["device"]), table)


if __name__ == "__main__":
  arguments.start(main)
