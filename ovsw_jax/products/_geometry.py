"""Everything static about a 2-D convolution."""

from typing import NamedTuple

import numpy as np

Pair = tuple[int, int]
"""Along height and along width."""


class ConvGeometry(NamedTuple):
  """Strides, zero padding after binarization, kernel dilation and groups.

  Examples:
    >>> from ovsw_jax import products
    >>> products.ConvGeometry(strides=(2, 2), padding=((1, 1), (1, 1))).groups
    1
  """

  strides: Pair = (1, 1)
  padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
  dilation: Pair = (1, 1)
  groups: int = 1


def dilated(size: int, dilation: int) -> int:
  """Extent of `size` points that are `dilation` apart."""
  return (size - 1) * dilation + 1


def output_size(
  geometry: ConvGeometry, input_size: Pair, kernel_size: Pair
) -> Pair:
  """Height and width of a convolution's output."""
  sizes = []
  for axis in (0, 1):
    reach = dilated(kernel_size[axis], geometry.dilation[axis])
    room = input_size[axis] + sum(geometry.padding[axis]) - reach
    sizes.append(max(room // geometry.strides[axis] + 1, 0))
  return sizes[0], sizes[1]


def taps_on_padding(
  geometry: ConvGeometry, input_size: Pair, kernel_size: Pair
) -> np.ndarray:
  """Where kernel taps read padding: bool, (height', width', kh, kw)."""
  outside = []
  for axis, length in enumerate(output_size(geometry, input_size, kernel_size)):
    place = (
      np.arange(length)[:, None] * geometry.strides[axis]
      + np.arange(kernel_size[axis])[None, :] * geometry.dilation[axis]
      - geometry.padding[axis][0]
    )
    outside.append((place < 0) | (place >= input_size[axis]))
  rows, columns = outside
  return rows[:, None, :, None] | columns[None, :, None, :]
