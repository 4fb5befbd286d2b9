"""Convolutions under a `vmap` over kernels, as a GPU has them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ovsw_jax import products, sign

REPLICAS = 3
GEOMETRY = products.ConvGeometry((2, 2), ((1, 1), (1, 0)))


def bit_conv(x, kernel, dtype=jnp.float32, promised=True):
  return products.binary_conv(x, kernel, GEOMETRY, dtype, promised)


def real_conv(x, kernel):
  return products.real_conv(x, kernel, GEOMETRY)


def operands(shape=(REPLICAS, 2, 7, 6, 5)):
  x, w = jax.random.split(jax.random.key(0))
  x = sign.hard_sign(jax.random.normal(x, shape))
  return x, sign.hard_sign(
    jax.random.normal(w, (*shape[:-4], 3, 3, shape[-1], 4))
  )


def with_gradients(product):
  def made(x, kernel):
    out, pull = jax.vjp(product, x, kernel)
    return out, *pull(jnp.sin(out))

  return made


@pytest.mark.parametrize(
  "product",
  (bit_conv, functools.partial(bit_conv, promised=False), real_conv),
)
@pytest.mark.parametrize("axes", ((0, 0), (0, None), (None, 0)))
def test_each_entry_is_what_it_is_alone(product, axes, as_a_gpu):
  whole = operands()
  taken = [
    a if axis == 0 else a[0] for a, axis in zip(whole, axes, strict=True)
  ]
  made = jax.jit(jax.vmap(with_gradients(product), in_axes=axes))(*taken)
  for i in range(REPLICAS):
    own = [
      a[i] if axis == 0 else a for a, axis in zip(taken, axes, strict=True)
    ]
    for ours, alone in zip(made, with_gradients(product)(*own), strict=True):
      np.testing.assert_allclose(ours[i], alone, rtol=1e-5, atol=1e-5)


def test_a_vmap_in_a_vmap(as_a_gpu):
  x, w = operands((2, REPLICAS, 2, 7, 6, 5))
  made = jax.vmap(jax.vmap(with_gradients(bit_conv)))(x, w)
  alone = with_gradients(bit_conv)(x[1, 2], w[1, 2])
  for ours, other in zip(made, alone, strict=True):
    np.testing.assert_allclose(ours[1, 2], other, rtol=1e-5, atol=1e-5)


def convolutions(product, platform):
  """(groups of a `vmap` over both operands, of each convolution) lowered."""
  mapped = jax.jit(jax.vmap(with_gradients(product)))
  text = mapped.trace(*operands()).lower(lowering_platforms=(platform,))
  lines = re.findall(
    r"batch_group_count = (\d+).*feature_group_count = (\d+)", text.as_text()
  )
  return [max(map(int, groups)) for groups in lines]


@pytest.mark.parametrize(
  "product", (bit_conv, functools.partial(bit_conv, dtype=jnp.bfloat16))
)
def test_no_convolution_is_grouped_on_a_gpu(product):
  # Forward and two gradients.
  assert convolutions(product, "cuda") == [1] * 3 * REPLICAS
  assert convolutions(real_conv, "cuda") == [1] * 3 * REPLICAS
  assert convolutions(real_conv, "tpu") == [REPLICAS] * 3


def test_real_convolution_and_derivatives_are_those_of_xla():
  x, w = (a[0] for a in operands())

  def plain(x, kernel):
    return lax.conv_general_dilated(
      x,
      kernel,
      GEOMETRY.strides,
      GEOMETRY.padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  ours = jax.jit(with_gradients(real_conv))(x, w)
  theirs = jax.jit(with_gradients(plain))(x, w)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(a, b)
