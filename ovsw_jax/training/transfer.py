"""Variables of one network as the beginning of another, where they fit."""

import collections
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import traverse_util

from ovsw_jax.training import mesh, networks, replicas, settings
from ovsw_jax.training import state as train_state
from ovsw_jax.training.experiment import Experiment

REPORT_FILE = "loaded.json"


class Report(NamedTuple):
  """Paths "collection/layer/name" of what was loaded and what was not."""

  loaded: list[str]
  new: list[str]  # here alone: as they were initialised
  other_shape: list[str]  # here and there, of different shapes: likewise
  unused: list[str]  # there alone


def into(
  variables: Mapping[str, Any], source: Mapping[str, Any]
) -> tuple[dict[str, Any], Report]:
  """Puts arrays of `source` in the place of those of one path and shape.

  Args:
    variables: of the network that is to begin, by collection.
    source: of the network that is trained, by collection.

  Returns:
    The variables to begin with, and what became of each.

  Raises:
    ValueError: if nothing fits.

  Examples:
    >>> import numpy as np
    >>> there = {"params": {"latent": np.ones(2), "gain": np.ones(1)}}
    >>> here = {"params": {"latent": np.zeros(2), "u": np.zeros(1)}}
    >>> variables, report = into(here, there)
    >>> variables["params"]["latent"].tolist()
    [1.0, 1.0]
    >>> report.new, report.unused
    (['params/u'], ['params/gain'])
  """
  here = traverse_util.flatten_dict(dict(variables), sep="/")
  there = traverse_util.flatten_dict(dict(source), sep="/")
  common = here.keys() & there.keys()
  same = {name for name in common if here[name].shape == there[name].shape}
  report = Report(
    loaded=sorted(same),
    new=sorted(here.keys() - common),
    other_shape=sorted(common - same),
    unused=sorted(there.keys() - common),
  )
  if not any(name.startswith("params/") for name in same):
    raise ValueError(
      f"no parameter fits: those here are {_few(here)}, those there "
      f"{_few(there)}"
    )
  chosen = here | {name: there[name].astype(here[name].dtype) for name in same}
  loaded = traverse_util.unflatten_dict(chosen, sep="/")
  return {name: {} for name in variables} | loaded, report


def begin(
  run: Experiment, state: train_state.TrainState, workdir: pathlib.Path
) -> tuple[train_state.TrainState, str]:
  """The state before the first step, from what `config.init_from` trained.

  The optimizer's state and what a method remembers begin anew with the loaded
  weights; what does not fit stays as it is in `state`, the initial one.
  `loaded.json` has the whole report.

  Returns:
    The state, and what was and was not loaded in a line.

  Raises:
    FileNotFoundError: if there is no trained network.
    ValueError: if nothing of it fits.
  """
  config, recipe = run.config, run.recipe
  origin = pathlib.Path(config.init_from)
  theirs = networks.saved_config(origin, "init_from").replicas
  if theirs != config.replicas:
    raise ValueError(
      f"init_from={origin} holds {theirs} replicas and this run has "
      f"replicas={config.replicas}; they must be as many"
    )
  step, source = networks.saved_variables(origin)
  try:
    variables, report = into(state.variables, source)
  except ValueError as error:
    raise ValueError(f"init_from={origin}: {error}") from error
  if mesh.first_process():
    content = {"step": step, **report._asdict()}
    settings.write_json(workdir / REPORT_FILE, content)
  told = f"{'begins':8} with step {step} of {origin}: {text(report)}"

  def anew(variables):
    return train_state.beginning(
      variables, recipe.tx, recipe.view, recipe.refresh
    )

  return jax.jit(replicas.each(anew, config.replicas))(variables), told


def text(report: Report) -> str:
  """A report in a line."""
  parts = [f"{len(report.loaded)} arrays loaded"]
  for words, names in (
    ("new here", report.new),
    ("of another shape", report.other_shape),
    ("not taken", report.unused),
  ):
    if names:
      kinds = collections.Counter(name.split("/")[-1] for name in names)
      listed = ", ".join(f"{kind} x {n}" for kind, n in kinds.items())
      parts.append(f"{words}: {listed}")
  return "; ".join(parts)


def _few(names: Mapping[str, Any]) -> str:
  listed = sorted(names)
  more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
  return ", ".join(listed[:3]) + more
