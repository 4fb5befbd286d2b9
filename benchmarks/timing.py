"""Paired timing: A, B, A, C, A, ... and what the samples say.

A machine's speed drifts by more than the differences of interest, so nothing is
timed on its own: every sample of a contestant has one of the base right before
and one right after it, and ratios are taken within such a triple.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

# At least so many steps -> seconds a step, the wait for the last included.
Turn = Callable[[int], float]


class Triple(NamedTuple):
  """One sample of a contestant between two of the base, in seconds a step."""

  before: float
  other: float
  after: float


class Times(NamedTuple):
  """Seconds a step: all of the base, and triples of each contestant."""

  base: list[float]
  others: dict[str, list[Triple]]
  steps: int  # that each sample averages over


def alternate(
  base: Turn,
  others: Mapping[str, Turn],
  *,
  rounds: int,
  seconds: float = 0.0,
  warmup: int = 2,
  lead: int = 0,
  settle: float = 0.0,
  progress: Callable[[str], None] = lambda text: None,
) -> Times:
  """Times a base and its contestants in turns.

  Args:
    base: what the others are compared with.
    others: contestants by name; may be empty.
    rounds: samples of each contestant, at least 1.
    seconds: a turn makes so many steps that the base takes about that long;
      0 for one step. Short steps must be timed several at once, since waiting
      for each would leave an accelerator idle.
    warmup: untimed turns of each beforehand, after the first one, which
      compiles; at least 1.
    lead: untimed steps at the start of each turn, in which a process gets back
      the cores and caches that others have had.
    settle: pause before each turn, for threads that still spin after the last.
    progress: called with a few words on what is going on.

  Raises:
    ValueError: if `rounds` or `warmup` is below 1.
  """
  if rounds < 1 or warmup < 1:
    raise ValueError(
      f"rounds and warmup must be at least 1, got {rounds} and {warmup}"
    )
  steps = 1

  def turn(run: Turn) -> float:
    time.sleep(settle)
    if lead:
      run(lead)
    return run(steps)

  for name, run in {"": base, **others}.items():
    progress(f"compiling {name}".strip())
    run(1)
    seen = min(run(1) for _ in range(warmup))
    if run is base:
      steps = max(1, round(seconds / max(seen, 1e-9)))
  series = [turn(base)]
  triples: dict[str, list[Triple]] = {name: [] for name in others}
  for index in range(rounds):
    progress(f"round {index + 1}/{rounds}, {steps} steps a turn")
    for name, run in others.items():
      other = turn(run)
      series.append(turn(base))
      triples[name].append(Triple(series[-2], other, series[-1]))
    if not others:
      series.append(turn(base))
  return Times(series, triples, steps)


def measure(run: Callable[[int], int], steps: int) -> float:
  """Seconds a step of `run`, which makes at least `steps` and says how many."""
  begin = time.perf_counter()
  made = run(steps)
  return (time.perf_counter() - begin) / made


def summary(values: list[float]) -> dict[str, float]:
  """Median, quartiles and a 95 % interval of the median.

  The interval is that of order statistics, which supposes nothing about how the
  values are distributed. Of fewer than six values it is their range, and holds
  the median less often than that.

  Examples:
    >>> spread = summary([3.0, 1.0, 2.0, 5.0, 4.0])
    >>> spread["median"], spread["low"], spread["high"]
    (3.0, 1.0, 5.0)
  """
  ordered = sorted(values)
  count = len(ordered)
  reach = max(math.floor((count - 1.96 * math.sqrt(count)) / 2), 0)
  quarter = (
    statistics.quantiles(ordered, n=4, method="inclusive")
    if count > 1
    else ordered * 3
  )
  return {
    "median": statistics.median(ordered),
    "q1": quarter[0],
    "q3": quarter[2],
    "low": ordered[reach],
    "high": ordered[count - 1 - reach],
    "samples": count,
  }


def ratio(triples: list[Triple], *, of_base: bool = False) -> dict[str, float]:
  """A contestant's time over the base's, or with `of_base` the inverse.

  Returns:
    As `summary`, of the ratios within the triples; `of_medians` is the ratio of
    the two medians, for comparison.
  """
  ratios = [2 * t.other / (t.before + t.after) for t in triples]
  of_medians = statistics.median(t.other for t in triples) / statistics.median(
    (t.before + t.after) / 2 for t in triples
  )
  if of_base:
    ratios, of_medians = [1 / r for r in ratios], 1 / of_medians
  return summary(ratios) | {"of_medians": of_medians}
