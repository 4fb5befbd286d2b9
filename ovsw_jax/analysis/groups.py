"""Runs as their workdirs have them, and runs that differ in the seed alone."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ovsw_jax.analysis.metrics import read_metrics
from ovsw_jax.analysis.run import Run

# Fields of a config that choose what is kept and how work is cut up, never what
# is computed; and the seed, by which a group's runs differ.
_ANY = frozenset(
  {
    "seed",
    "name",
    "data.dir",
    "eval.batch_size",
    "train.checkpoint_every",
    "train.chunk",
    "train.keep",
    "train.log_every",
  }
)
_NAMES = {
  "ovsw": "OvSW",
  "ags": "AGS",
  "sad": "SAD",
  "full_precision": "full precision",
}


class Member(NamedTuple):
  """One run: what its workdir says of it."""

  workdir: pathlib.Path
  run: Run
  config: dict[str, Any]  # with dotted names
  result: dict[str, Any] | None  # None while the run is going

  @property
  def seeds(self) -> list[int]:
    """Its seed, or those of its replicas."""
    first = self.config.get("seed", 0)
    return list(range(first, first + self.config.get("replicas", 1)))

  @property
  def epoch(self) -> int:
    """The last epoch that has been evaluated."""
    return self.run.series("accuracy")[0][-1]

  def final(self, name: str) -> list[float]:
    """A metric after the last epoch, one value for each seed."""
    if self.result is not None and f"{name}_per_seed" in self.result:
      return list(self.result[f"{name}_per_seed"])
    values = self.run.series(name)[1]
    return values[-1:]

  def best(self) -> tuple[int, float]:
    """The epoch of the highest test accuracy, and that accuracy."""
    epochs, values = self.run.series("accuracy")
    place = int(np.argmax(values))
    return epochs[place], values[place]


class Group(NamedTuple):
  """Runs of one config and different seeds."""

  label: str
  method: str
  members: tuple[Member, ...]

  @property
  def seeds(self) -> list[int]:
    """All of its seeds, ascending."""
    return sorted(seed for member in self.members for seed in member.seeds)

  def final(self, name: str) -> list[float]:
    """A metric after the last epoch, one value for each seed that has it."""
    return [value for member in self.members for value in member.final(name)]

  def series(self, name: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    """A metric by epoch: epochs, means over seeds, sample deviations.

    Only epochs that every run has reached count. The deviations of a single
    seed are 0.
    """
    series = [dict(zip(*m.run.series(name), strict=True)) for m in self.members]
    epochs = sorted(set.intersection(*(set(one) for one in series)))
    values = np.array([[one[e] for e in epochs] for one in series], float)
    if len(series) > 1:
      return epochs, values.mean(axis=0), values.std(axis=0, ddof=1)
    # Of replicas the trainer writes mean and deviation.
    spread = dict(zip(*self.members[0].run.series(f"{name}_std"), strict=True))
    return epochs, values[0], np.array([spread.get(e, 0.0) for e in epochs])


def read_member(workdir) -> Member:
  """Reads a run, going or finished.

  Args:
    workdir: directory of the run.

  Raises:
    FileNotFoundError: there is no run, or it has no metrics.
    ValueError: one of its files cannot be read, or no epoch is done.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise FileNotFoundError(f"There is no directory {workdir}; name a workdir.")
  config = _json(workdir / "config.json")
  if config is None:
    raise FileNotFoundError(
      f"{workdir} has no config.json: no run was started there."
    )
  run = Run(read_metrics(workdir), {})
  if not run.series("accuracy")[0]:
    raise ValueError(
      f"{workdir} has no evaluated epoch yet; train it for one, then try again."
    )
  return Member(
    workdir, run, dict(_flat(config)), _json(workdir / "result.json")
  )


def group(members: Sequence[Member]) -> list[Group]:
  """Groups runs by their configs, in the order in which they first appear.

  Labels are the methods, and where these do not tell the groups apart the
  fields that do.

  Raises:
    ValueError: runs of different models or data, or two of one seed.
  """
  for field in ("model.name", "data.name"):
    by_value = {member.config.get(field): member for member in members}
    if len(by_value) > 1:
      (a, one), (b, other), *_ = by_value.items()
      raise ValueError(
        f"{one.workdir} has {field}={a} and {other.workdir} has {field}={b};"
        f" compare runs of one {field.split('.')[0]}."
      )
  groups: dict[tuple, list[Member]] = {}
  for member in members:
    key = tuple(
      sorted((k, repr(v)) for k, v in member.config.items() if k not in _ANY)
    )
    for other in groups.setdefault(key, []):
      if shared := set(member.seeds) & set(other.seeds):
        raise ValueError(
          f"{other.workdir} and {member.workdir} are the same config and seed"
          f" {min(shared)}; name one of them."
        )
    groups[key].append(member)
  labels = _labels([found[0].config for found in groups.values()])
  return [
    Group(label, str(found[0].config.get("method")), tuple(found))
    for label, found in zip(labels, groups.values(), strict=True)
  ]


def _labels(configs: list[dict[str, Any]]) -> list[str]:
  labels = []
  for config in configs:
    method = config.get("method")
    rivals = [c for c in configs if c.get("method") == method]
    differing = sorted(
      field
      for field in set().union(*rivals) - _ANY
      if len({repr(c.get(field)) for c in rivals}) > 1
    )
    shown = [f"{f.split('.')[-1]}={config.get(f)}" for f in differing]
    labels.append(", ".join([_NAMES.get(str(method), str(method)), *shown]))
  return labels


def _json(path: pathlib.Path) -> dict[str, Any] | None:
  if not path.is_file():
    return None
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(
      f"{path} is not JSON ({error}); the run's own copy is damaged."
    ) from error
  if not isinstance(found, dict):
    raise ValueError(f"{path} holds no JSON object; the file is damaged.")
  return found


def _flat(nested: Mapping[str, Any], prefix: str = ""):
  for name, value in nested.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value
