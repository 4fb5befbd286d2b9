"""Sums by halves: of every shape, kept axis and dtype what NumPy gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import _sums

# Small ones are not halved; odd axes are not; the last ones are halved often.
SHAPES = [
  (3, 2),
  (5, 7, 3),
  (3, 3, 64, 32),
  (32, 64, 3, 3),
  (1, 1, 96, 80),
  (97, 101),
  (4096, 2),
  (3, 1000, 8),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_over_all_axes_but_one(x64, shape, dtype):
  rng = np.random.default_rng(0)
  x = rng.normal(size=shape).astype(dtype)
  tolerance = {"float32": 2e-4, "float64": 1e-11}[dtype]
  for axis in {-1, 0}:
    others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    expected = x.astype(np.float64).sum(axis=others)
    for halvings in range(5):
      sums = _sums.sums(jnp.asarray(x), others, halvings=halvings)
      assert sums.dtype == x.dtype
      np.testing.assert_allclose(sums, expected, atol=tolerance)


def test_numbers_of_low_precision_are_added_in_float32():
  x = jnp.ones((3, 3, 512, 16), jnp.bfloat16)  # bfloat16 stops at 256
  sums = _sums.sums(x, (0, 1, 2))
  assert sums.dtype == jnp.bfloat16
  np.testing.assert_array_equal(sums, jnp.bfloat16(4608))


def test_replicas_sum_each_their_own():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(3, 3, 3, 64, 16)), jnp.float32)
  filters = lambda x: _sums.sums(x, (0, 1, 2))
  alone = jnp.stack([filters(one) for one in x])
  together = jax.vmap(filters)(x)
  np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_halves_of_whole_numbers_add_up(shape):
  rng = np.random.default_rng(0)
  x = rng.integers(0, 2, size=shape)
  total = lambda x: jnp.sum(x, dtype=jnp.int32)
  found = _sums.by_halves(jnp.asarray(x, jnp.uint8), total, range(x.ndim), 7)
  assert found == x.sum()


def test_halved_sums_differentiate():
  x = jnp.ones((3, 3, 64, 16))
  gradient = jax.grad(lambda x: _sums.sums(x, (0, 1, 2))[3])(x)
  np.testing.assert_array_equal(gradient, jnp.zeros(x.shape).at[..., 3].set(1))
