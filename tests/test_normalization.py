"""The short backward pass of batch normalization against differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax.nn import _normalization


def by_definition(x, scale, bias):
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axis=axes)
  var = jnp.mean(jnp.square(x - mean), axis=axes)
  return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, mean, var


def operands(shape):
  keys = jax.random.split(jax.random.key(0), 4)
  x = 3 + 2 * jax.random.normal(keys[0], shape, jnp.float64)
  scale, bias = (
    jax.random.normal(k, shape[-1:], jnp.float64) for k in keys[1:3]
  )
  return (x, scale, bias), jax.random.normal(keys[3], shape, jnp.float64)


@pytest.mark.parametrize("shape", ((5, 3), (4, 3, 5, 2), (2, 1, 1, 4)))
def test_values_and_gradients(shape, x64):
  arguments, gradient = operands(shape)
  expected, plain_vjp = jax.vjp(by_definition, *arguments)
  ours, vjp = jax.vjp(lambda *a: _normalization.normalize(*a, 1e-5), *arguments)
  for a, b in zip(ours, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
  zero = jnp.zeros(shape[-1:], jnp.float64)
  cotangents = (gradient, zero, zero)
  for a, b in zip(vjp(cotangents), plain_vjp(cotangents), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_gradient_is_orthogonal_to_shift_and_scale_of_the_input(x64):
  (x, scale, bias), gradient = operands((6, 4, 3))
  _, vjp = jax.vjp(
    lambda x: _normalization.normalize(x, scale, bias, 0.0)[0], x
  )
  (to_x,) = vjp(gradient)
  np.testing.assert_allclose(to_x.sum((0, 1)), 0, atol=1e-12)
  np.testing.assert_allclose((to_x * x).sum((0, 1)), 0, atol=1e-11)


def test_over_a_mapped_axis_as_over_the_whole_batch(x64):
  (x, scale, bias), gradient = operands((8, 3, 2))
  parts, gradients = x.reshape(4, 2, 3, 2), gradient.reshape(4, 2, 3, 2)

  def whole(x):
    return jnp.sum(_normalization.normalize(x, scale, bias, 1e-5)[0] * gradient)

  def part(x, g):
    y, _, _ = _normalization.normalize(x, scale, bias, 1e-5, "devices")
    return jnp.sum(y * g)

  mapped = jax.vmap(jax.grad(part), axis_name="devices")(parts, gradients)
  np.testing.assert_allclose(
    mapped.reshape(x.shape), jax.grad(whole)(x), rtol=1e-10, atol=1e-12
  )
