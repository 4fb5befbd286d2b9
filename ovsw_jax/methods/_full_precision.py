"""The full-precision twin: real convolutions in the place of binary ones."""

from ovsw_jax import nn
from ovsw_jax.methods._method import Method

__all__ = ["full_precision"]


def full_precision() -> Method:
  """The same network with real weights and activations: the upper bound.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.full_precision().binary
    False
  """
  return Method("full_precision", nn.RealConv, binary=False)
