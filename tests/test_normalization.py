"""The short backward pass of batch normalization against differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import nn
from ovsw_jax.nn import _normalization


def by_definition(x, scale, bias, origin):
  del origin
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axis=axes)
  var = jnp.mean(jnp.square(x - mean), axis=axes)
  return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, mean, var


def operands(shape):
  keys = jax.random.split(jax.random.key(0), 5)
  x = 3 + 2 * jax.random.normal(keys[0], shape, jnp.float64)
  scale, bias, origin = (
    jax.random.normal(k, shape[-1:], jnp.float64) for k in keys[1:4]
  )
  gradient = jax.random.normal(keys[4], shape, jnp.float64)
  return (x, scale, bias, origin), gradient


@pytest.mark.parametrize("shape", ((5, 3), (4, 3, 5, 2), (2, 1, 1, 4)))
@pytest.mark.parametrize("gpu", (False, True))
def test_values_and_gradients(shape, gpu, x64, request):
  if gpu:
    request.getfixturevalue("as_a_gpu")
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
  (x, scale, bias, origin), gradient = operands((6, 4, 3))
  _, vjp = jax.vjp(
    lambda x: _normalization.normalize(x, scale, bias, origin, 0.0)[0], x
  )
  (to_x,) = vjp(gradient)
  np.testing.assert_allclose(to_x.sum((0, 1)), 0, atol=1e-12)
  np.testing.assert_allclose((to_x * x).sum((0, 1)), 0, atol=1e-11)


def test_over_a_mapped_axis_as_over_the_whole_batch(x64):
  (x, scale, bias, origin), gradient = operands((8, 3, 2))
  parts, gradients = x.reshape(4, 2, 3, 2), gradient.reshape(4, 2, 3, 2)

  def whole(x):
    y, _, _ = _normalization.normalize(x, scale, bias, origin, 1e-5)
    return jnp.sum(y * gradient)

  def part(x, g):
    y, _, _ = _normalization.normalize(x, scale, bias, origin, 1e-5, "devices")
    return jnp.sum(y * g)

  mapped = jax.vmap(jax.grad(part), axis_name="devices")(parts, gradients)
  np.testing.assert_allclose(
    mapped.reshape(x.shape), jax.grad(whole)(x), rtol=1e-10, atol=1e-12
  )


def test_near_its_origin_float32_is_as_good_as_deviations_from_the_mean():
  noise = np.random.default_rng(0).standard_normal((64, 8, 8, 16), np.float32)
  x = 1000 + noise
  exact = x.astype(np.float64)
  one, zero = jnp.ones(16), jnp.zeros(16)
  _, mean, var = _normalization.normalize(x, one, zero, 998 * one, 1e-5)
  np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-5)


def test_a_constant_channel_far_from_its_origin_has_no_negative_variance():
  x = jnp.full((128, 3), 777.7)
  y, _, var = _normalization.normalize(
    x, jnp.ones(3), jnp.zeros(3), jnp.zeros(3), 1e-5
  )
  assert (var >= 0).all()
  assert jnp.isfinite(y).all()


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_of_half_precision_the_gradient_is_that_and_the_statistics_are_not(
  dtype,
):
  x = 300 * jax.random.normal(jax.random.key(0), (64, 4, 4, 3), dtype)
  norm = nn.BatchNorm()
  variables = norm.init(jax.random.key(1), x)

  def loss(x):
    y, moved = norm.apply(variables, x, train=True, mutable="batch_stats")
    return jnp.sum(y**3), (y, moved)

  gradient, (y, moved) = jax.grad(loss, has_aux=True)(x)
  assert gradient.dtype == dtype
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(jnp.var(y, axis=(0, 1, 2)), 1, rtol=1e-4)
  exact = np.var(np.asarray(x, np.float64), axis=(0, 1, 2), ddof=1)
  var = moved["batch_stats"]["var"]  # float16 ends at 65,504
  np.testing.assert_allclose(var, 0.9 + 0.1 * exact, rtol=1e-4)
