"""A convolution and its gradients as XLA's own convolutions."""

import jax
import jax.numpy as jnp
from jax import lax

from ovsw_jax.products._geometry import ConvGeometry, dilated


def accumulator(dtype) -> jnp.dtype:
  """What operands of a dtype are summed in."""
  return jnp.promote_types(dtype, jnp.float32)


def convolve(bits, kernel, geometry, dtype, result=None) -> jax.Array:
  """Input with a kernel, operands of a dtype; the result in one of its own."""
  return lax.conv_general_dilated(
    bits.astype(dtype),
    kernel.astype(dtype),
    window_strides=geometry.strides,
    padding=geometry.padding,
    rhs_dilation=geometry.dilation,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=geometry.groups,
    preferred_element_type=result or accumulator(dtype),
  )


def input_gradient(gradient, kernel, input_shape, geometry, result=None):
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
    preferred_element_type=result or accumulator(gradient.dtype),
  )


def strided_input_gradient(
  gradient, kernel, input_shape, geometry
) -> jax.Array:
  """`input_gradient` of a strided convolution, without its zeros.

  A stride spreads the gradient, and most of what is multiplied is the zeros in
  between. Rows, and columns, that leave one remainder by the stride read every
  so many taps: each is a plain convolution with these.

  Args:
    gradient: of the output, shape (batch, height', width', out).
    kernel: shape (height, width, in, out); at least the strides.
    input_shape: (batch, height, width, in).
    geometry: of one group, not dilated.
  """
  batch, *size, channels = input_shape
  strides = geometry.strides
  counts = [-(-s // by) for s, by in zip(size, strides, strict=True)]

  def part(*remainders):
    taps, padding = [], []
    for axis, by in enumerate(strides):
      first = remainders[axis] + geometry.padding[axis][0]
      taps.append(slice(first % by, None, by))
      padding.append((first // by, 0))
    return input_gradient(
      gradient,
      kernel[tuple(taps)],
      (batch, *counts, channels),
      ConvGeometry(padding=tuple(padding)),
    )

  rows = [
    jnp.stack([part(row, column) for column in range(strides[1])], axis=3)
    for row in range(strides[0])
  ]
  whole = jnp.stack(rows, axis=2)  # batch, count, stride, count, stride, in
  filled = [count * by for count, by in zip(counts, strides, strict=True)]
  whole = whole.reshape(batch, *filled, channels)
  return whole[:, : size[0], : size[1]]


def kernel_gradient(
  gradient, bits, kernel_shape, geometry, result=None
) -> jax.Array:
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
    preferred_element_type=result or accumulator(gradient.dtype),
  )
