"""RBONN's weight quantizer: bits and scale as factors of the latent weight."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ovsw_jax import quantizers, sign

Variant = Literal["code", "paper"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _bilinear(latent, gamma, unit, penalty, variant):
  del penalty, variant
  return sign.hard_sign(latent), unit * jnp.abs(gamma)


def _forward(latent, gamma, unit, penalty, variant):
  out = _bilinear(latent, gamma, unit, penalty, variant)
  return out, (latent, gamma)


def _backward(unit, penalty, variant, residuals, gradients):
  latent, gamma = residuals
  to_bits, _ = gradients  # to the scale: only the sum below, with b for w
  scale = jnp.abs(gamma)
  bits = unit * sign.hard_sign(latent)  # b of the paper
  # The layer multiplies the scale into its output, and so into this gradient;
  # dL/d(b s), which both gradients are made of, has it divided out.
  value_scale = unit * scale
  alive = value_scale > 0
  to_value = jnp.where(alive, to_bits / jnp.where(alive, value_scale, 1), 0)
  error = latent - bits * scale
  code = variant == "code"
  to_latent = penalty * error + to_value * scale * (1 if code else unit)
  to_scale = to_value * (latent if code else bits) - penalty * error * bits
  axes = tuple(range(latent.ndim - 1))
  return to_latent, jnp.sum(to_scale, axis=axes) * jnp.sign(gamma)


_bilinear.defvjp(_forward, _backward)


class BilinearWeights(nn.Module):
  """Weight quantizer: ``unit * sign(w) * |gamma|``, fitted to the weight.

  The gradient is that of the loss plus ``penalty / 2 * ||w - b s||^2``, with
  ``b = unit * sign(w)`` and ``s = |gamma|``, which the loss that is reported
  does not contain. With G = dL/d(b s):

  * "code": ``dL/dw = penalty (w - b s) + G s``, without the factor `unit`, and
    ``dL/ds = sum(G w) - penalty sum((w - b s) b)``, with w in the place of b;
  * "paper": the straight-through chain rule: ``dL/dw = penalty (w - b s) +
    G unit s`` and ``dL/ds = sum(G b) - penalty sum((w - b s) b)``.

  Parameters of shape (out,): `gamma`, and `u`, which belongs to the look-ahead
  of `methods.rbonn` and is not used here.

  Attributes:
    unit: the bits' size; 0.02 in the authors' code.
    penalty: weight of the bilinear term; 1e-4 in the authors' code.
    variant: "code" or "paper".
    u_init: where `u` starts.

  References:
    Xu et al., `Recurrent Bilinear Optimization for Binary Neural Networks
    <https://arxiv.org/abs/2209.01542>`_, ECCV 2022

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> latent = jnp.array([[0.3], [-0.2]])
    >>> params = {"gamma": jnp.array([2.0]), "u": jnp.array([0.2])}
    >>> found = nn.BilinearWeights().apply({"params": params}, latent)
    >>> print(found.value.round(2).ravel())
    [ 0.04 -0.04]
  """

  unit: float = 0.02
  penalty: float = 1e-4
  variant: Variant = "code"
  u_init: float = 0.2

  @nn.compact
  def __call__(
    self, latent: jax.Array, progress: jax.typing.ArrayLike = 0.0
  ) -> quantizers.Quantized:
    """Bits in the shape of `latent`, and the scale ``unit * |gamma|``."""
    del progress
    outputs, dtype = latent.shape[-1:], latent.dtype
    gamma = self.param("gamma", nn.initializers.normal(1.0), outputs, dtype)
    self.param("u", nn.initializers.constant(self.u_init), outputs, dtype)
    return quantizers.Quantized(
      *_bilinear(latent, gamma, self.unit, self.penalty, self.variant)
    )
