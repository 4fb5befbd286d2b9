"""Quantizers: latent weight -> bits * scale, activation -> +1 or -1.

A *weight quantizer* is a function ``(latent, progress) -> Quantized``; an
*activation quantizer* a function ``(x, train, progress) -> bits``; an *output
scale* a function ``latent -> (out,)``. `progress` in [0, 1] is the share of
training that is done, a traced scalar; quantizers without a schedule ignore it.
Latent weights carry their output channel on the last axis: (height, width,
in, out) for convolutions, (in, out) for dense layers.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ovsw_jax import sign

_VARIANCE_EPSILON = 1e-5  # of the reference, in both of its variances


class Quantized(NamedTuple):
  """A quantized weight; what the forward pass uses is `bits * scale`.

  Training reads the value, deployment reads the bits and the scale.
  """

  bits: jax.Array  # shape of the latent weight, +1 or -1
  scale: jax.Array  # shape (out,), broadcast over the last axis

  @property
  def value(self) -> jax.Array:
    """The quantized weight, shape and dtype of the latent weight."""
    return self.bits * self.scale


WeightQuantizer = Callable[[jax.Array, jax.typing.ArrayLike], Quantized]
ActivationQuantizer = Callable[
  [jax.Array, bool, jax.typing.ArrayLike], jax.Array
]
OutputScale = Callable[[jax.Array], jax.Array]


def _per_output(latent: jax.Array) -> tuple[int, ...]:
  return tuple(range(latent.ndim - 1))


def mean_magnitude(latent: jax.Array) -> jax.Array:
  """Mean `|w|` of each output channel, shape (out,), without gradient.

  Rastegari et al., `XNOR-Net <https://arxiv.org/abs/1603.05279>`_, 2016,
  equation 6.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> quantizers.mean_magnitude(jnp.array([[1.0, 0.0], [-3.0, 2.0]])).tolist()
    [2.0, 1.0]
  """
  magnitude = jnp.mean(jnp.abs(latent), axis=_per_output(latent))
  return jax.lax.stop_gradient(magnitude)


def standardized_magnitude(latent: jax.Array) -> jax.Array:
  """Mean `|z|` of each output channel's standardized weights, shape (out,).

  ``z = (w - mean) / sqrt(var + 1e-5)`` over each output channel, with the
  unbiased variance; about 0.798 for Gaussian weights. No gradient flows: it
  is OvSW's computed output scale, and it makes loss and latent gradient
  independent of the latent weights' magnitude.

  Raises:
    ValueError: for filters of a single weight, which have no variance.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> w = jnp.array([[1.0], [2.0], [3.0]])
    >>> float(quantizers.standardized_magnitude(w)[0])  # doctest: +ELLIPSIS
    0.66666...
  """
  axes = _per_output(latent)
  if latent.size == latent.shape[-1]:
    raise ValueError(
      f"a latent weight of shape {latent.shape} has one weight per output "
      "channel, so its variance is not defined; use a learned output scale or "
      "none."
    )
  centred = latent - jnp.mean(latent, axis=axes, keepdims=True)
  variance = jnp.var(centred, axis=axes, ddof=1)
  # mean|w0 / sd| = mean|w0| / sd: the standardized tensor is never built.
  magnitude = jnp.mean(jnp.abs(centred), axis=axes)
  return jax.lax.stop_gradient(
    magnitude / jnp.sqrt(variance + _VARIANCE_EPSILON)
  )


def sign_weights(estimator: sign.Estimator = sign.ste) -> WeightQuantizer:
  """Weight quantizer: the sign of the latent weight, scale one.

  Args:
    estimator: the sign estimator its gradient uses.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> quantize = quantizers.sign_weights()
    >>> quantize(jnp.array([[0.3], [-0.1]]), 0.0).value.tolist()
    [[1.0], [-1.0]]
  """

  def quantize(latent, progress):
    del progress
    return Quantized(
      estimator(latent), jnp.ones(latent.shape[-1:], latent.dtype)
    )

  return quantize


def scaled_sign_weights(
  latent: jax.Array, progress: jax.typing.ArrayLike = 0.0
) -> Quantized:
  """Weight quantizer: sign times mean magnitude, gradient one to the *value*.

  The OvSW code's option ``ste_v2``. The gradient of the value passes to the
  latent weight unchanged, so that of the bits is divided by the scale; an
  output channel of zeros gets no gradient.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> latent = jnp.array([[1.0], [-3.0]])
    >>> quantizers.scaled_sign_weights(latent).value.tolist()
    [[2.0], [-2.0]]
  """
  del progress
  scale = mean_magnitude(latent)

  def derivative(w):
    magnitude = mean_magnitude(w)
    safe = jnp.where(magnitude > 0, magnitude, 1)
    return jnp.where(magnitude > 0, 1 / safe, 0)

  return Quantized(sign.sign_estimator(derivative)(latent), scale)


def sign_activations(
  estimator: sign.Estimator = sign.approx, *, normalize: bool = True
) -> ActivationQuantizer:
  """Activation quantizer: the sign, its gradient window scaled per example.

  With `normalize`, in training, each example is divided by its own standard
  deviation over all axes but the first (unbiased, plus 1e-5 under the root,
  without gradient, without centring) before the sign. The bits are the same;
  the estimator's window becomes relative to the example. This is OvSW's
  activation. In evaluation nothing is divided.

  Args:
    estimator: the sign estimator its gradient uses.
    normalize: whether to divide by the standard deviation in training.

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

  def quantize(x, train, progress):
    del progress
    if normalize and train:
      wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
      variance = jnp.var(wide, axis=range(1, x.ndim), ddof=1, keepdims=True)
      deviation = jnp.sqrt(variance + _VARIANCE_EPSILON)
      x = x / jax.lax.stop_gradient(deviation).astype(x.dtype)
    return estimator(x)

  return quantize
