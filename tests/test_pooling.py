"""Maximum pooling against Flax's and its scattered gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from ovsw_jax import nn

CASES = [
  ((2, 2), (2, 2), ((0, 0), (0, 0))),
  ((3, 3), (2, 2), ((1, 1), (1, 1))),
  ((3, 2), (1, 2), ((0, 2), (1, 0))),
  ((2, 2), (3, 3), ((0, 0), (0, 0))),
]


def with_gradient(pool, x):
  out, pull = jax.vjp(pool, x)
  return out, *pull(1 + jnp.arange(out.size, dtype=x.dtype).reshape(out.shape))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("size", ((8, 8), (7, 9)))
def test_values_and_gradients_of_many_ties(case, size):
  window, strides, padding = case
  x = jax.random.randint(jax.random.key(0), (2, *size, 3), -2, 2)
  x = x.astype(jnp.float32)
  theirs = lambda x: linen.max_pool(x, window, strides=strides, padding=padding)
  ours = lambda x: nn.max_pool(x, window, strides, padding)
  np.testing.assert_array_equal(ours(x), theirs(x))
  for a, b in zip(
    with_gradient(ours, x), with_gradient(theirs, x), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ("bfloat16", "float64"))
def test_dtypes(dtype, x64):
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 2), dtype)
  out, gradient = with_gradient(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
  assert out.dtype == gradient.dtype == dtype


def test_nan_is_a_maximum():
  x = jnp.array([1.0, jnp.nan, 3.0, 2.0]).reshape(1, 2, 2, 1)
  out, gradient = with_gradient(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
  assert jnp.isnan(out).all() and gradient.sum() == 1


def test_what_does_not_fit_is_named():
  with pytest.raises(ValueError, match=r"window of height 3 .* images, 2 with"):
    nn.max_pool(jnp.ones((1, 1, 8, 2)), (3, 3), (2, 2), ((1, 0), (0, 0)))
  with pytest.raises(ValueError, match=r"max_pool"):
    nn.max_pool(jnp.ones((4, 4, 1)), (2, 2), (2, 2))
