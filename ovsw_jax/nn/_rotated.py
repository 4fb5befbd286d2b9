"""RBNN's weight quantizer: latent weights rotated towards their bits."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ovsw_jax import quantizers, sign

ROTATIONS = "rotations"
"""The variable collection of the rotations, which have no gradient."""

_orthogonal = nn.initializers.orthogonal()


def _annealed(progress):
  return sign.rbnn(*sign.annealing(1e-2, 10.0)(progress))


class RotatedWeights(nn.Module):
  """Weight quantizer: the sign of weights blended with their rotation.

  With ``z`` the `standardized` latent weights and ``z'`` their rotation, which
  is a constant to the gradient, the bits are the sign of ``(1 - s) z + s z'``
  with ``s = |sin(angle)|`` per output channel. Scale one.

  Parameter: `angle` of shape (out,). The variable collection "rotations" holds
  `r1` and `r2`, random orthogonal matrices at first, which
  `quantizers.fit_rotations` turns once an epoch; pass it to `apply`.

  Attributes:
    angle_init: where `angle` starts. In the authors' code that is pi/2, where
      ``s = 1``: the latent weights then have **no gradient at all**, and the
      angle one of about 1e-7, until weight decay pulls the angle away. With
      pi/4 both learn from the first step on.
    epsilon: added to the variance; 0 in the authors' code.
    estimator: maps `progress` to the sign estimator the gradient uses.

  References:
    Lin et al., `Rotated Binary Neural Network
    <https://arxiv.org/abs/2009.13055>`_, NeurIPS 2020

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> latent = jax.random.normal(jax.random.key(1), (3, 3, 4, 8))
    >>> found, variables = nn.RotatedWeights().init_with_output(
    ...   jax.random.key(0), latent
    ... )
    >>> found.bits.shape, variables["rotations"]["r1"].shape
    ((3, 3, 4, 8), (6, 6))
  """

  angle_init: float = math.pi / 2
  epsilon: float = 0.0
  estimator: Callable[[jax.typing.ArrayLike], sign.Estimator] = _annealed

  @nn.compact
  def __call__(
    self, latent: jax.Array, progress: jax.typing.ArrayLike = 0.0
  ) -> quantizers.Quantized:
    """Bits in the shape of `latent`, and a scale of ones."""
    outputs, dtype = latent.shape[-1:], latent.dtype
    a, b = quantizers.rotation_sides(latent.size // latent.shape[-1])

    def random(side):
      return _orthogonal(self.make_rng("params"), (side, side), dtype)

    r1 = self.variable(ROTATIONS, "r1", random, a).value
    r2 = self.variable(ROTATIONS, "r2", random, b).value
    angle = self.param(
      "angle", nn.initializers.constant(self.angle_init), outputs, dtype
    )
    straight = quantizers.standardized(latent, self.epsilon)
    rotated = jax.lax.stop_gradient(quantizers.rotate(straight, r1, r2))
    share = jnp.abs(jnp.sin(angle))
    bits = self.estimator(progress)(straight + share * (rotated - straight))
    return quantizers.Quantized(bits, jnp.ones(outputs, dtype))
