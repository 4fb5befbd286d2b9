"""The report's tables, as text: results, layers, runs, configs."""

from collections.abc import Mapping, Sequence

import numpy as np

from ovsw_jax.analysis.groups import Group, Member
from ovsw_jax.analysis.layer_charts import by_layer, short
from ovsw_jax.analysis.page import Table
from ovsw_jax.analysis.statistics import LayerStatistics, total_statistics

HONESTY = (
  "The result is that of the final epoch. Best on test is the highest test"
  " accuracy of any epoch: it is chosen on the test data, so it is no result,"
  " and is here because papers often report it. ± is the sample standard"
  " deviation over seeds."
)
LAYERS = (
  "Never flipped: since init. Silent: SAD's average of flips is below its"
  " threshold. Oscillating: flipped twice or more, so back to a sign that had"
  " been left. Sign correlation: with the signs at init, 1 if all are as they"
  " were. Entropy: of an output channel's signs, 1 bit if half are +1. |w|/std:"
  " median distance from zero over the layer's standard deviation."
)
FILTERS = (
  "Ratio: a filter's gradient norm over its weight norm, before AGS; a tenth,"
  " half and nine tenths of a layer's filters lie below these. Lifted: share of"
  " the filters whose ratio is below delta."
)
_NONE = "-"


def subtitle(groups: Sequence[Group]) -> str:
  """Of how many runs the report is."""
  runs = sum(len(one.members) for one in groups)
  seeds = ", ".join(f"{one.label}: {_seeds(one.seeds)}" for one in groups)
  return f"{runs} run{'s' * (runs > 1)}. {seeds}."


def going(groups: Sequence[Group]) -> list[str]:
  """A warning for each run that is not finished."""
  return [
    f"{member.workdir} is not finished: epoch {member.epoch} of"
    f" {member.config.get('train.epochs', '?')} is its last. Its numbers are"
    " not final."
    for one in groups
    for member in one.members
    if member.result is None
  ]


def results(groups: Sequence[Group]) -> Table:
  """The numbers of the final epoch, a column for each group."""
  columns = [_result(one) for one in groups]
  return Table(
    ["", *(one.label for one in groups)],
    [[name, *(column[name] for column in columns)] for name in columns[0]],
  )


def _result(one: Group) -> dict[str, str]:
  # Means are over runs that have come equally far.
  finished = tuple(m for m in one.members if m.result is not None)
  shown = one._replace(members=finished or one.members)
  epochs = " and ".join(
    str(e) for e in sorted({m.epoch for m in shown.members})
  )
  seconds = [
    sum(r.get("seconds", 0) for r in m.run.records if r.get("kind") == "eval")
    for m in shown.members
  ]

  def percent(name: str, digits: int = 2) -> str:
    return spread([100 * value for value in shown.final(name)], digits)

  return {
    "seeds": ", ".join(map(str, shown.seeds)),
    "epochs": epochs if finished else f"{epochs}, not finished",
    "final test accuracy (%)": percent("accuracy"),
    "final top-5 test accuracy (%)": percent("top5"),
    "final test loss (nats)": spread(shown.final("loss"), 4),
    "training accuracy, last epoch (%)": percent("train_accuracy"),
    "weights that never flipped (%)": percent("never_flipped_fraction"),
    "weights silent to SAD (%)": percent("silent_fraction"),
    "flip rate, last epoch (% a step)": percent("flip_rate", 4),
    "best on test, no result (%)": spread(
      [100 * member.best()[1] for member in shown.members], 2
    ),
    "time of a run (s)": spread(seconds, 0),
  }


def layers(one: Group, found: Mapping[str, LayerStatistics]) -> Table:
  """A row for each layer and one for all; empty columns are left out."""
  ratios = by_layer(one, "ags_ratio")
  last = (
    {}
    if ratios is None
    else dict(zip(ratios[0], ratios[2][:, -1], strict=True))
  )
  columns = {
    "weights": lambda s: f"{s.size:,}",
    "never flipped (%)": lambda s: _number(s.never_flipped, 100, 2),
    "silent, SAD (%)": lambda s: _number(s.silent, 100, 2),
    "flips a weight": lambda s: _number(s.flips_per_weight, 1, 3),
    "oscillating (%)": lambda s: _number(s.oscillating, 100, 2),
    "sign corr. with init": lambda s: _number(s.sign_correlation, 1, 3),
    "latent corr. with init": lambda s: _number(s.latent_correlation, 1, 3),
    "entropy (bit)": lambda s: _number(s.bit_entropy, 1, 4),
    "|w|/std, never flipped": lambda s: _number(s.silent_magnitude, 1, 2),
    "|w|/std, flipped": lambda s: _number(s.flipped_magnitude, 1, 2),
  }
  everything = {**found, "all": total_statistics(found.values())}
  rows = [
    [
      short(name),
      *(column(s) for column in columns.values()),
      _number(last.get(name), 1, 4),
    ]
    for name, s in everything.items()
  ]
  header = ["layer", *columns, "AGS ratio, last step"]
  kept = [
    place
    for place in range(len(header))
    if any(row[place] != _NONE for row in rows)
  ]
  return Table(
    [header[place] for place in kept],
    [[row[place] for place in kept] for row in rows],
    total=True,
  )


def filters(ratios: Mapping[str, np.ndarray], delta: float | None) -> Table:
  """A row for each layer and one for all; no share lifted without a delta."""
  everything = np.concatenate([np.ravel(one) for one in ratios.values()])
  header = ["layer", "filters", "ratio, 10 %", "ratio, median", "ratio, 90 %"]
  rows = [
    [
      short(name),
      f"{np.size(one):,}",
      *(f"{q:.3g}" for q in np.quantile(one, (0.1, 0.5, 0.9))),
      *([] if delta is None else [f"{100 * np.mean(one < delta):.1f}"]),
    ]
    for name, one in {**ratios, "all": everything}.items()
  ]
  lifted = [] if delta is None else ["lifted (%)"]
  return Table([*header, *lifted], rows, total=True)


def runs(groups: Sequence[Group]) -> Table:
  """Where each run lies, what it ran on, and the command that made it."""
  header = (
    "run",
    "workdir",
    "seeds",
    "epochs",
    "device",
    "versions",
    "command",
  )
  return Table(
    header,
    [_run(one, member) for one in groups for member in one.members],
    text=True,
  )


def _run(one: Group, member: Member) -> list[str]:
  result = member.result or {}
  versions = result.get("versions", {})
  return [
    one.label,
    str(member.workdir),
    _seeds(member.seeds),
    f"{member.epoch} of {member.config.get('train.epochs', '?')}",
    result.get("device", _NONE),
    ", ".join(f"{k} {v}" for k, v in versions.items()) or _NONE,
    result.get("command", _NONE),
  ]


def configs(groups: Sequence[Group]) -> Table:
  """Every field of the groups' configs beside each other."""
  firsts = [one.members[0].config for one in groups]
  fields = sorted(set().union(*firsts))
  return Table(
    ["field", *(one.label for one in groups)],
    [[f, *(str(c.get(f, _NONE)) for c in firsts)] for f in fields],
    text=True,
  )


def _seeds(seeds: Sequence[int]) -> str:
  word = "seed" if len(seeds) == 1 else "seeds"
  first, last = seeds[0], seeds[-1]
  if len(seeds) > 2 and list(seeds) == list(range(first, last + 1)):
    return f"{word} {first} to {last}"
  return f"{word} {', '.join(map(str, seeds))}"


def spread(values: Sequence[float], digits: int) -> str:
  """Mean, and sample deviation if there are several."""
  if not values:
    return _NONE
  text = f"{np.mean(values):,.{digits}f}"
  if len(values) > 1:
    text += f" ± {np.std(values, ddof=1):,.{digits}f}"
  return text


def _number(value: float | None, factor: float, digits: int) -> str:
  return _NONE if value is None else f"{factor * value:.{digits}f}"
