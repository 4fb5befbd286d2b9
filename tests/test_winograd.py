"""Gradients in tiles against sums over taps and channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import products, sign
from ovsw_jax.products import _tiling, _winograd, _xla

SAME = products.ConvGeometry(padding=((1, 1), (1, 1)))
PADDINGS = (SAME.padding, ((0, 0), (0, 0)), ((2, 1), (0, 2)))


def operands(shape, outputs, geometry):
  """Bits, a kernel and a gradient of the output, all float64."""
  keys = jax.random.split(jax.random.key(0), 3)
  bits = sign.hard_sign(jax.random.normal(keys[0], shape, jnp.float64))
  kernel = jax.random.normal(keys[1], (3, 3, shape[-1], outputs), jnp.float64)
  out = _xla.convolve(bits, kernel, geometry, jnp.float64)
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


@pytest.mark.parametrize("channels", (8, 24, 64))
@pytest.mark.parametrize("by", _tiling.TILINGS, ids=lambda by: by.side)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shared", (True, False))
def test_both_gradients(shared, padding, by, channels, monkeypatch, x64):
  monkeypatch.setattr(_winograd, "_BATCHES_SHARED", shared)
  geometry = products.ConvGeometry(padding=padding)
  shape = (3, 11, 8, channels)
  bits, kernel, gradient = operands(shape, 17, geometry)
  ours = _winograd.gradients(
    *single(gradient),
    products.pack_bits(bits),
    *single(kernel),
    geometry,
    by,
  )
  exact = (
    _xla.input_gradient(gradient, kernel, shape, geometry),
    _xla.kernel_gradient(gradient, bits, kernel.shape, geometry),
  )
  for got, want in zip(ours, exact, strict=True):
    assert_close(got, want, 2e-6)


@pytest.mark.parametrize("by", _tiling.TILINGS, ids=lambda by: by.side)
def test_matrices_filter_exactly(by):
  rng = np.random.default_rng(0)
  line, kernel = rng.normal(size=len(by.data)), rng.normal(size=3)
  filtered = by.output @ ((by.kernel @ kernel) * (by.data @ line))
  np.testing.assert_allclose(filtered, np.correlate(line, kernel), rtol=1e-12)
  # Transposed, with outputs for what comes in, it is the kernel's gradient.
  outputs = rng.normal(size=by.side)
  taps = by.kernel.T @ ((by.output.T @ outputs) * (by.data @ line))
  np.testing.assert_allclose(taps, np.correlate(line, outputs), rtol=1e-12)


@pytest.mark.parametrize("by", _tiling.TILINGS, ids=lambda by: by.side)
def test_bits_in_whole_numbers(by):
  whole, scales = _winograd._whole(by.output.T)
  np.testing.assert_array_equal(whole / scales, by.output.T)
  np.testing.assert_array_equal(np.log2(scales) % 1, 0)
  # The largest sum over a tile of bits.
  assert np.abs(whole).sum(axis=1).max() ** 2 < np.iinfo(whole.dtype).max


def test_tiles_are_taken_where_they_save_half_the_products():
  def side(size, batch=128, kernel=(3, 3, 64, 64), **geometry):
    by = _tiling.choose(size, batch, kernel, products.ConvGeometry(**geometry))
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


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
def test_a_convolution_takes_them(dtype, x64, monkeypatch):
  taken, form = [], _winograd.gradients
  monkeypatch.setattr(
    _winograd, "gradients", lambda *args: taken.append(1) or form(*args)
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
  assert taken == [1]
  for got, want in zip(ours, exact, strict=True):
    assert_close(got, want, 3e-6)


def test_chunks_give_the_whole(x64, monkeypatch, part_sizes):
  bits, kernel, gradient = operands((6, 8, 8, 8), 8, SAME)
  packed, by = products.pack_bits(bits), _tiling.TILINGS[0]
  gradient, kernel = single(gradient, kernel)

  def both():
    return _winograd.gradients(gradient, packed, kernel, SAME, by)

  whole = both()
  assert set(part_sizes) == {6}
  part_sizes.clear()
  # Bytes of the 4 tiles of 2 images, of both operands.
  monkeypatch.setattr(_winograd, "_CHUNK_BYTES", 2 * 4 * 36 * (8 + 8) * 4)
  monkeypatch.setattr(_winograd, "_CHUNK_SUMS", 0)
  for part, one in zip(both(), whole, strict=True):
    np.testing.assert_allclose(part, one, rtol=1e-4, atol=1e-4)
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
