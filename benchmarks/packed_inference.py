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
from collections.abc import Sequence
from typing import Any

from benchmarks import arguments, machine, report, timing, workers
from benchmarks.packed_contestants import Work
from benchmarks.workload import NETWORKS

_LAYERS = "56x64,28x128,14x256,7x512"
CONTESTANTS = ("packed", "torch", "onnx")


def layers(text: str) -> list[tuple[int, int]]:
  """Comma-separated SIZExCHANNELS."""
  try:
    pairs = [tuple(map(arguments.count, p.split("x"))) for p in text.split(",")]
    return [(size, channels) for size, channels in pairs]
  except (ValueError, argparse.ArgumentTypeError):
    raise argparse.ArgumentTypeError(
      f"{text!r} is no list of SIZExCHANNELS such as 56x64"
    ) from None


def measure(
  work: Sequence[Work], chosen: argparse.Namespace
) -> tuple[list[dict[str, Any]], str]:
  """A row for each piece of work, and the device."""
  open_, rows, device = {}, [], ""
  say = report.Progress()
  try:
    for kind in ("xla", *chosen.contestants):
      open_[kind] = workers.Worker(
        "benchmarks.packed_contestants:Contestant",
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
