"""Normalization over all axes but the last, with a short backward pass."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalize(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  origin: jax.Array,
  epsilon: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Standardizes each channel over the batch, then scales and shifts.

  Ioffe and Szegedy, `Batch Normalization <https://arxiv.org/abs/1502.03167>`_,
  2015. The backward pass is the paper's closed form: two sums and one pass,
  where differentiating the forward pass takes twice that.

  Mean and variance come of one pass, from sums of values and of squares as seen
  from `origin`. They are as exact as the two passes of the definition where the
  origin is within a few standard deviations of the mean.

  Args:
    x: shape (..., channels).
    scale: shape (channels,).
    bias: shape (channels,).
    origin: shape (channels,), near the mean; the running mean will do. It moves
      the rounding of the result and nothing else, and gets no gradient.
    epsilon: added to the variance.
    axis_name: mapped axis over which mean and variance are averaged.

  Returns:
    The result, shape of `x`, and the batch's mean and biased variance, shape
    (channels,), which pass no gradient.
  """
  return _forward(x, scale, bias, origin, epsilon, axis_name)[0]


def _averaged(value: jax.Array, axis_name: str | None) -> jax.Array:
  return value if axis_name is None else lax.pmean(value, axis_name)


def _forward(x, scale, bias, origin, epsilon, axis_name):
  axes = tuple(range(x.ndim - 1))
  seen = x - origin
  offset = _averaged(jnp.mean(seen, axis=axes), axis_name)
  square = _averaged(jnp.mean(jnp.square(seen), axis=axes), axis_name)
  var = jnp.maximum(square - jnp.square(offset), 0)
  inverse = lax.rsqrt(var + epsilon)
  y = (seen - offset) * (scale * inverse) + bias
  # Zero-size arrays carry the dtypes that the gradients must have.
  like = [jnp.empty(0, a.dtype) for a in (x, scale, bias)]
  return (y, origin + offset, var), (seen, scale, offset, inverse, like)


def _backward(epsilon, axis_name, residuals, gradients):
  del epsilon
  seen, scale, offset, inverse, like = residuals
  gradient, axes = gradients[0], tuple(range(seen.ndim - 1))
  to_bias = jnp.sum(gradient, axis=axes)
  to_scale = (jnp.sum(gradient * seen, axis=axes) - offset * to_bias) * inverse
  count = seen.size // seen.shape[-1]
  shift = _averaged(to_bias, axis_name) / count
  slope = _averaged(to_scale, axis_name) * inverse / count
  to_x = (gradient - shift - (seen - offset) * slope) * (scale * inverse)
  parts = (to_x, to_scale, to_bias)
  cast = [p.astype(a.dtype) for p, a in zip(parts, like, strict=True)]
  return *cast, None  # none to the origin


normalize.defvjp(_forward, _backward)
