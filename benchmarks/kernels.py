"""Where a step's time goes: the device's kernels by time, from a trace.

  python -m benchmarks.kernels --models=cifar_resnet20 --batches=256
  python -m benchmarks.kernels --models=resnet18 --batches=256 --dtypes=bfloat16
  python -m benchmarks.kernels --smoke

Traces steps of ours with JAX's profiler and adds up what ran on the device, by
kernel: on a GPU its streams' kernels, on a CPU the thunks of XLA's threads, of
which several run at a time. `of a step` is the share of the time of all of
them; `busy` is how much of the steps' wall time they cover on a GPU.
"""

import argparse
import collections
import gzip
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import arguments, jax_step, report, workers
from benchmarks.workload import Workload

_STEPS = 50


class Traced:
  """Traces in the process it is in."""

  def measure(self, work: Workload, method: str, chunk: int | None) -> dict:
    """Milliseconds and calls a step of each kernel, and of the whole step."""
    import jax

    step = jax_step.build(work, method=method, chunk=chunk)
    step.run(_STEPS)  # compiles, and warms up
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's calls, which cost CPU steps time
    with tempfile.TemporaryDirectory() as place:
      with jax.profiler.trace(place, profiler_options=options):
        began = time.perf_counter()
        made = step.run(_STEPS)
        wall = time.perf_counter() - began
      found = kernels(pathlib.Path(place))
    described = step.describe()
    return {
      **work._asdict(),
      "image_size": work.side,
      "method": method,
      "device": described["device"],
      "chunk": described["chunk"],
      "milliseconds": 1e3 * wall / made,
      "kernels": [
        {
          "name": name,
          "milliseconds": 1e-3 * microseconds / made,
          "calls": calls / made,
        }
        for name, (microseconds, calls) in found
      ],
    }


def kernels(place: pathlib.Path) -> list[tuple[str, tuple[float, int]]]:
  """(name, (microseconds, calls)) of a trace, the longest first.

  Raises:
    ValueError: if the trace has no event of a device.
  """
  events = []
  for path in place.rglob("*.trace.json.gz"):
    with gzip.open(path, "rt") as file:
      events += json.load(file)["traceEvents"]
  process, thread = {}, {}
  for event in events:
    if event.get("name") == "process_name":
      process[event["pid"]] = event["args"]["name"]
    elif event.get("name") == "thread_name":
      thread[event["pid"], event["tid"]] = event["args"]["name"]

  def of_device(event: dict[str, Any]) -> bool:
    if event.get("ph") != "X":
      return False
    lane = thread.get((event["pid"], event["tid"]), "")
    if "/device:" in process.get(event["pid"], ""):
      return "Stream" in lane or not lane
    # Thunks' names have no `::` of what drives them, and no `end: `.
    return "XLA" in lane and ":" not in event["name"]

  total: dict[str, float] = collections.defaultdict(float)
  calls: dict[str, int] = collections.defaultdict(int)
  for event in filter(of_device, events):
    total[event["name"]] += event["dur"]
    calls[event["name"]] += 1
  if not total:
    raise ValueError("the trace has no event of a device")
  return sorted(
    ((name, (total[name], calls[name])) for name in total),
    key=lambda item: -item[1][0],
  )


def shortened(name: str, length: int = 72) -> str:
  """A C++ kernel's name without its template's arguments."""
  name = re.sub(r"^void ", "", name)
  return name if len(name) <= length else name[: length - 3] + "..."


def table(content: dict[str, Any]) -> str:
  """Markdown, one table a workload."""
  parts = []
  for row in content["rows"]:
    whole = sum(kernel["milliseconds"] for kernel in row["kernels"])
    top = row["kernels"][: content["settings"]["top"]]
    busy = whole / row["milliseconds"]
    parts.append(
      f"{row['network']}, batch {row['batch']}, {row['dtype']}: "
      f"{row['milliseconds']:.2f} ms a step while traced, kernels busy "
      f"{busy:.0%} of it.\n\n"
      + report.markdown(
        ["kernel", "ms a step", "calls", "of a step"],
        [
          [
            shortened(kernel["name"]),
            f"{kernel['milliseconds']:.3f}",
            f"{kernel['calls']:.1f}",
            f"{kernel['milliseconds'] / whole:.1%}",
          ]
          for kernel in top
        ],
      )
    )
  return "\n\n".join(parts)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list]:
  """The arguments, checked, and the workloads."""
  parser = arguments.parser("kernels", __doc__)
  arguments.add_workloads(parser, models="cifar_resnet20", batches="128")
  parser.add_argument(
    "--method", default="ovsw", help="of ours (default: %(default)s)"
  )
  parser.add_argument(
    "--chunk",
    type=arguments.count,
    help="steps that one dispatch makes (default: as main.py)",
  )
  parser.add_argument(
    "--top",
    type=arguments.count,
    default=20,
    help="so many kernels are shown; all are written (default: %(default)s)",
  )
  arguments.add_process(parser)
  arguments.add_out(parser, "kernels")
  chosen = parser.parse_args(argv)
  return chosen, arguments.workloads(parser, chosen)


def main(argv: Sequence[str] | None = None) -> None:
  chosen, work = parse(argv)
  rows = []
  for item in work:
    with workers.Worker(
      "benchmarks.kernels:Traced",
      {},
      threads=chosen.threads,
      allocator=chosen.allocator,
    ) as worker:
      rows.append(worker.call("measure", item, chosen.method, chosen.chunk))
  report.show(report.make("kernels", chosen, rows, rows[0]["device"]), table)


if __name__ == "__main__":
  arguments.start(main)
