"""ReActNet: Bi-Real Net with learned thresholds around its signs.

Liu et al., `ReActNet: Towards Precise Binary Neural Network with Generalized
Activation Functions <https://arxiv.org/abs/2003.03488>`_, ECCV 2020.
"""

from ovsw_jax import nn
from ovsw_jax.methods import _bireal
from ovsw_jax.methods._method import Method

__all__ = ["reactnet"]


def reactnet(positive_init: bool = False) -> Method:
  """ReActNet: Bi-Real Net's weights, with RSign and RPReLU.

  The authors train it in two steps, see `real_weights`; one step works too.

  Args:
    positive_init: starts latent weights in [0, 0.001), as the authors' code
      does, which matters only in one-step training: see `bireal`.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.reactnet().activation.__name__
    'RPReLU'
  """
  return Method(
    "reactnet", _bireal.conv(nn.RSign, positive_init), activation=nn.RPReLU
  )
