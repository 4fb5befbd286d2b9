"""Memory of a training step: what backward keeps, and the peak.

  python -m benchmarks.memory
  python -m benchmarks.memory --models=resnet18 --batches=256 \\
    --peers=torch,linen
  python -m benchmarks.memory --smoke

`kept` is what differentiation keeps of the forward pass for the backward pass,
each array once, parameters and images aside, as JAX traces it, before XLA
fuses, drops or recomputes anything: of a binary layer's activations ours keeps
packed bits, eight to a byte, where plain linen keeps floats. `buffers` is XLA's
own figure of the compiled step: its temporary buffers. On a GPU the peak that
the allocator saw over a few steps stands beside it, PyTorch's too.
"""

import argparse
import collections
from collections.abc import Sequence
from typing import Any

from benchmarks import arguments, contestants, report, workers
from benchmarks.workload import Workload


class Footprint:
  """A JAX step's memory; to be made in a process of its own."""

  def __init__(self, work: Workload, form: str):
    from benchmarks import jax_step

    self._step = jax_step.build(work, form=form, chunk=1)

  def measure(self) -> dict[str, Any]:
    """Bytes by what they are for."""
    analysis = self._step.compiled().memory_analysis()
    self._step.run(3)
    kept = self._step.kept_for_backward()
    return {
      "kept_bytes": kept,
      "temporary_bytes": analysis.temp_size_in_bytes,
      "argument_bytes": analysis.argument_size_in_bytes,
      "donated_bytes": analysis.alias_size_in_bytes,
      **self._step.describe(),
    }


def measure(work: Workload, chosen: argparse.Namespace) -> dict[str, Any]:
  """One row: ours and the peers on one workload."""
  found = {}
  for form in ("ours", *(p for p in chosen.peers if p != "torch")):
    with workers.Worker(
      "benchmarks.memory:Footprint", {"work": work, "form": form}
    ) as worker:
      found[form] = worker.call("measure")
  if "torch" in chosen.peers:
    with contestants.torch_worker(work, found["ours"]["platform"]) as worker:
      worker.call("run", 3)
      found["torch"] = worker.call("describe")
  return {**work._asdict(), "image_size": work.side, "contestants": found}


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a workload and contestant, in MiB."""
  header = [
    "model",
    "batch",
    "precision",
    "form",
    "kept as bits, MiB",
    "kept otherwise",
    "buffers",
    "peak",
  ]

  def size(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:,.1f}"

  rows = []
  for row in content["rows"]:
    for name, found in row["contestants"].items():
      kept = collections.Counter(found.get("kept_bytes") or {})
      bits = sum(kept.pop(name) for name in list(kept) if "uint" in name)
      known = "kept_bytes" in found
      rows.append(
        [
          row["network"],
          str(row["batch"]),
          row["dtype"],
          name,
          size(bits) if known else "",
          size(sum(kept.values())) if known else "",
          size(found.get("temporary_bytes")),
          size(found["peak_bytes"]),
        ]
      )
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list]:
  """The arguments, checked, and the workloads."""
  parser = arguments.parser("memory", __doc__)
  arguments.add_workloads(parser)
  parser.add_argument(
    "--peers",
    type=arguments.names(contestants.PEERS),
    default="linen",
    metavar="NAMES",
    help="comma-separated out of torch (of use on a GPU alone) and linen, or "
    "empty (default: %(default)s)",
  )
  arguments.add_out(parser, "memory")
  chosen = parser.parse_args(argv)
  contestants.check_torch(chosen.peers)
  return chosen, arguments.workloads(parser, chosen)


def main(argv: Sequence[str] | None = None) -> None:
  chosen, work = parse(argv)
  rows = []
  for index, item in enumerate(work, start=1):
    show = report.Progress(f"[{index}/{len(work)}] ")
    show(f"{item.network}, batch {item.batch}, {item.dtype}")
    rows.append(measure(item, chosen))
    show.clear()
  device = rows[0]["contestants"]["ours"]["device"]
  report.show(report.make("memory", chosen, rows, device), table)


if __name__ == "__main__":
  arguments.start(main)
