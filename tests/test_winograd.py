"""Gradients in tiles against sums over taps and channels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import products, sign
from ovsw_jax.products import _convolution, _winograd

SAME = products.ConvGeometry(padding=((1, 1), (1, 1)))
PADDINGS = (SAME.padding, ((0, 0), (0, 0)), ((2, 1), (0, 2)))


def operands(shape, outputs, geometry):
  """Bits, a kernel and a gradient of the output, all float64."""
  keys = jax.random.split(jax.random.key(0), 3)
  bits = sign.hard_sign(jax.random.normal(keys[0], shape, jnp.float64))
  kernel = jax.random.normal(keys[1], (3, 3, shape[-1], outputs), jnp.float64)
  out = _convolution.xla_convolve(bits, kernel, geometry, jnp.float64)
  return bits, kernel, jax.random.normal(keys[2], out.shape, jnp.float64)


def single(*arrays):
  return [x.astype(jnp.float32) for x in arrays]


def assert_close(ours, exact, error):
  assert ours.dtype == jnp.float32
  assert ours.shape == exact.shape
  exact = np.asarray(exact)
  rms = np.sqrt(np.mean(np.square(exact)))
  off = np.abs(np.asarray(ours, np.float64) - exact)
  assert np.sqrt(np.mean(np.square(off))) < error * rms
  assert off.max() < 10 * error * rms


@pytest.mark.parametrize(
  "padding, by, many",
  list(itertools.product(PADDINGS, _winograd._TILINGS, (40, 41))),
  ids=lambda value: f"m={value.side}" if hasattr(value, "side") else None,
)
def test_both_gradients(padding, by, many, x64, monkeypatch):
  # With 40 channels images are innermost below 41, and channels below 40.
  monkeypatch.setattr(_winograd, "_MANY_CHANNELS", many)
  geometry = products.ConvGeometry(padding=padding)
  shape = (3, 11, 8, 40)
  bits, kernel, gradient = operands(shape, 17, geometry)
  to_input = _winograd.input_gradient(
    *single(gradient, kernel), shape, geometry, by
  )
  exact = _convolution.xla_input_gradient(gradient, kernel, shape, geometry)
  assert_close(to_input, exact, 3e-6)
  to_kernel = _winograd.kernel_gradient(
    *single(gradient), products.pack_bits(bits), 40, geometry, by
  )
  exact = _convolution.xla_kernel_gradient(
    gradient, bits, kernel.shape, geometry
  )
  assert_close(to_kernel, exact, 3e-6)


@pytest.mark.parametrize("by", _winograd._TILINGS, ids=lambda by: by.side)
def test_matrices_filter_exactly(by):
  rng = np.random.default_rng(0)
  line, kernel = rng.normal(size=len(by.data)), rng.normal(size=3)
  filtered = by.output @ ((by.kernel @ kernel) * (by.data @ line))
  np.testing.assert_allclose(filtered, np.correlate(line, kernel), rtol=1e-12)


def test_tiles_are_taken_where_they_save_half_the_products():
  def side(size, batch=128, kernel=(3, 3, 64, 64), **geometry):
    by = _winograd.tiling(
      size, batch, kernel, products.ConvGeometry(**geometry)
    )
    return by and by.side

  padding = SAME.padding
  assert side((32, 32), padding=padding) == 4
  assert side((7, 7), padding=padding) == 4  # 144 products for 441
  assert side((4, 4), 32, padding=padding) == 2  # 32 tiles of four are too few
  assert side((3, 3), padding=padding) == 4  # 36 products for 81
  assert side((5, 5), padding=padding) is None  # 144 products for 225
  assert side((4, 4), 31, padding=padding) is None
  assert side((0, 0)) is None
  assert side((32, 32), kernel=(1, 1, 64, 64)) is None
  assert side((32, 32), kernel=(3, 5, 64, 64)) is None
  assert side((32, 32), padding=((3, 1), (1, 1))) is None
  assert side((32, 32), strides=(2, 1)) is None
  assert side((32, 32), dilation=(1, 2)) is None
  assert side((32, 32), groups=2) is None


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
@pytest.mark.skipif(
  jax.default_backend() != "cpu", reason="other platforms do without tiles"
)
def test_a_convolution_takes_them(dtype, x64, monkeypatch):
  taken = []
  for name in ("input_gradient", "kernel_gradient"):
    form = getattr(_winograd, name)
    monkeypatch.setattr(
      _winograd,
      name,
      lambda *args, form=form, name=name: taken.append(name) or form(*args),
    )
  shape = (8, 16, 15, 64)
  bits, kernel, gradient = operands(shape, 64, SAME)
  kernel = sign.hard_sign(kernel)
  # What bfloat16 operands round is no error of the tiles.
  gradient = gradient.astype(dtype).astype(jnp.float64)

  def gradients(bits, kernel, gradient, dtype):
    conv = lambda x, w: products.binary_conv(x, w, SAME, dtype, True)
    return jax.vjp(conv, bits, kernel)[1](gradient)

  exact = gradients(bits, kernel, gradient, jnp.float64)
  assert not taken
  ours = jax.jit(gradients, static_argnums=3)(
    *single(bits, kernel, gradient), dtype
  )
  assert taken == ["input_gradient", "kernel_gradient"]
  for got, want in zip(ours, exact, strict=True):
    assert_close(got, want, 3e-6)


@pytest.mark.parametrize(
  "many, limit", ((8, "_CHUNK_BYTES"), (9, "_FEW_CHUNK_BYTES"))
)
def test_chunks_sum_to_the_whole(many, limit, x64, monkeypatch, part_sizes):
  monkeypatch.setattr(_winograd, "_MANY_CHANNELS", many)
  bits, _, gradient = operands((6, 8, 8, 8), 8, SAME)
  packed, by = products.pack_bits(bits), _winograd._TILINGS[0]

  def total():
    return _winograd.kernel_gradient(*single(gradient), packed, 8, SAME, by)

  whole = total()
  assert set(part_sizes) == {6}
  part_sizes.clear()
  # Bytes of the 4 tiles of 2 images, of both operands.
  monkeypatch.setattr(_winograd, limit, 2 * 4 * 36 * (8 + 8) * 4)
  np.testing.assert_allclose(total(), whole, rtol=1e-4, atol=1e-4)
  assert set(part_sizes) == {2}


def test_gradients_map_over_seeds():
  x = jax.random.normal(jax.random.key(0), (2, 128, 4, 4, 32), jnp.float32)
  bits = sign.hard_sign(x)
  kernel = jax.random.normal(jax.random.key(1), (2, 3, 3, 32, 32), jnp.float32)

  def loss(bits, kernel):
    out = products.binary_conv(bits, kernel, SAME)
    return jnp.mean(jnp.sin(out))

  gradients = jax.grad(loss, argnums=(0, 1))
  mapped = jax.vmap(gradients)(bits, kernel)
  for index in range(2):
    alone = gradients(bits[index], kernel[index])
    for one, of_all in zip(alone, mapped, strict=True):
      np.testing.assert_allclose(
        of_all[index], one, rtol=1e-4, atol=1e-5 * float(jnp.abs(one).max())
      )
