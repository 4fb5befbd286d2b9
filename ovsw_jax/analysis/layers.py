"""The binary layers of a run as the report shows them, read one at a time."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ovsw_jax.analysis.checkpoints import checkpoint_steps, read_weights
from ovsw_jax.analysis.groups import Member
from ovsw_jax.analysis.layer_charts import Histogram, histogram
from ovsw_jax.analysis.run import WEIGHTS_FILE, read_run
from ovsw_jax.analysis.statistics import LayerStatistics, layer_statistics


class Layers(NamedTuple):
  """Histograms of a run's layers, and statistics where a checkpoint is left."""

  source: str  # what they were read from
  histograms: dict[str, Histogram]
  statistics: dict[str, LayerStatistics]
  # Of each filter, gradient norm over weight norm in the last step before it.
  ratios: dict[str, np.ndarray]


def read_layers(member: Member) -> Layers | None:
  """The layers of a run's newest checkpoint, or of its figure's data.

  The weights at init are those of a checkpoint of step 0, if it is there.

  Raises:
    ValueError: what is there is damaged.
  """
  workdir = member.workdir
  steps = checkpoint_steps(workdir)
  while steps:
    try:
      found = _from_checkpoint(member, steps)
      break
    except (FileNotFoundError, ValueError):
      # A run that goes on may have dropped it for a newer one meanwhile.
      before, steps = steps, checkpoint_steps(workdir)
      if steps[-1:] == before[-1:]:
        raise
  else:
    found = _from_figure_data(workdir)
  return found if found is not None and found.histograms else None


def _from_checkpoint(member: Member, steps: list[int]) -> Layers:
  threshold = member.config.get("method_args.threshold", 1e-4)
  latents_at_init = (
    read_weights(member.workdir, 0) if steps[0] == 0 < steps[-1] else None
  )
  found = Layers(f"the checkpoint of step {steps[-1]:,}", {}, {}, {})
  for name, weights in read_weights(member.workdir, steps[-1]):
    initial = _same_layer(latents_at_init, name)
    never = None if weights.flips is None else weights.flips == 0
    found.histograms[name] = histogram(weights.latent, never, initial)
    found.statistics[name] = layer_statistics(weights, initial, threshold)
    # AGS's ratios are positive; zeros are of a state before its first update.
    if weights.ags_ratio is not None and np.any(weights.ags_ratio):
      found.ratios[name] = weights.ags_ratio
  return found


def _same_layer(layers: Iterator | None, name: str):
  if layers is None:
    return None
  other, weights = next(layers)  # checkpoints list their layers in one order
  if other != name:
    raise ValueError(
      f"The checkpoint of step 0 has layer {other} where the newest has {name};"
      " they are of different models."
    )
  return weights.latent


def _from_figure_data(workdir: pathlib.Path) -> Layers:
  found = Layers(f"{WEIGHTS_FILE}, the run's own figure data", {}, {}, {})
  for name, (latent, flips) in read_run(workdir).weights.items():
    found.histograms[name] = histogram(latent, flips == 0)
  return found
