"""The figure at a run's end: its silent weights, beside a sibling's."""

import pathlib
from typing import Any

import jax
import numpy as np
import optax

from ovsw_jax import analysis
from ovsw_jax.training import settings
from ovsw_jax.training import state as train_state

DATA_FILE = "figure_data.npz"
FIGURE_FILE = "figure.png"

# Drawn beside each other, and in this order, where both have been run.
_COMPARED = ("vanilla", "ovsw")


def save_data(state: train_state.TrainState, workdir: pathlib.Path) -> None:
  """Keeps the latent weights, and which of them never flipped, by layer.

  `<layer>` is the weight over its layer's standard deviation, float16 and of
  shape (n,); `<layer>:never_flipped` the flags of the same n, packed in bytes.
  Without binary weights the file is empty.
  """
  flips = optax.tree.get(state.opt_state, "flips")
  never = {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(n) == 0
    for path, n in jax.tree.leaves_with_path(flips)
  }
  arrays = {}
  for path, value in jax.tree.leaves_with_path(state.params):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name in never:
      latent = np.asarray(value, np.float32).ravel()
      arrays[name] = (latent / max(latent.std(), 1e-12)).astype(np.float16)
      arrays[f"{name}:never_flipped"] = np.packbits(never[name].ravel())
  temporary = workdir / f"tmp_{DATA_FILE}"
  np.savez(temporary, **arrays)
  temporary.replace(workdir / DATA_FILE)


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
    if method == config.method or not (other / DATA_FILE).exists():
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


def draw(config: Any, workdir: pathlib.Path) -> pathlib.Path:
  """Draws this run and its siblings; returns the figure's path."""
  path = workdir / FIGURE_FILE
  figure = analysis.flip_figure(siblings(config, workdir))
  temporary = workdir / f"tmp_{FIGURE_FILE}"
  figure.savefig(temporary)
  temporary.replace(path)
  return path
