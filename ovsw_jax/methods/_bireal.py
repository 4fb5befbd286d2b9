"""Bi-Real Net: scaled signs, and a shortcut around every convolution.

Liu et al., `Bi-Real Net: Enhancing the Performance of 1-bit CNNs
<https://arxiv.org/abs/1808.00278>`_, ECCV 2018, as in the authors' PyTorch
code.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ovsw_jax import nn, quantizers, sign
from ovsw_jax.methods._method import Method
from ovsw_jax.nn import _initializers

__all__ = ["bireal"]


def _within_one(latent: jax.Array) -> jax.Array:
  return (jnp.abs(latent) <= 1).astype(latent.dtype)


@_initializers.as_vector
def _small_positive(key, shape, dtype=jnp.float32):
  return 1e-3 * jax.random.uniform(key, shape, dtype)


def conv(
  activation_quantizer: Any, positive_init: bool
) -> Callable[..., nn.BinaryConv]:
  """The convolution of Bi-Real Net and ReActNet.

  The weight is ``mean|w| sign(w)``; its gradient passes to the latent weight
  where ``|w| <= 1``, without the factor ``mean|w|``.
  """
  layer = functools.partial(
    nn.BinaryConv,
    weight_quantizer=quantizers.scaled_sign(_within_one),
    activation_quantizer=activation_quantizer,
    output_scale=None,
  )
  if positive_init:
    layer = functools.partial(layer, kernel_init=_small_positive)
  return layer


def bireal(positive_init: bool = False) -> Method:
  """Bi-Real Net: ApproxSign, scaled signs, and no other non-linearity.

  Args:
    positive_init: starts latent weights in [0, 0.001), as the authors' code
      does. All bits are then +1 at first; without, they start He-normal.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.bireal().name
    'bireal'
  """
  quantizer = quantizers.sign_activations(sign.approx, normalize=False)
  return Method(
    "bireal", conv(quantizer, positive_init), activation=nn.Identity
  )
