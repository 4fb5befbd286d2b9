"""Convolution of bits with a kernel, one `custom_vjp`.

Which form computes it is decided here alone, by the platform that the program
is lowered for, and on a CPU by whether the kernel is binary: then its sums are
counted by exclusive or and popcount, which gives the same numbers.
`benchmarks/convolution_forms.py` measures them all; on a CPU (two cores,
AVX-512, 3x3, float32, milliseconds):

==================  =======  =========  =======  ============
input               forward             kernel gradient
------------------  ------------------  ---------------------
batch, size, width  XLA      popcount   XLA      patches, dot
==================  =======  =========  =======  ============
128, 32x32, 16      3.7      2.5        22.4     5.4
128, 16x16, 32      3.3      1.8        18.8     6.6
128, 8x8, 64        3.9      1.2        9.9      4.4
32, 32x32, 64       13.6     3.9        63.9     16.7
32, 16x16, 128      8.1      2.6        22.4     12.6
32, 8x8, 256        7.2      3.2        9.1      9.0
32, 4x4, 512        8.2      6.0        10.2     9.4
==================  =======  =========  =======  ============

The input gradient is XLA's transposed convolution, which takes about as long as
its forward convolution. On other platforms all three are XLA's convolutions.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ovsw_jax.products import _packed
from ovsw_jax.products._bits import pack_bits, unpack_bits
from ovsw_jax.products._geometry import ConvGeometry, dilated

_PLAIN = ConvGeometry()


def _accumulator(dtype) -> jnp.dtype:
  return jnp.promote_types(dtype, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def binary_conv(
  bits: jax.Array,
  kernel: jax.Array,
  geometry: ConvGeometry = _PLAIN,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """Convolves bits with a kernel; zero padding, NHWC and HWIO.

  Args:
    bits: +1 or -1, shape (batch, height, width, in).
    kernel: shape (height, width, in / groups, out), any real values.
    geometry: strides, padding, dilation and groups.
    dtype: dtype of the operands inside; bfloat16 is exact for +1/-1 kernels.

  Returns:
    shape (batch, height', width', out), float32, or float64 for float64.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> x, w = -jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 1))
    >>> products.binary_conv(x, w)[0, :, :, 0].tolist()
    [[-18.0, -18.0], [-18.0, -18.0]]
  """
  return _convolve(bits, pack_bits(bits), kernel, geometry, dtype)


def xla_convolve(bits, kernel, geometry, dtype) -> jax.Array:
  """`binary_conv` as XLA's own convolution."""
  return lax.conv_general_dilated(
    bits.astype(dtype),
    kernel.astype(dtype),
    window_strides=geometry.strides,
    padding=geometry.padding,
    rhs_dilation=geometry.dilation,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=geometry.groups,
    preferred_element_type=_accumulator(dtype),
  )


def _convolve(bits, packed, kernel, geometry, dtype):
  def direct(bits, packed, kernel):
    del packed
    return xla_convolve(bits, kernel, geometry, dtype)

  def counted(bits, packed, kernel):
    del bits
    sums = _packed.convolve(packed, kernel, geometry)
    return sums.astype(_accumulator(dtype))

  def by_kernel(bits, packed, kernel):
    # The branch does more than choose: XLA would fuse the sum into each of its
    # consumers, and count anew in all of them, but not out of a branch.
    binary = jnp.all(jnp.abs(kernel) == 1)
    return lax.cond(binary, counted, direct, bits, packed, kernel)

  if not _packed.can_count(kernel.shape, geometry):
    return direct(bits, packed, kernel)
  return lax.platform_dependent(
    bits, packed, kernel, cpu=by_kernel, default=direct
  )


def packed_conv(
  bits: jax.Array,
  words: jax.Array,
  geometry: ConvGeometry = _PLAIN,
) -> jax.Array:
  """Convolves bits with a kernel that is bits as well, packed; no gradient.

  On a CPU products are counted by exclusive or and popcount. On other platforms
  both operands are unpacked to bfloat16 for XLA's convolution, whose units
  multiply faster than others count; sums are exact in either.

  Args:
    bits: +1 or -1, shape (batch, height, width, in).
    words: shape (height, width, words, out), from `pack_kernel`.
    geometry: strides, padding, dilation and groups.

  Returns:
    int32, shape (batch, height', width', out).

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> x, w = -jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 1))
    >>> products.packed_conv(x, products.pack_kernel(w))[0, :, :, 0].tolist()
    [[-18, -18], [-18, -18]]
  """
  channels = bits.shape[-1]

  def counted(bits, words):
    packed = _packed.pack(bits)
    return _packed.convolve_words(packed, words, channels, geometry, apart=True)

  def unpacked(bits, words):
    inputs = channels // geometry.groups
    kernel = unpack_bits(words, inputs, jnp.bfloat16, axis=2)
    sums = xla_convolve(bits, kernel, geometry, jnp.bfloat16)
    return sums.astype(jnp.int32)

  if geometry.groups > 1:
    return unpacked(bits, words)
  return lax.platform_dependent(bits, words, cpu=counted, default=unpacked)


def _forward(bits, kernel, geometry, dtype):
  packed = pack_bits(bits)
  out = _convolve(bits, packed, kernel, geometry, dtype)
  # A zero-size array carries what the cotangent's shape and dtype must be.
  like = jnp.empty((0, *bits.shape[1:]), bits.dtype)
  return out, (packed, kernel, like)


def _backward(geometry, dtype, residuals, gradient):
  packed, kernel, like = residuals
  # Without the barrier XLA's CPU backend fuses the elementwise producers of
  # the gradient into the convolutions' inner loops and recomputes them there.
  gradient = lax.optimization_barrier(gradient).astype(dtype)
  shape = (gradient.shape[0], *like.shape[1:])
  to_input = xla_input_gradient(gradient, kernel.astype(dtype), shape, geometry)
  to_kernel = _kernel_gradient(gradient, packed, shape, kernel.shape, geometry)
  return to_input.astype(like.dtype), to_kernel.astype(kernel.dtype)


binary_conv.defvjp(_forward, _backward)


def xla_input_gradient(gradient, kernel, input_shape, geometry):
  """Transposed convolution of the output gradient with the kernel."""
  height, width, in_per_group, out = kernel.shape
  groups = geometry.groups
  # (h, w, in/g, g, out/g) -> (h, w, out/g, g, in/g): swap in and out by group.
  kernel = kernel.reshape(height, width, in_per_group, groups, out // groups)
  kernel = kernel.transpose(0, 1, 4, 3, 2)[::-1, ::-1]
  kernel = kernel.reshape(height, width, out // groups, groups * in_per_group)
  padding = []
  for axis in (0, 1):
    reach = dilated(kernel.shape[axis], geometry.dilation[axis])
    spread = dilated(gradient.shape[axis + 1], geometry.strides[axis])
    before = reach - 1 - geometry.padding[axis][0]
    padding.append(
      (before, input_shape[axis + 1] + reach - 1 - spread - before)
    )
  return lax.conv_general_dilated(
    gradient,
    kernel,
    window_strides=(1, 1),
    padding=padding,
    lhs_dilation=geometry.strides,
    rhs_dilation=geometry.dilation,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
    preferred_element_type=_accumulator(gradient.dtype),
  )


def xla_kernel_gradient(gradient, bits, kernel_shape, geometry) -> jax.Array:
  """Correlation of the input bits with the output gradient, by XLA."""
  padding = []
  for axis in (0, 1):
    reach = dilated(kernel_shape[axis], geometry.dilation[axis])
    spread = dilated(gradient.shape[axis + 1], geometry.strides[axis])
    before = geometry.padding[axis][0]
    after = spread + reach - 1 - bits.shape[axis + 1] - before
    padding.append((before, after))
  return lax.conv_general_dilated(
    bits,
    gradient,
    window_strides=geometry.dilation,
    padding=padding,
    rhs_dilation=geometry.strides,
    # The batch is summed over, so it stands where input channels do.
    dimension_numbers=("CHWN", "IHWO", "HWNC"),
    batch_group_count=geometry.groups,
    preferred_element_type=_accumulator(gradient.dtype),
  )


def _kernel_gradient(gradient, packed, input_shape, kernel_shape, geometry):
  def direct(gradient, packed):
    bits = unpack_bits(packed, input_shape[-1], gradient.dtype)
    return xla_kernel_gradient(gradient, bits, kernel_shape, geometry)

  def patches(gradient, packed):
    gradient = gradient.astype(_accumulator(gradient.dtype))
    return _packed.kernel_gradient(
      gradient, packed, input_shape, kernel_shape, geometry
    )

  if geometry.groups > 1:
    return direct(gradient, packed)
  return lax.platform_dependent(gradient, packed, cpu=patches, default=direct)
