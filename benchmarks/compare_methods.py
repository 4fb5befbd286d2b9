"""Trains every method alone and with OvSW's transform, at its best rate.

  python -m benchmarks.compare_methods
  python -m benchmarks.compare_methods --methods=irnet,recu --seeds=0
  python -m benchmarks.compare_methods --dry-run

First every method takes the first seed at each of the learning rates; the rate
of the highest test accuracy then serves the other seeds, and all seeds with
OvSW's gradient transformation added. So the rate is chosen on the test set, for
the method alone, and the same for all that is compared with it. Accuracies are
of the final epoch. What follows `--` goes to main.py as it is; the same command
again goes on where it stopped.
"""

import argparse
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import arguments, machine, report, reproduce, table
from ovsw_jax.methods import METHODS

# Published, RBNN's latent weights have no gradient at first, and its estimators
# end so sharp (t = 10) that 20 epochs fall to chance at all three rates.
_ARGUMENTS = {
  "rbnn": (
    "--config.method_args.beta_init=0.785398",
    "--config.method_args.t_max=2.0",
  )
}
# Those that are OvSW or a part of it, and the one without binary weights.
_ALONE = ("ags", "full_precision", "ovsw", "sad")
ADDED = "ovsw"


def run(
  chosen: argparse.Namespace, method: str, rate: str, seed: int
) -> reproduce.Run:
  """A run of the comparison."""
  base = method.split("+")[0]
  return reproduce.Run(
    chosen.config.as_posix(),
    method,
    seed,
    (
      f"--config.optimizer.learning_rate={rate}",
      *_ARGUMENTS.get(base, ()),
      *chosen.overrides,
    ),
    chosen.workdir / method / f"rate{rate}" / f"seed{seed}",
  )


def best_rate(
  chosen: argparse.Namespace, method: str, finished: list[dict[str, Any]]
) -> str | None:
  """The rate of the first seed's highest accuracy; None if one is missing."""
  accuracy = {}
  for rate in chosen.rates:
    identity = run(chosen, method, rate, chosen.seeds[0]).identity
    for line in finished:
      if line.get("run") == identity:
        accuracy[rate] = line["accuracy"]
  if len(accuracy) < len(chosen.rates):
    return None
  return max(accuracy, key=lambda rate: accuracy[rate])


def queue(
  chosen: argparse.Namespace, finished: list[dict[str, Any]]
) -> Iterator[reproduce.Run]:
  """All runs, in their order; `finished` grows while they are made."""
  for method in chosen.methods:
    for rate in chosen.rates:
      yield run(chosen, method, rate, chosen.seeds[0])
    rate = best_rate(chosen, method, finished) or chosen.rates[0]
    added = [] if method in _ALONE else [f"{method}+{ADDED}"]
    for name in (method, *added):
      for seed in chosen.seeds:
        if name != method or seed != chosen.seeds[0]:
          yield run(chosen, name, rate, seed)


def markdown(records: list[dict[str, Any]]) -> str:
  """One row a method: alone and with OvSW, mean ± deviation over seeds.

  Raises:
    ValueError: if there is no finished run among the records.
  """
  finished = [record for record in records if "epochs" in record]
  if not finished:
    raise ValueError("no finished run yet")

  def rate_of(record):
    return record["config"]["optimizer"]["learning_rate"]

  def of(method, rate):
    return [r for r in finished if r["method"] == method and rate_of(r) == rate]

  def accuracy(chosen):
    return table.spread(table.values(chosen, "accuracy")) if chosen else "-"

  def never(chosen):
    flips = table.values(chosen, "never_flipped_fraction")
    return table.spread(flips) if flips and None not in flips else "-"

  rows = []
  for method in sorted(
    {r["method"] for r in finished if "+" not in r["method"]}
  ):
    first = min(r["seed"] for r in finished if r["method"] == method)
    best = max(
      (r for r in finished if r["method"] == method and r["seed"] == first),
      key=lambda r: r["accuracy"],
    )
    alone = of(method, rate_of(best))
    both = of(f"{method}+{ADDED}", rate_of(best))
    rows.append(
      [
        method,
        f"{rate_of(best):g}",
        str(len(alone)),
        accuracy(alone),
        accuracy(both),
        never(alone),
        never(both),
        f"{statistics.median(r['seconds'] for r in alone + both):.0f}",
      ]
    )
  header = [
    "method",
    "rate",
    "seeds",
    "alone, %",
    f"with {ADDED}, %",
    "never flipped alone, %",
    f"with {ADDED}, %",
    "seconds a run",
  ]
  return f"{report.markdown(header, rows)}\n\n{table.conditions(finished)}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("compare_methods", __doc__)
  parser.add_argument(
    "--rates",
    type=lambda text: [f"{float(rate):g}" for rate in text.split(",")],
    default="0.03,0.1,0.3",
    help="learning rates, comma-separated (default: %(default)s)",
  )
  reproduce.add_queue_arguments(
    parser, config="digits.py", methods=METHODS, seeds="0,1,2"
  )
  chosen = reproduce.checked(parser, argv)
  chosen.workdir = chosen.workdir or pathlib.Path(
    "runs", f"{chosen.config.stem}_methods"
  )
  chosen.out = chosen.out or pathlib.Path(
    "results", f"{chosen.config.stem}_methods.jsonl"
  )
  return chosen


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  finished = table.read_lines(machine.ROOT / chosen.out)
  total = len(list(queue(chosen, finished)))
  if reproduce.work_off(
    queue(chosen, finished),
    total,
    finished,
    chosen,
    "benchmarks.compare_methods",
  ):
    print(f"\n{markdown(finished)}")


if __name__ == "__main__":
  arguments.start(main)
