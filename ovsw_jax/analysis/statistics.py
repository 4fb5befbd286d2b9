"""What the binary weights of a layer are like: silent, oscillating, random.

All of it follows from a checkpoint's latent weights and from what the optimizer
counted of each, so it is the same for any method and optimizer. Signs are those
of the latent weights, sign(0) = +1, which is what flips are counted of; some
methods (IR-Net, RBNN, SD-BNN) centre, turn or shift before they take bits.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ovsw_jax.analysis.checkpoints import LayerWeights

_TINY = 1e-12


class LayerStatistics(NamedTuple):
  """Statistics of a layer; None where the run did not keep what they need."""

  size: int  # number of weights
  # Share whose sign never changed since init: silent as in the paper's figures.
  never_flipped: float | None
  # Share whose average of flips is below SAD's threshold: silent as SAD has it.
  silent: float | None
  # Mean number of flips of a weight since init.
  flips_per_weight: float | None
  # Share that flipped twice or more: each of these came back to a sign that it
  # had left.
  oscillating: float | None
  # Correlation of the signs with those at init: 1 if all are as they were, 0 if
  # half are, as of fresh random ones.
  sign_correlation: float | None
  # Pearson's correlation of the latent weights with those at init.
  latent_correlation: float | None
  # Mean over output channels of the entropy of a channel's signs, in bits: 1 if
  # half are +1, 0 if all are alike.
  bit_entropy: float | None
  # Median |w| over the layer's standard deviation, of the weights that never
  # flipped and of those that did: silent ones lie far from zero.
  silent_magnitude: float | None
  flipped_magnitude: float | None


def layer_statistics(
  weights: LayerWeights,
  initial: np.ndarray | None = None,
  threshold: float = 1e-4,
) -> LayerStatistics:
  """The statistics of a layer.

  Args:
    weights: from `read_weights`.
    initial: the latent weights at init, in the same shape.
    threshold: SAD's, below which an average of flips is silence.

  Raises:
    ValueError: for a layer without weights, or `initial` of another shape.

  Examples:
    >>> latent = np.array([[0.1, 1.0], [-0.1, 2.0]])
    >>> flips = np.array([[3, 0], [2, 0]])
    >>> found = layer_statistics(LayerWeights(latent, flips, None))
    >>> found.never_flipped, found.oscillating, found.sign_correlation
    (0.5, 0.5, 0.5)
    >>> found.bit_entropy
    0.5
  """
  latent, flips, ema = weights.latent, weights.flips, weights.flip_ema
  if not latent.size:
    raise ValueError(f"A layer of shape {latent.shape} has no weights.")
  if initial is not None and initial.shape != latent.shape:
    raise ValueError(
      f"initial has shape {initial.shape}, and the latent weights have shape"
      f" {latent.shape}; pass those of the same layer."
    )
  never = None if flips is None else flips == 0
  positive = (latent >= 0).reshape(-1, latent.shape[-1])
  magnitude = np.abs(latent) / max(float(latent.std()), _TINY)
  return LayerStatistics(
    size=latent.size,
    never_flipped=_mean(never),
    silent=None if ema is None else _mean(ema < threshold),
    flips_per_weight=_mean(flips),
    oscillating=None if flips is None else _mean(flips >= 2),
    # A sign is as it was after an even number of flips.
    sign_correlation=None if flips is None else 1 - 2 * _mean(flips % 2),
    latent_correlation=_correlation(latent, initial),
    bit_entropy=float(np.mean(_entropy(positive.mean(axis=0)))),
    silent_magnitude=None if never is None else _median(magnitude[never]),
    flipped_magnitude=None if never is None else _median(magnitude[~never]),
  )


def total_statistics(layers: Iterable[LayerStatistics]) -> LayerStatistics:
  """The statistics of all weights together: means weighted by size.

  Where a layer lacks a statistic the total lacks it too. The medians are means
  of the layers' medians.

  Raises:
    ValueError: no layers.

  Examples:
    >>> import numpy as np
    >>> from ovsw_jax import analysis
    >>> layers = [
    ...   analysis.layer_statistics(
    ...     analysis.LayerWeights(np.ones((size, 1)), flips, None)
    ...   )
    ...   for size, flips in ((3, np.zeros((3, 1))), (1, np.ones((1, 1))))
    ... ]
    >>> analysis.total_statistics(layers).never_flipped
    0.75
  """
  layers = list(layers)
  if not layers:
    raise ValueError("There are no layers of binary weights.")
  sizes = [layer.size for layer in layers]
  means = {}
  for field in LayerStatistics._fields[1:]:
    values = [getattr(layer, field) for layer in layers]
    known = None not in values
    means[field] = float(np.average(values, weights=sizes)) if known else None
  return LayerStatistics(size=sum(sizes), **means)


def _mean(values: np.ndarray | None):
  return None if values is None else float(values.mean())


def _median(values: np.ndarray) -> float | None:
  return float(np.median(values)) if values.size else None


def _entropy(share: np.ndarray) -> np.ndarray:
  """Of a coin that falls on its head with this probability, in bits."""
  other = 1 - share
  return -sum(
    p * np.log2(np.maximum(p, _TINY)) for p in (share, other)
  )  # 0 log 0 is 0


def _correlation(latent, initial) -> float | None:
  if initial is None:
    return None
  a, b = (x.astype(np.float64).ravel() for x in (latent, initial))
  a, b = a - a.mean(), b - b.mean()
  return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), _TINY))
