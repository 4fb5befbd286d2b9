"""Products of bits against XLA's own convolution and dot product."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ovsw_jax import products, sign
from ovsw_jax.products import _convolution, _packed, _xla
from ovsw_jax.products._geometry import output_size

GEOMETRIES = [
  products.ConvGeometry(strides, padding, dilation, groups)
  for strides, padding, dilation, groups in itertools.product(
    ((1, 1), (2, 2), (2, 1)),
    (((1, 1), (1, 1)), ((0, 0), (0, 0)), ((2, 1), (0, 3))),
    ((1, 1), (2, 1)),
    (1, 2),
  )
]


def bits(seed, shape, dtype=jnp.float32):
  return sign.hard_sign(jax.random.normal(jax.random.key(seed), shape, dtype))


def plain_conv(x, w, geometry):
  return lax.conv_general_dilated(
    x,
    w,
    geometry.strides,
    geometry.padding,
    rhs_dilation=geometry.dilation,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=geometry.groups,
  )


@pytest.mark.parametrize("count", (1, 7, 8, 9, 64))
def test_packing_round_trip(count):
  x = bits(0, (3, 2, count))
  packed = products.pack_bits(x)
  assert packed.nbytes == 3 * 2 * -(-count // 8)
  np.testing.assert_array_equal(
    products.unpack_bits(packed, count, jnp.float32), x
  )


@pytest.mark.parametrize("count", (5, 8, 16, 24, 32, 48, 96))
def test_both_ways_to_pack_give_the_same_words(count):
  x = bits(1, (3, 2, count))
  packed = products.pack_bits(x)
  for_a_cpu = _packed.pack(x)
  assert for_a_cpu.dtype == packed.dtype
  np.testing.assert_array_equal(for_a_cpu, packed)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolution_and_both_gradients(geometry, x64):
  x = bits(1, (2, 9, 8, 6), jnp.float64)
  w = bits(2, (3, 2, 6 // geometry.groups, 4), jnp.float64)
  expected, plain_vjp = jax.vjp(lambda x, w: plain_conv(x, w, geometry), x, w)
  out, vjp = jax.vjp(
    lambda x, w: products.binary_conv(x, w, geometry, jnp.float64), x, w
  )
  np.testing.assert_array_equal(out, expected)
  g = jax.random.normal(jax.random.key(3), out.shape, jnp.float64)
  for ours, theirs in zip(vjp(g), plain_vjp(g), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", (1, 7, 16, 24, 40, 64))
@pytest.mark.parametrize("stride", (1, 2))
def test_counted_sums_are_the_convolution(channels, stride):
  geometry = products.ConvGeometry((stride, stride), ((1, 1), (2, 0)))
  x, w = bits(20, (3, 7, 6, channels)), bits(21, (3, 3, channels, 5))
  counted = products.binary_conv(x, w, geometry, jnp.float32)
  np.testing.assert_array_equal(counted, plain_conv(x, w, geometry))


def test_a_real_kernel_is_convolved():
  x = bits(26, (2, 6, 6, 16))
  w = jax.random.normal(jax.random.key(27), (3, 3, 16, 4))
  geometry = products.ConvGeometry(padding=((1, 1), (1, 1)))
  np.testing.assert_allclose(
    products.binary_conv(x, w, geometry), plain_conv(x, w, geometry), rtol=1e-5
  )


def test_gradients_when_patches_come_in_chunks(monkeypatch, part_sizes, x64):
  monkeypatch.setattr(_packed, "_CHUNK_BYTES", 5000)
  geometry = products.ConvGeometry(padding=((1, 1), (1, 1)))
  x = bits(22, (5, 7, 6, 9), jnp.float64)
  w = bits(23, (3, 3, 9, 4), jnp.float64)
  out, plain_vjp = jax.vjp(lambda x, w: plain_conv(x, w, geometry), x, w)
  _, vjp = jax.vjp(
    lambda x, w: products.binary_conv(x, w, geometry, jnp.float64), x, w
  )
  grads = vjp(out)
  # An image has 7 x 6 patches of 9 taps and 9 channels.
  assert set(part_sizes) == {1}
  for ours, theirs in zip(grads, plain_vjp(out), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("platform, counts", (("cpu", True), ("cuda", False)))
def test_the_platform_chooses_the_form(platform, counts):
  x, w = bits(24, (2, 6, 6, 8)), bits(25, (3, 3, 8, 4))

  def loss(x, w):
    plain = products.ConvGeometry()
    out = products.binary_conv(x, w, plain, jnp.float32)
    return jnp.sum(out**2)

  traced = jax.jit(jax.grad(loss, (0, 1))).trace(x, w)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  # Forward and two gradients, or the input's and a forward for real kernels.
  assert text.count("stablehlo.convolution") == (2 if counts else 3)
  assert ("popcnt" in text) == counts


@pytest.mark.parametrize(
  "channels, half", ((64, True), (454, True), (512, False))
)
def test_what_a_gpu_convolves_in_float16(channels, half):
  shape, kernel_shape = (1, 3, 3, channels), (3, 3, channels, 2)
  trace = jax.jit(products.binary_conv, static_argnums=(2, 3, 4)).trace
  x, w = jnp.ones(shape), jnp.ones(kernel_shape)
  plain = products.ConvGeometry()
  for promised in (False, True):
    traced = trace(x, w, plain, jnp.float32, promised)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert ("xf16" in text) == (half and promised)


@pytest.mark.parametrize("channels", (1, 227, 228, 454))
def test_float16_holds_every_sum_that_it_is_used_for(channels):
  geometry = products.ConvGeometry(padding=((1, 1), (1, 1)))
  w = bits(28, (3, 3, channels, 6))
  # The largest sums of all, at borders too, and some just below.
  x = jnp.concatenate([w[..., k][None] for k in range(6)])
  x = jnp.where(jax.random.uniform(jax.random.key(29), x.shape) < 0.01, -x, x)
  assert _convolution._half_is_exact(w.shape)
  half = _convolution._xla_convolve_half(x, w, geometry, jnp.float32)
  np.testing.assert_array_equal(half, plain_conv(x, w, geometry))


def test_bounds_of_float16():
  exact = _convolution._half_is_exact
  assert exact((3, 3, 227, 1)) and not exact((3, 3, 229, 1))
  assert exact((3, 3, 454, 1)) and not exact((3, 3, 456, 1))


@pytest.mark.parametrize(
  "dtype, narrow", ((jnp.bfloat16, True), (jnp.float32, False))
)
def test_a_gpu_rounds_gradients_of_bfloat16(dtype, narrow):
  def gradients(x, w):
    loss = lambda x, w: jnp.sum(
      products.binary_conv(x, w, products.ConvGeometry(), dtype) ** 2
    )
    return jax.grad(loss, (0, 1))(x, w)

  x, w = bits(30, (2, 6, 6, 8)), bits(31, (3, 3, 8, 4))
  traced = jax.jit(gradients).trace(x, w)
  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  convolutions = [
    line for line in text.splitlines() if "stablehlo.convolution" in line
  ]
  results = [line.rpartition("->")[2] for line in convolutions]
  assert sum("bf16" in result for result in results) == 2 * narrow


@pytest.mark.parametrize(
  "strides, kernel", (((2, 2), 3), ((1, 2), 2), ((3, 2), 3), ((2, 2), 5))
)
def test_a_strided_input_gradient_apart(strides, kernel, x64):
  keys = jax.random.split(jax.random.key(0))
  for size, padding in itertools.product(
    ((8, 8), (7, 10)), (((1, 1), (1, 1)), ((0, 2), (3, 0)))
  ):
    geometry = products.ConvGeometry(strides, padding)
    shape = (2, *size, 3)
    weights = jax.random.normal(keys[0], (kernel, kernel, 3, 4))
    height, width = output_size(geometry, size, (kernel, kernel))
    gradient = jax.random.normal(keys[1], (2, height, width, 4))
    operands = gradient, weights, shape, geometry
    apart = _xla.strided_input_gradient(*operands)
    whole = _xla.input_gradient(*operands)
    assert apart.shape == shape
    np.testing.assert_allclose(apart, whole, rtol=1e-12, atol=1e-12)


def test_sizes_that_strides_do_not_divide():
  for size, stride in itertools.product((5, 6, 7, 8), (2, 3)):
    geometry = products.ConvGeometry((stride, stride), ((1, 1), (1, 1)))
    x, w = bits(4, (1, size, size, 3)), bits(5, (3, 3, 3, 2))
    out, vjp = jax.vjp(lambda x, w, g=geometry: plain_conv(x, w, g), x, w)
    _, ours = jax.vjp(
      lambda x, w, g=geometry: products.binary_conv(x, w, g), x, w
    )
    for a, b in zip(ours(out), vjp(out), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5)


def test_bfloat16_operands_accumulate_exactly():
  x, w = bits(6, (1, 8, 8, 512)), bits(7, (3, 3, 512, 4))
  geometry = products.ConvGeometry(padding=((1, 1), (1, 1)))
  out = products.binary_conv(x, w, geometry, jnp.bfloat16)
  assert out.dtype == jnp.float32
  np.testing.assert_array_equal(out, products.binary_conv(x, w, geometry))
  gx, gw = jax.grad(
    lambda x, w: products.binary_conv(x, w, geometry, jnp.bfloat16).sum(),
    (0, 1),
  )(x, w)
  assert gx.dtype == gw.dtype == jnp.float32


def test_residual_of_the_input_is_one_bit_a_value():
  x, w = bits(8, (4, 16, 16, 32)), bits(9, (3, 3, 32, 2))
  _, vjp = jax.vjp(products.binary_conv, x, w)
  kept = sum(leaf.nbytes for leaf in jax.tree.leaves(vjp))
  assert kept == x.size // 8 + w.nbytes


@pytest.mark.parametrize("shape", ((5, 11), (2, 3, 11)))
def test_dot_and_both_gradients(shape, x64):
  x, w = bits(10, shape, jnp.float64), bits(11, (11, 4), jnp.float64)
  expected, plain_vjp = jax.vjp(lambda x, w: x @ w, x, w)
  out, vjp = jax.vjp(lambda x, w: products.binary_dot(x, w, jnp.float64), x, w)
  np.testing.assert_array_equal(out, expected)
  g = jax.random.normal(jax.random.key(12), out.shape, jnp.float64)
  for ours, theirs in zip(vjp(g), plain_vjp(g), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_products_under_vmap_and_scan():
  x, w = bits(13, (3, 2, 6, 6, 4)), bits(14, (3, 3, 4, 5))
  gradient = jax.grad(lambda w, x: (products.binary_conv(x, w) ** 2).sum())
  one_by_one = jnp.stack([gradient(w, part) for part in x])
  mapped = jax.vmap(gradient, (None, 0))(w, x)
  np.testing.assert_allclose(mapped, one_by_one, rtol=1e-6)
  _, scanned = lax.scan(lambda c, part: (c, gradient(w, part)), 0, x)
  np.testing.assert_allclose(scanned, one_by_one, rtol=1e-6)


def test_layers_of_a_shape_are_traced_once():
  traced = []

  def loss(x, kernels):
    for kernel in kernels:
      x = products.binary_conv(sign.ste(x), kernel, geometry)
    return x.sum()

  geometry = products.ConvGeometry(padding=((1, 1), (1, 1)))
  x, kernel = bits(0, (2, 8, 8, 32)), bits(1, (3, 3, 32, 32))
  gradient = jax.make_jaxpr(jax.grad(loss))(x, [kernel, kernel, kernel])
  for eqn in gradient.eqns:
    if eqn.params.get("name") in ("_forward", "_backward"):
      traced.append((eqn.params["name"], id(eqn.params["jaxpr"].jaxpr)))
  assert len(traced) == 6
  assert len(set(traced)) == 2
