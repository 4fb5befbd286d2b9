"""Signs of weights through packed words: what a comparison says."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import _bits
from ovsw_jax import nn as layers
from ovsw_jax.optax import _statistics

# Words of 32, 16 and 8 bits, of two axes and four; then those that fill none.
SHAPES = [
  (3, 3, 64, 5),
  (32, 7),
  (1, 1, 16, 3),
  (2, 3, 24, 4),
  (8, 1),
  (3, 3, 20, 8),
  (3, 3, 3, 64),
  (0, 4),
  (32, 0),
  (64,),
  (),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8"])
def test_signs_are_those_of_a_comparison(x64, shape, dtype):
  rng = np.random.default_rng(0)
  special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1e-30, 1e-30])
  w = rng.normal(size=shape)
  at = rng.permutation(w.size)[: len(special)]
  if dtype != "int8":
    w.flat[at] = special[: at.size]
  w = jnp.asarray(w, dtype)
  for signs in (_statistics.positive(w), jax.jit(_statistics.positive)(w)):
    assert signs.dtype == jnp.bool_
    np.testing.assert_array_equal(signs, w >= 0)


def test_replicas_have_signs_of_their_own():
  w = jax.random.normal(jax.random.key(0), (4, 32, 6))
  np.testing.assert_array_equal(jax.vmap(_statistics.positive)(w), w >= 0)


def test_words_are_filled_by_whole_groups_of_input_channels():
  filled = [shape for shape in SHAPES if _bits.are_whole_words(shape)]
  assert filled == [*SHAPES[:5], (32, 0)]


def gradient_and_signs(layer, params, x, signs):
  loss = lambda params: jnp.sum(jnp.sin(layer.apply(params, x)))
  seen = _statistics.positive(params) if signs else ()
  return jax.grad(loss)(params), seen


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("signs", [False, True])
def test_a_kernel_is_packed_once(signs):
  """The words of the forward pass and of a transform are the same to XLA."""
  layer, x = layers.BinaryConv(5, 3), jnp.ones((2, 8, 8, 32))
  params = layer.init(jax.random.key(0), x)
  taken = jax.jit(gradient_and_signs, static_argnums=(0, 3))
  program = taken.lower(layer, params, x, signs).compile().as_text()
  packs = re.findall(r"= u32\[3,3,1,5\]\S* (\w+)\(", program)
  assert packs.count("fusion") + packs.count("call") == 1
