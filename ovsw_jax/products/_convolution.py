"""Convolution of bits with a kernel, one `custom_vjp`.

Which form computes it is decided here alone, by the platform that the program
is lowered for, and on a CPU by whether the kernel is binary: then its sums are
counted by exclusive or and popcount, which gives the same numbers. Both
gradients of 3x3 kernels of stride 1 a CPU computes in tiles (`_winograd`).
Otherwise the kernel's are products with unpacked patches, and the input's XLA's
transposed convolution, which with a stride and few channels is taken apart.
`benchmarks/convolution_forms.py` measures them all; on two cores with AVX-512,
jax 0.10, 3x3, float32, in milliseconds:

=======================  ==============  ============================
input                    forward         both gradients
-----------------------  --------------  ----------------------------
batch, size, width       XLA   popcount  XLA   patches  tiles   apart
=======================  ====  ========  ====  =======  =====   =====
128, 32x32, 16           6.3   1.3       19.3  14.9     12.9
128, 32x32, 16, by two   7.1   1.3       23.8  17.7             10.5
128, 16x16, 32           6.9   0.9       25.2  16.1     7.9
128, 16x16, 32, by two   4.6   0.8       15.4  8.5              8.6
128, 8x8, 64             6.2   0.7       17.6  11.2     4.2
32, 32x32, 64            25.6  2.3       53.5  45.0     15.7
32, 32x32, 64, by two    13.6  1.4       26.3  19.7             21.4
32, 16x16, 128           12.8  1.7       28.6  26.8     11.1
32, 8x8, 256             12.1  1.6       26.1  26.4     12.8
32, 4x4, 512             13.5  2.4       31.4  31.3     17.2
=======================  ====  ========  ====  =======  =====   =====

On other platforms all three are XLA's convolutions.

On a GPU, cuDNN writes what it multiplies: of 16-bit operands there are no
float32 results, and XLA would widen the operands instead, to twice the memory
traffic and half the rate. So sums of bits are float16 there, which holds them
exactly, and with bfloat16 operands a gradient is rounded once, after its sum.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ovsw_jax._bits import pack_bits, unpack_bits
from ovsw_jax.products import _packed, _tiling, _winograd, _xla
from ovsw_jax.products._geometry import ConvGeometry
from ovsw_jax.products._repeated import repeated

_PLAIN = ConvGeometry()
# Channels, of input and of output, from which `_winograd` is faster.
_LEAST_CHANNELS = 16
# Input channels up to which a strided convolution's gradient is taken apart. At
# 32 it takes as long and keeps one core busy, not both.
_FEW_CHANNELS = 32


def _half_is_exact(kernel_shape: tuple[int, ...]) -> bool:
  """Whether float16 holds all sums of bits over a window, those cut by padding.

  It has every whole number up to 2048, and every even one up to 4096; a window
  adds an even number of bits if there are so many input channels.
  """
  height, width, inputs, _ = kernel_shape
  return height * width * inputs <= (2048 if inputs % 2 else 4096)


def _pack(bits: jax.Array) -> jax.Array:
  return lax.platform_dependent(bits, cpu=_packed.pack, default=pack_bits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def binary_conv(
  bits: jax.Array,
  kernel: jax.Array,
  geometry: ConvGeometry = _PLAIN,
  dtype: jax.typing.DTypeLike = jnp.float32,
  binary_kernel: bool = False,
) -> jax.Array:
  """Convolves bits with a kernel; zero padding, NHWC and HWIO.

  Args:
    bits: +1 or -1, shape (batch, height, width, in).
    kernel: shape (height, width, in / groups, out), any real values.
    geometry: strides, padding, dilation and groups.
    dtype: dtype of the operands inside; bfloat16 is exact for +1/-1 kernels. On
      a GPU the two gradients are rounded to it, once summed in float32.
    binary_kernel: promises that the kernel is +1 and -1, for which a GPU has a
      faster form; a CPU looks if it is not promised. The sums are the same.

  Returns:
    shape (batch, height', width', out), float32, or float64 for float64.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> x, w = -jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 1))
    >>> products.binary_conv(x, w)[0, :, :, 0].tolist()
    [[-18.0, -18.0], [-18.0, -18.0]]
  """
  packed = _pack(bits)
  return _convolve(bits, packed, kernel, geometry, dtype, binary_kernel)


def _xla_convolve_half(bits, kernel, geometry, dtype) -> jax.Array:
  """`_xla.convolve` of bits with bits, through float16."""
  half = jnp.float16
  sums = _xla.convolve(bits, kernel, geometry, half, half)
  return sums.astype(_xla.accumulator(dtype))


def _convolve(bits, packed, kernel, geometry, dtype, binary_kernel):
  def direct(bits, packed, kernel):
    del packed
    product = functools.partial(_xla.convolve, geometry=geometry, dtype=dtype)
    return repeated(product)(bits, kernel)

  def counted(bits, packed, kernel):
    del bits
    sums = _packed.convolve(packed, kernel, geometry)
    return sums.astype(_xla.accumulator(dtype))

  def by_kernel(bits, packed, kernel):
    # The branch does more than choose: XLA would fuse the sum into each of its
    # consumers, and count anew in all of them, but not out of a branch.
    binary = jnp.all(jnp.abs(kernel) == 1)
    return lax.cond(binary, counted, direct, bits, packed, kernel)

  def by_promise(bits, packed, kernel):
    del bits
    sums = _packed.convolve(packed, kernel, geometry, apart=True)
    return sums.astype(_xla.accumulator(dtype))

  def half(bits, packed, kernel):
    product = functools.partial(
      _xla_convolve_half, geometry=geometry, dtype=dtype
    )
    # XLA would write the signs for its two readers, a byte each, before words
    # and operand.
    bits = unpack_bits(packed, bits.shape[-1], jnp.float16)
    return repeated(product)(bits, kernel)

  narrow = jnp.dtype(dtype).itemsize <= 4
  forms = {}
  if _packed.can_count(kernel.shape, geometry):
    forms["cpu"] = by_promise if binary_kernel else by_kernel
  if binary_kernel and narrow and _half_is_exact(kernel.shape):
    forms["cuda"] = half
  return lax.platform_dependent(bits, packed, kernel, **forms, default=direct)


def packed_conv(
  bits: jax.Array,
  words: jax.Array,
  geometry: ConvGeometry = _PLAIN,
) -> jax.Array:
  """Convolves bits with a kernel that is bits as well, packed; no gradient.

  On a CPU products are counted by exclusive or and popcount. On other platforms
  both operands are unpacked for XLA's convolution, whose units multiply faster
  than others count, to bfloat16, or to float16 on a GPU; sums are exact in all.

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
    kernel = unpack_bits(words, kernel_shape[2], jnp.bfloat16, axis=2)
    sums = _xla.convolve(bits, kernel, geometry, jnp.bfloat16)
    return sums.astype(jnp.int32)

  def half(bits, words):
    kernel = unpack_bits(words, kernel_shape[2], jnp.float16, axis=2)
    sums = _xla_convolve_half(bits, kernel, geometry, jnp.float32)
    return sums.astype(jnp.int32)

  height, width, _, features = words.shape
  kernel_shape = (height, width, channels // geometry.groups, features)
  forms = {"cpu": counted} if geometry.groups == 1 else {}
  if _half_is_exact(kernel_shape):
    forms["cuda"] = half
  return lax.platform_dependent(bits, words, **forms, default=unpacked)


# Of its own, so that layers of one shape are traced once.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _forward(bits, kernel, geometry, dtype, binary_kernel):
  packed = _pack(bits)
  out = _convolve(bits, packed, kernel, geometry, dtype, binary_kernel)
  # A zero-size array carries what the cotangent's shape and dtype must be.
  like = jnp.empty((0, *bits.shape[1:]), bits.dtype)
  return out, (packed, kernel, like)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(geometry, dtype, binary_kernel, residuals, gradient):
  del binary_kernel
  packed, kernel, like = residuals
  gradient = gradient.astype(dtype)
  shape = (gradient.shape[0], *like.shape[1:])

  def one_by_one(gradient, packed, kernel):
    # Without the barrier XLA's CPU backend fuses the elementwise producers of
    # the gradient into the convolutions' inner loops and recomputes them there.
    gradient = lax.optimization_barrier(gradient)
    return (
      _input_gradient(gradient, kernel, shape, geometry),
      _kernel_gradient(gradient, packed, shape, kernel.shape, geometry),
    )

  def in_tiles(gradient, packed, kernel):
    # Computed where it is padded, and nowhere else.
    wide = _xla.accumulator(dtype)
    gradient, kernel = gradient.astype(wide), kernel.astype(wide)
    return _winograd.gradients(gradient, packed, kernel, geometry, tiling)

  tiling = _tiles(shape, kernel.shape, geometry, dtype)
  forms = {"cpu": in_tiles} if tiling else {}
  to_input, to_kernel = lax.platform_dependent(
    gradient, packed, kernel.astype(dtype), **forms, default=one_by_one
  )
  return to_input.astype(like.dtype), to_kernel.astype(kernel.dtype)


binary_conv.defvjp(_forward, _backward)


def _rounded_on_gpu(function, gradient, other) -> jax.Array:
  """`function(gradient, other, result)`, a 16-bit result on a GPU if it may."""
  of = lambda result: repeated(functools.partial(function, result=result))
  wide = of(_xla.accumulator(gradient.dtype))
  if gradient.dtype.itemsize > 2:
    return wide(gradient, other)

  def rounded(gradient, other):
    out = of(gradient.dtype)(gradient, other)
    return out.astype(_xla.accumulator(gradient.dtype))

  return lax.platform_dependent(gradient, other, cuda=rounded, default=wide)


def _tiles(input_shape, kernel_shape, geometry, dtype):
  """The tiles in which a CPU computes both gradients, if it does."""
  batch, *size, _ = input_shape
  if jnp.dtype(dtype).itemsize > 4 or min(kernel_shape[2:]) < _LEAST_CHANNELS:
    return None
  return _tiling.choose(size, batch, kernel_shape, geometry)


def _input_gradient(gradient, kernel, input_shape, geometry):
  options = {"input_shape": input_shape, "geometry": geometry}
  form = functools.partial(_xla.input_gradient, **options)

  def direct(gradient, kernel):
    return _rounded_on_gpu(form, gradient, kernel)

  def by_stride(gradient, kernel):
    return _xla.strided_input_gradient(gradient, kernel, **options)

  strides = geometry.strides
  forms = {}
  if (
    geometry == ConvGeometry(strides, geometry.padding)
    and max(strides) > 1
    and np.all(np.less_equal(strides, kernel.shape[:2]))
    and kernel.shape[2] <= _FEW_CHANNELS
  ):
    forms["cpu"] = by_stride
  return lax.platform_dependent(gradient, kernel, **forms, default=direct)


def _kernel_gradient(gradient, packed, input_shape, kernel_shape, geometry):
  def direct(gradient, packed):
    def of_bits(gradient, packed, result):
      bits = unpack_bits(packed, input_shape[-1], gradient.dtype)
      return _xla.kernel_gradient(
        gradient, bits, kernel_shape, geometry, result
      )

    return _rounded_on_gpu(of_bits, gradient, packed)

  def patches(gradient, packed):
    wide = gradient.astype(_xla.accumulator(gradient.dtype))
    return _packed.kernel_gradient(
      wide, packed, input_shape, kernel_shape, geometry
    )

  forms = {"cpu": patches} if geometry.groups == 1 else {}
  return lax.platform_dependent(gradient, packed, **forms, default=direct)
