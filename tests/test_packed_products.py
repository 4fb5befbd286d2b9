"""Products with packed operands, of random shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import products


@pytest.mark.parametrize("seed", range(16))
def test_packed_convolutions(seed):
  rng = np.random.default_rng(seed)
  kernel_size = tuple(rng.choice([1, 2, 3, 5], size=2))
  groups = int(rng.choice([1, 1, 1, 2]))
  inputs, outputs = groups * rng.integers(1, 80), groups * rng.integers(1, 40)
  if seed == 0:  # cut into blocks of output channels
    kernel_size, groups, inputs, outputs = (3, 3), 1, 512, 128
  if seed == 1:  # more terms than one sum takes
    kernel_size, groups, inputs, outputs = (3, 3), 1, 1024, 2
  geometry = products.ConvGeometry(
    strides=tuple(int(s) for s in rng.integers(1, 4, size=2)),
    padding=tuple(tuple(map(int, p)) for p in rng.integers(0, 3, size=(2, 2))),
    dilation=tuple(int(d) for d in rng.integers(1, 3, size=2)),
    groups=groups,
  )
  size = 9 + rng.integers(0, 5, size=2)
  x = rng.choice([-1.0, 1.0], size=(2, *size, inputs)).astype("f4")
  w = rng.choice([-1.0, 1.0], size=(*kernel_size, inputs // groups, outputs))
  got = jax.jit(functools.partial(products.packed_conv, geometry=geometry))(
    x, products.pack_kernel(jnp.asarray(w))
  )
  expected = jax.lax.conv_general_dilated(
    x,
    w.astype("f4"),
    geometry.strides,
    geometry.padding,
    rhs_dilation=geometry.dilation,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )
  np.testing.assert_array_equal(got, expected)


def test_packed_products_map_and_multiply_matrices():
  rng = np.random.default_rng(0)
  x = rng.choice([-1.0, 1.0], size=(3, 4, 37)).astype("f4")
  w = rng.choice([-1.0, 1.0], size=(37, 5)).astype("f4")
  words = products.pack_kernel(jnp.asarray(w))
  np.testing.assert_array_equal(products.packed_dot(x, words), x @ w)
  np.testing.assert_array_equal(
    jax.vmap(products.packed_dot, in_axes=(0, None))(x, words), x @ w
  )
