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
    sums = _sums.sums(jnp.asarray(x), others)
    assert sums.dtype == x.dtype
    np.testing.assert_allclose(sums, expected, atol=tolerance)
    total = lambda x, axes=others: jnp.sum(x, axis=axes)
    for halvings in range(5):
      halved = _sums.by_halves(jnp.asarray(x), total, others, halvings)
      np.testing.assert_allclose(halved, expected, atol=tolerance)


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


def test_many_small_sums_together():
  rng = np.random.default_rng(0)
  shapes = [(), (1,), (7,), (3, 1, 5), (4, 1024), (2, 3, 3000)]
  arrays = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]
  flags = [jnp.asarray(x > 0, jnp.uint32) for x in arrays]
  for sums, kind in ((arrays, "float32"), (flags, "uint32")):
    for found, x in zip(_sums.together(sums), sums, strict=True):
      assert found.shape == () and found.dtype == kind
      np.testing.assert_allclose(found, np.sum(x, dtype=kind), rtol=2e-4)


def test_sums_together_keep_each_dtype(x64):
  arrays = [jnp.ones(3, dtype) for dtype in ("bfloat16", "float32", "float64")]
  assert [s.dtype for s in _sums.together(arrays)] == [x.dtype for x in arrays]


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (3, 3, 6, 2)])
def test_sums_by_channel(shape):
  x = np.random.default_rng(0).integers(0, 9, size=shape)
  found = _sums.by_channel(jnp.asarray(x))
  expected = x.sum(axis=tuple(range(x.ndim - 1))) if x.ndim > 1 else x.sum()
  np.testing.assert_array_equal(found, expected)
