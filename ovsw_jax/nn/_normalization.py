"""Normalization over all axes but the last, with a short backward pass."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  epsilon: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Standardizes each channel over the batch, then scales and shifts.

  Ioffe and Szegedy, `Batch Normalization <https://arxiv.org/abs/1502.03167>`_,
  2015. The backward pass is the paper's closed form: two sums and one pass,
  where differentiating the forward pass takes twice that.

  Args:
    x: shape (..., channels).
    scale: shape (channels,).
    bias: shape (channels,).
    epsilon: added to the variance.
    axis_name: mapped axis over which mean and variance are averaged.

  Returns:
    The result, shape of `x`, and the batch's mean and biased variance, shape
    (channels,), which pass no gradient.
  """
  return _forward(x, scale, bias, epsilon, axis_name)[0]


def _averaged(value: jax.Array, axis_name: str | None) -> jax.Array:
  return value if axis_name is None else lax.pmean(value, axis_name)


def _forward(x, scale, bias, epsilon, axis_name):
  axes = tuple(range(x.ndim - 1))
  mean = _averaged(jnp.mean(x, axis=axes), axis_name)
  var = _averaged(jnp.mean(jnp.square(x - mean), axis=axes), axis_name)
  inverse = lax.rsqrt(var + epsilon)
  y = (x - mean) * (scale * inverse) + bias
  return (y, mean, var), (x, scale, mean, inverse)


def _backward(epsilon, axis_name, residuals, gradients):
  del epsilon
  x, scale, mean, inverse = residuals
  gradient, axes = gradients[0], tuple(range(x.ndim - 1))
  to_bias = jnp.sum(gradient, axis=axes)
  to_scale = jnp.sum(gradient * (x - mean), axis=axes) * inverse
  count = x.size // x.shape[-1]
  offset = _averaged(to_bias, axis_name) / count
  slope = _averaged(to_scale, axis_name) * inverse / count
  to_x = (gradient - offset - (x - mean) * slope) * (scale * inverse)
  return to_x, to_scale, to_bias


normalize.defvjp(_forward, _backward)
