"""OvSW and its two halves: AGS and SAD on the gradient, nothing elsewhere.

Xiang et al., `OvSW: Overcoming Silent Weights for Accurate Binary Neural
Networks <https://arxiv.org/abs/2407.05257>`_, ECCV 2024. The binary layer is
the same with and without them, so the vanilla network is the fair baseline.
"""

from typing import Literal

from ovsw_jax import nn
from ovsw_jax import optax as transforms
from ovsw_jax.methods._method import Method

__all__ = ["ags", "ovsw", "sad", "vanilla"]

_MASK = transforms.binary_mask()


def vanilla() -> Method:
  """OvSW's network trained with the plain straight-through gradient.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.vanilla().transform is None
    True
  """
  return Method("vanilla", nn.BinaryConv)


def ags(delta: float = 0.04) -> Method:
  """Adaptive gradient scaling alone; see `ovsw_jax.optax.ags`.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.ags(delta=0.02).transform is not None
    True
  """
  return Method("ags", nn.BinaryConv, transforms.ags(delta, mask=_MASK))


def sad(
  weight: float = 9e-4,
  momentum: float = 0.999,
  threshold: float = 1e-4,
  state: Literal["full", "compact"] = "full",
) -> Method:
  """Silence-aware decaying alone; see `ovsw_jax.optax.sad`.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.sad(weight=2e-5).name
    'sad'
  """
  return Method(
    "sad",
    nn.BinaryConv,
    transforms.sad(weight, momentum, threshold, state=state, mask=_MASK),
  )


def ovsw(
  delta: float = 0.04,
  weight: float = 9e-4,
  momentum: float = 0.999,
  threshold: float = 1e-4,
  state: Literal["full", "compact"] = "full",
) -> Method:
  """OvSW: adaptive gradient scaling, then silence-aware decaying.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.ovsw(delta=0.01, weight=2e-5).name  # ImageNet's
    'ovsw'
  """
  return Method(
    "ovsw",
    nn.BinaryConv,
    transforms.ovsw(
      delta, weight, momentum, threshold, state=state, mask=_MASK
    ),
  )
