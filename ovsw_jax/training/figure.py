"""The figure at a run's end: its silent weights, beside a sibling's."""

import pathlib
from typing import Any

import jax
import numpy as np
import optax

from ovsw_jax import analysis
from ovsw_jax import optax as transforms
from ovsw_jax.analysis import run
from ovsw_jax.training import replicas, settings
from ovsw_jax.training import state as train_state

FIGURE_FILE = "figure.png"

# Drawn beside each other, and in this order, where both have been run.
_COMPARED = ("vanilla", "ovsw")


def save_weights(
  state: train_state.TrainState, workdir: pathlib.Path, count: int = 1
) -> None:
  """Keeps the latent weights and their flips, by layer, for the figure.

  Of several replicas those of the first: the figure's curves are means over the
  seeds, and its histogram is the first seed's.
  """
  state = replicas.first(state, count)
  # Leaves that are masked out of the statistics have none here; of a network
  # without bits there are no statistics.
  counted = optax.tree.get(state.opt_state, "flips_code") is not None
  flips = jax.tree.leaves_with_path(
    transforms.flips(state.opt_state) if counted else None
  )
  latent = dict(jax.tree.leaves_with_path(state.params))
  run.save_weights(
    workdir,
    {
      jax.tree_util.keystr(path, simple=True, separator="/"): (
        np.asarray(latent[path]),
        np.asarray(n),
      )
      for path, n in flips
    },
  )


def siblings(config: Any, workdir: pathlib.Path) -> dict[str, pathlib.Path]:
  """The runs to draw: this one, and of vanilla and OvSW those finished.

  A sibling has the same path but for its method, as in `runs/digits/ovsw/seed0`
  and `runs/digits/vanilla/seed0`, and the same config but for its method.
  """
  runs = {config.method: workdir}
  wanted = _without_method(settings.resolved(config))
  parts = workdir.absolute().parts
  if config.method not in parts:
    return runs
  place = len(parts) - 1 - parts[::-1].index(config.method)
  for method in _COMPARED:
    other = pathlib.Path(*parts[:place], method, *parts[place + 1 :])
    if method == config.method or not (other / run.WEIGHTS_FILE).exists():
      continue
    saved = settings.read(other)
    if saved is not None and _without_method(saved) == wanted:
      runs[method] = other
  return {
    method: runs[method]
    for method in (*_COMPARED, config.method)
    if method in runs
  }


def _without_method(saved: dict[str, Any]) -> dict[str, Any]:
  return {
    name: value
    for name, value in settings.flatten(saved).items()
    if name.split(".")[0] not in ("method", "method_args")
    and name not in settings.FREE_TO_CHANGE
  }


def draw(config: Any, workdir: pathlib.Path) -> None:
  """Draws this run and its siblings."""
  analysis.save_flip_figure(workdir / FIGURE_FILE, siblings(config, workdir))
