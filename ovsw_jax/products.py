"""Convolution and dot product whose left operand is bits.

A binary layer's activation is +1 or -1, so what the backward pass must keep of
it is one bit a value: both products store it packed, eight to a byte, and the
kernel as it is. Accumulation and output are float32 (float64 for float64
operands), whatever the dtype of the operands: sums of bits are integers, which
bfloat16 holds exactly only up to 256.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ovsw_jax import sign

Pair = tuple[int, int]


class ConvGeometry(NamedTuple):
  """Everything static about a 2-D convolution."""

  strides: Pair = (1, 1)
  padding: tuple[Pair, Pair] = ((0, 0), (0, 0))  # zeros, after binarization
  dilation: Pair = (1, 1)  # of the kernel
  groups: int = 1


_PLAIN = ConvGeometry()


def pack_bits(bits: jax.Array) -> jax.Array:
  """Packs +1/-1 along the last axis, shape (..., n) to uint8 (..., n / 8)."""
  return jnp.packbits(bits > 0, axis=-1)


def unpack_bits(packed: jax.Array, count: int, dtype) -> jax.Array:
  """Undoes `pack_bits`: +1 or -1 of shape (..., count) in `dtype`."""
  bits = jnp.unpackbits(packed, axis=-1, count=count)
  return sign.hard_sign(bits.astype(jnp.int8) - 1).astype(dtype)


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


def _conv_forward(bits, kernel, geometry, dtype):
  out = binary_conv(bits, kernel, geometry, dtype)
  # Zero-size arrays carry what the cotangents' shapes and dtypes must be.
  like = jnp.empty((0, *bits.shape[1:]), bits.dtype)
  return out, (pack_bits(bits), kernel, like)


def _conv_backward(geometry, dtype, residuals, gradient):
  packed, kernel, like = residuals
  # Without the barrier XLA's CPU backend fuses the elementwise producers of
  # the gradient into the convolutions' inner loops and recomputes them there.
  gradient = lax.optimization_barrier(gradient).astype(dtype)
  bits = unpack_bits(packed, like.shape[-1], dtype)
  return (
    _input_gradient(
      gradient, kernel.astype(dtype), bits.shape, geometry
    ).astype(like.dtype),
    _kernel_gradient(gradient, bits, kernel.shape, geometry).astype(
      kernel.dtype
    ),
  )


binary_conv.defvjp(_conv_forward, _conv_backward)


def _dilated(size: int, dilation: int) -> int:
  return (size - 1) * dilation + 1


def _input_gradient(gradient, kernel, input_shape, geometry):
  """Transposed convolution of the output gradient with the kernel."""
  height, width, in_per_group, out = kernel.shape
  groups = geometry.groups
  # (h, w, in/g, g, out/g) -> (h, w, out/g, g, in/g): swap in and out by group.
  kernel = kernel.reshape(height, width, in_per_group, groups, out // groups)
  kernel = kernel.transpose(0, 1, 4, 3, 2)[::-1, ::-1]
  kernel = kernel.reshape(height, width, out // groups, groups * in_per_group)
  padding = []
  for axis in (0, 1):
    reach = _dilated(kernel.shape[axis], geometry.dilation[axis])
    spread = _dilated(gradient.shape[axis + 1], geometry.strides[axis])
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


def _kernel_gradient(gradient, bits, kernel_shape, geometry):
  """Correlation of the input bits with the output gradient."""
  padding = []
  for axis in (0, 1):
    reach = _dilated(kernel_shape[axis], geometry.dilation[axis])
    spread = _dilated(gradient.shape[axis + 1], geometry.strides[axis])
    before = geometry.padding[axis][0]
    padding.append((before, spread + reach - 1 - bits.shape[axis + 1] - before))
  return lax.conv_general_dilated(
    bits,
    gradient,
    window_strides=geometry.dilation,
    padding=padding,
    rhs_dilation=geometry.strides,
    # The batch is summed over, so it takes the place of the input channels.
    dimension_numbers=("CHWN", "IHWO", "HWNC"),
    batch_group_count=geometry.groups,
    preferred_element_type=_accumulator(gradient.dtype),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def binary_dot(
  bits: jax.Array, kernel: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
  """Multiplies bits by a matrix.

  Args:
    bits: +1 or -1, shape (..., in).
    kernel: shape (in, out), any real values.
    dtype: dtype of the operands inside; bfloat16 is exact for +1/-1 kernels.

  Returns:
    shape (..., out), float32, or float64 for float64.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> products.binary_dot(jnp.array([[1.0, -1.0]]), jnp.eye(2)).tolist()
    [[1.0, -1.0]]
  """
  return lax.dot_general(
    bits.astype(dtype),
    kernel.astype(dtype),
    (((bits.ndim - 1,), (0,)), ((), ())),
    preferred_element_type=_accumulator(dtype),
  )


def _dot_forward(bits, kernel, dtype):
  like = jnp.empty((0, bits.shape[-1]), bits.dtype)
  return binary_dot(bits, kernel, dtype), (pack_bits(bits), kernel, like)


def _dot_backward(dtype, residuals, gradient):
  packed, kernel, like = residuals
  gradient = lax.optimization_barrier(gradient).astype(dtype)
  bits = unpack_bits(packed, like.shape[-1], dtype)
  wide = _accumulator(dtype)
  batch = tuple(range(bits.ndim - 1))
  to_input = lax.dot_general(
    gradient,
    kernel.astype(dtype),
    (((gradient.ndim - 1,), (1,)), ((), ())),
    preferred_element_type=wide,
  )
  to_kernel = lax.dot_general(
    bits, gradient, ((batch, batch), ((), ())), preferred_element_type=wide
  )
  return to_input.astype(like.dtype), to_kernel.astype(kernel.dtype)


binary_dot.defvjp(_dot_forward, _dot_backward)
