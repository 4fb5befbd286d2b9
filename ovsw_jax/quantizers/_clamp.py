"""ReCU's weights: the tails are pulled in before the sign is taken."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ovsw_jax import sign
from ovsw_jax.quantizers._quantized import Quantized, WeightQuantizer
from ovsw_jax.quantizers._scales import standardized


def clamped_weights(
  tau: jax.typing.ArrayLike, estimator: sign.Estimator = sign.ste
) -> WeightQuantizer:
  """Weight quantizer: standardize, clamp to the `tau` quantile, take the sign.

  The latent weights are standardized per output channel (variance plus 1e-5)
  and multiplied by ``2 sqrt(2)``. Of a Laplace distribution with the mean
  magnitude of the *whole layer*, ``Q = -mean|w| ln(2 - 2 tau)`` is the `tau`
  quantile; weights are clamped to ``[-Q, Q]``. The bits are the same without
  the clamp: what it changes is that weights outside get no gradient. Scale one.

  Args:
    tau: quantile in [0.5, 1), a scalar, traced or not; see `tau_schedule`.
    estimator: the sign estimator of the gradient inside.

  References:
    Xu et al., `ReCU: Reviving the Dead Weights in Binary Neural Networks
    <https://arxiv.org/abs/2103.12369>`_, ICCV 2021

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> quantize = quantizers.clamped_weights(tau=0.85)
    >>> quantize(jnp.array([[1.0], [2.0], [9.0]]), 0.0).bits.ravel().tolist()
    [-1.0, -1.0, 1.0]
  """

  def quantize(latent, progress=0.0):
    del progress
    wide = 2 * math.sqrt(2) * standardized(latent)
    limit = -jnp.mean(jnp.abs(wide)) * jnp.log(2 - 2 * tau)
    limit = jax.lax.stop_gradient(limit).astype(latent.dtype)
    # `jnp.clip` alone would halve the gradient at the limit itself.
    clipped = jax.lax.stop_gradient(jnp.clip(wide, -limit, limit))
    clamped = jnp.where(jnp.abs(wide) <= limit, wide, clipped)
    return Quantized(
      estimator(clamped), jnp.ones(latent.shape[-1:], latent.dtype)
    )

  return quantize


def tau_schedule(
  tau_min: float = 0.85, tau_max: float = 0.99
) -> Callable[[jax.typing.ArrayLike], jax.Array]:
  """ReCU's schedule of `tau`: exponential from `tau_min` to `tau_max`.

  ``A exp(progress) + B`` with ``A = (tau_max - tau_min) / (e - 1)`` and
  ``B = tau_min - A``. The authors move it once an epoch, to
  ``progress = epoch / epochs``.

  Raises:
    ValueError: unless ``0.5 <= tau_min <= tau_max < 1``.

  Examples:
    >>> from ovsw_jax import quantizers
    >>> schedule = quantizers.tau_schedule()
    >>> [round(float(schedule(p)), 3) for p in (0.0, 0.5, 1.0)]
    [0.85, 0.903, 0.99]
  """
  if not 0.5 <= tau_min <= tau_max < 1:
    raise ValueError(
      f"tau_min={tau_min} and tau_max={tau_max} must satisfy "
      "0.5 <= tau_min <= tau_max < 1: they are quantiles of a symmetric "
      "distribution."
    )
  slope = (tau_max - tau_min) / (math.e - 1)
  return lambda progress: slope * jnp.exp(progress) + (tau_min - slope)
