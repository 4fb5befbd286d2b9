"""IR-Net's weights: Libra-PB, balanced bits with a power of two as scale."""

import jax
import jax.numpy as jnp

from ovsw_jax import sign
from ovsw_jax.quantizers._quantized import Quantized, WeightQuantizer
from ovsw_jax.quantizers._scales import per_output, standardized


def libra_weights(
  estimator: sign.Estimator = sign.ste, *, epsilon: float = 0.0
) -> WeightQuantizer:
  """Weight quantizer: the sign of standardized weights times a power of two.

  With ``z`` the `standardized` latent weights, the bits are ``sign(z)`` and the
  scale ``2^round(log2(mean|z|))`` per output channel, without gradient: a bit
  shift on devices. Gaussian weights have scale 1. The gradient flows through
  the standardization.

  Args:
    estimator: the sign estimator its gradient uses; IR-Net's is `sign.ede`.
    epsilon: added to the variance under the root; with 0, as in the authors'
      code, an output channel of equal weights becomes NaN.

  References:
    Qin et al., `Forward and Backward Information Retention for Accurate Binary
    Neural Networks <https://arxiv.org/abs/1909.10788>`_, CVPR 2020

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> quantize = quantizers.libra_weights()
    >>> latent = jnp.array([[1.0], [1.0], [1.0], [9.0]])
    >>> quantize(latent, 0.0).bits.ravel().tolist()
    [-1.0, -1.0, -1.0, 1.0]
    >>> quantize(latent, 0.0).scale.tolist()
    [1.0]
  """

  def quantize(latent, progress=0.0):
    del progress
    balanced = standardized(latent, epsilon)
    magnitude = jnp.mean(jnp.abs(balanced), axis=per_output(latent))
    shift = jnp.round(jnp.log2(jax.lax.stop_gradient(magnitude)))
    # ldexp is exact; exp2 of a whole number need not be.
    scale = jnp.ldexp(jnp.ones_like(shift), shift.astype(jnp.int32))
    return Quantized(estimator(balanced), scale)

  return quantize
