"""Times whole training steps against PyTorch and plain linen, in turns.

  python -m benchmarks.step_time
  python -m benchmarks.step_time --models=resnet18 --batches=256 \\
    --dtypes=float32,bfloat16 --peers=torch --peak
  python -m benchmarks.step_time --smoke

A step is forward, loss, backward and optimizer on a batch that stays on the
device; ours counts sign flips and measures the gradient's norm besides, as
`main.py` does. Every contestant has a process of its own (see
`benchmarks/workers.py` for why), and they take turns: ours, torch, ours, linen,
ours, ... A turn begins with a step that is not timed. A ratio is the median
over ratios of neighbours, with the 95 % interval of that median; below 1 ours
is faster.
"""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

from benchmarks import arguments, contestants, report, timing, workers
from benchmarks.workload import Workload


def measure(
  work: Workload, chosen: argparse.Namespace, show: report.Progress
) -> dict[str, Any]:
  """One row: the times of all contestants on one workload."""
  process = {"threads": chosen.threads, "allocator": chosen.allocator}
  options = {"statistics": chosen.statistics, "chunk": chosen.chunk}
  with contextlib.ExitStack() as stack:
    ours = stack.enter_context(
      contestants.jax_worker(
        work, form="ours", method=chosen.method, **options, **process
      )
    )
    peers = {}
    if "torch" in chosen.peers:
      peers["torch"] = contestants.torch_worker(
        work,
        ours.call("describe")["platform"],
        channels_last=chosen.channels_last,
        **process,
      )
    if "linen" in chosen.peers:
      # With malloc as it comes: setting it is no part of plain linen.
      as_it_comes = process | {"allocator": "default"}
      peers["linen"] = contestants.jax_worker(
        work, form="linen", **options, **as_it_comes
      )
    for peer in peers.values():
      stack.enter_context(peer)
    times = timing.alternate(
      ours.time,
      {name: peer.time for name, peer in peers.items()},
      rounds=chosen.rounds,
      seconds=chosen.turn_seconds,
      lead=1,
      settle=0.005,  # PyTorch's OpenMP threads spin a little after a step
      progress=show,
    )
    described = {"ours": ours.call("describe")} | {
      name: peer.call("describe") for name, peer in peers.items()
    }
  seconds = {"ours": timing.summary(times.base)} | {
    name: timing.summary([triple.other for triple in triples])
    for name, triples in times.others.items()
  }
  return {
    **work._asdict(),
    "image_size": work.side,
    "method": chosen.method,
    "steps_per_sample": times.steps,
    "seconds": seconds,
    "images_per_second": {
      name: work.batch / value["median"] for name, value in seconds.items()
    },
    "ours_over": {
      name: timing.ratio(triples, of_base=True)
      for name, triples in times.others.items()
    },
    "contestants": described,
    "samples": {
      "ours": times.base,
      **{name: [t.other for t in ts] for name, ts in times.others.items()},
    },
  }


def add_flops(rows: list[dict[str, Any]], chosen: argparse.Namespace) -> None:
  """Adds operations a step, and the share of the measured peak of each row."""
  from benchmarks import flops

  with workers.Worker(
    "benchmarks.peak:Peak",
    {},
    threads=chosen.threads,
    allocator=chosen.allocator,
  ) as worker:
    options = ([64], 2, 0.0) if chosen.smoke else (None, 10, 0.2)
    peaks = {
      dtype: worker.call("measure", dtype, *options)
      for dtype in {row["dtype"] for row in rows}
    }
  for row in rows:
    work = Workload(*(row[field] for field in Workload._fields))
    row["flops_per_step"] = flops.training_step(work)
    row["peak"] = peaks[row["dtype"]]


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a workload."""
  peers = content["settings"]["peers"]
  header = ["model", "batch", "precision", "ms a step", "images/s"]
  for peer in peers:
    header += [f"{peer}, ms", f"ours / {peer}"]
  flops = any("peak" in row for row in content["rows"])
  if flops:
    header += ["TFLOP/s", "of peak"]
  rows = []
  for row in content["rows"]:
    cells = [
      row["network"],
      str(row["batch"]),
      row["dtype"],
      report.milliseconds(row["seconds"]["ours"]),
      f"{row['images_per_second']['ours']:,.0f}",
    ]
    for peer in peers:
      cells += [
        report.milliseconds(row["seconds"][peer]),
        report.times(row["ours_over"][peer]),
      ]
    if flops:
      rate = row["flops_per_step"] / row["seconds"]["ours"]["median"]
      share = rate / row["peak"]["flops_per_second"]
      cells += [f"{rate / 1e12:.3g}", f"{share:.0%}"]
    rows.append(cells)
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list]:
  """The arguments, checked, and the workloads."""
  parser = arguments.parser("step_time", __doc__)
  arguments.add_workloads(parser)
  parser.add_argument(
    "--peers",
    type=arguments.names(contestants.PEERS),
    default=",".join(contestants.PEERS),
    metavar="NAMES",
    help="comma-separated out of torch and linen, or empty "
    "(default: %(default)s)",
  )
  parser.add_argument(
    "--method",
    default="vanilla",
    help="of ours; the peers are vanilla (default: %(default)s)",
  )
  parser.add_argument(
    "--statistics",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="whether ours counts sign flips",
  )
  parser.add_argument(
    "--channels-last",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="PyTorch's memory layout",
  )
  arguments.add_turns(parser)
  parser.add_argument(
    "--peak",
    action="store_true",
    help="also the achieved FLOP/s, and their share of the measured peak",
  )
  arguments.add_rounds(parser)
  arguments.add_process(parser)
  arguments.add_out(parser, "step_time")
  chosen = parser.parse_args(argv)
  if chosen.smoke:
    chosen.rounds, chosen.turn_seconds = 2, 0.0
  work = arguments.workloads(parser, chosen)
  contestants.check_torch(chosen.peers)
  return chosen, work


def main(argv: Sequence[str] | None = None) -> None:
  chosen, work = parse(argv)
  rows = []
  for index, item in enumerate(work, start=1):
    show = report.Progress(
      f"[{index}/{len(work)}] {item.network}, batch {item.batch}, "
      f"{item.dtype}: "
    )
    rows.append(measure(item, chosen, show))
    show.clear()
    device = rows[0]["contestants"]["ours"]["device"]
    content = report.make("step_time", chosen, rows, device)
    report.write(chosen.out, content)  # a row can take minutes
  if chosen.peak:
    add_flops(rows, chosen)
  report.show(report.make("step_time", chosen, rows, device), table)


if __name__ == "__main__":
  arguments.start(main)
