"""Activation quantizers without parameters."""

import jax
import jax.numpy as jnp

from ovsw_jax import sign
from ovsw_jax.quantizers._quantized import ActivationQuantizer

_VARIANCE_EPSILON = 1e-5  # of the OvSW and ReCU code, under the root


def _deviation(x: jax.Array, epsilon: float) -> jax.Array:
  """Each example's standard deviation over all axes but the first."""
  variance = jnp.var(x, axis=range(1, x.ndim), ddof=1, keepdims=True)
  return jnp.sqrt(variance + epsilon)


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def sign_activations(
  estimator: sign.Estimator = sign.approx,
  *,
  normalize: bool = True,
  detach: bool = True,
) -> ActivationQuantizer:
  """Activation quantizer: the sign, its gradient window scaled per example.

  With `normalize`, in training, each example is divided by its own standard
  deviation over all axes but the first (unbiased, plus 1e-5 under the root,
  without centring) before the sign. The bits are the same; the estimator's
  window becomes relative to the example. In evaluation nothing is divided.

  Args:
    estimator: the sign estimator its gradient uses.
    normalize: whether to divide by the standard deviation in training.
    detach: whether the deviation is a constant to the gradient, as in OvSW;
      in ReCU it is not.

  Returns:
    A function `(x, train, progress)` from an array of shape (batch, ...) to
    +1 and -1 in the same shape and dtype.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> binarize = quantizers.sign_activations()
    >>> binarize(jnp.array([[0.3, -7.0]]), True, 0.0).tolist()
    [[1.0, -1.0]]
  """

  def quantize(x, train, progress=0.0):
    del progress
    if normalize and train:
      deviation = _deviation(_wide(x), _VARIANCE_EPSILON)
      if detach:
        deviation = jax.lax.stop_gradient(deviation)
      # One division an example; a product is cheaper than one for each value.
      x = x * (1 / deviation).astype(x.dtype)
    return estimator(x)

  return quantize


def standardized_sign_activations(
  estimator: sign.Estimator = sign.approx, *, epsilon: float = 0.0
) -> ActivationQuantizer:
  """Activation quantizer: the sign after standardizing each example.

  Mean and unbiased variance are those of each example over all axes but the
  first; the gradient flows through both. Unlike `sign_activations` it centres,
  so the bits are those of ``x - mean``, in evaluation too. RBNN's activation.

  Args:
    estimator: the sign estimator its gradient uses.
    epsilon: added under the root; with 0, as in RBNN's code, the gradient of an
      example without variance is NaN.

  Returns:
    A function `(x, train, progress)` from an array of shape (batch, ...) to
    +1 and -1 in the same shape and dtype.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> binarize = quantizers.standardized_sign_activations()
    >>> binarize(jnp.array([[3.0, 7.0]]), False, 0.0).tolist()
    [[-1.0, 1.0]]
  """

  def quantize(x, train, progress=0.0):
    del train, progress
    wide = _wide(x)
    centred = wide - jnp.mean(wide, axis=range(1, x.ndim), keepdims=True)
    return estimator((centred / _deviation(wide, epsilon)).astype(x.dtype))

  return quantize
