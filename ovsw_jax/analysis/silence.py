"""How many weights are silent, by the two meanings the word has.

In the paper's figures a weight is silent if its sign *never* changed since the
start; `never_flipped` counts those. In SAD a weight is silent if its sign has
not changed *lately*: an average of its flips, which decays by `momentum` a
step, is below a threshold; `silent` counts those.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike


def never_flipped(flips: Mapping[str, ArrayLike]) -> dict[str, float]:
  """Share of weights whose sign never changed, by layer and in total.

  Args:
    flips: by layer, the number of flips of each weight, integers of any shape.

  Returns:
    The share of each layer under its name, and under "total" that of all
    weights together (large layers count for more).

  Raises:
    ValueError: no layers, an empty one, or one of the name "total".

  Examples:
    >>> never_flipped({"conv1": [0, 0, 2, 1], "conv2": [0, 0]})
    {'conv1': 0.5, 'conv2': 1.0, 'total': 0.6666666666666666}
  """
  return _shares({name: np.asarray(n) == 0 for name, n in flips.items()})


def silent(
  flip_ema: Mapping[str, ArrayLike], threshold: float = 1e-4
) -> dict[str, float]:
  """Share of weights that SAD decays, by layer and in total.

  Args:
    flip_ema: by layer, SAD's average of the flips of each weight, any shape.
    threshold: below this, strictly, a weight is silent.

  Returns:
    The share of each layer under its name, and under "total" that of all
    weights together.

  Raises:
    ValueError: no layers, an empty one, or one of the name "total".

  Examples:
    >>> silent({"conv1": [0.0, 1e-5, 1e-4, 1e-3]})
    {'conv1': 0.5, 'total': 0.5}

  References:
    Xiang et al., `OvSW: Overcoming Silent Weights for Accurate Binary Neural
    Networks <https://arxiv.org/abs/2407.05257>`_, 2024
  """
  return _shares({k: np.asarray(v) < threshold for k, v in flip_ema.items()})


def _shares(marked: dict[str, np.ndarray]) -> dict[str, float]:
  for name, mask in marked.items():
    if not mask.size or name == "total":
      raise ValueError(
        f"Layer {name!r} has {mask.size} weights; layers need at least one, and"
        " a name other than 'total'."
      )
  if not marked:
    raise ValueError("No layers were given; name at least one binary layer.")
  total = sum(int(mask.sum()) for mask in marked.values())
  size = sum(mask.size for mask in marked.values())
  return {name: float(mask.mean()) for name, mask in marked.items()} | {
    "total": total / size
  }
