r"""Gradients of a 3x3 convolution by Winograd's minimal filtering, on a CPU.

It takes :math:`m \times m` outputs from :math:`n \times n` inputs :math:`d`,
:math:`n = m + 2`, and a kernel :math:`k` with :math:`n^2` products instead of
:math:`9 m^2`, a quarter of them for :math:`m = 4`:

.. math::

  Y = A^\top [(G\, k\, G^\top) \odot (B^\top d\, B)]\, A.

Its transpose gives the kernel's gradient. With many channels the products are
matrix products, one for each of the :math:`n^2` places, and the rest is little.

Unlike sums of bits, gradients are rounded anyway. In float32 the error here is
up to 3e-6 of a gradient's root mean square, a few times that of sums over taps
and channels.

References:
  Lavin and Gray, `Fast Algorithms for Convolutional Neural Networks
  <https://arxiv.org/abs/1509.09308>`_, CVPR 2016.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.polynomial import polynomial

from ovsw_jax.products import _chunks
from ovsw_jax.products._bits import unpack_bits
from ovsw_jax.products._geometry import ConvGeometry, Pair

_TAPS = 3
# The kernel's transform is paid for by so many tiles that use it.
_LEAST_TILES = 128
# Transformed tiles in flight of a kernel's gradient; more of them leave the
# cache.
_CHUNK_BYTES, _FEW_CHUNK_BYTES = 2**25, 2**24
# With fewer channels the products of a kernel's gradient are small: two places
# at a time make so many of them that XLA's threads share them.
_MANY_CHANNELS, _FEW_TOGETHER = 128, 2


class Tiling(NamedTuple):
  """Outputs in tiles of `side` x `side`, with the matrices of the formula."""

  side: int  # m
  output: np.ndarray  # A^T, (m, n)
  kernel: np.ndarray  # G, (n, 3)
  data: np.ndarray  # B^T, (n, n)

  @property
  def places(self) -> int:
    """Products a tile and pair of channels."""
    return len(self.data) ** 2

  def counts(self, size: Sequence[int]) -> Pair:
    """Tiles along height and width."""
    return -(-size[0] // self.side), -(-size[1] // self.side)


def _tiling(side: int, points: Sequence[float]) -> Tiling:
  """By Lagrange's interpolation of a product of two polynomials.

  Both are known at the points and at infinity.
  """
  others = [[q for q in points if q != p] for p in points]
  scale = np.array(
    [
      np.prod([p - q for q in rest])
      for p, rest in zip(points, others, strict=True)
    ]
  )
  output = np.hstack([np.vander(points, side, True).T, np.eye(side)[:, -1:]])
  kernel = np.vander(points, _TAPS, True) / scale[:, None]
  data = [np.append(polynomial.polyfromroots(rest), 0) for rest in others]
  data.append(polynomial.polyfromroots(points))
  kernel = np.vstack([kernel, np.eye(_TAPS)[-1:]])
  return Tiling(side, output, kernel, np.array(data))


# Large tiles first. Of points that are easy to multiply by, those of tiles of
# four have the smallest rounding errors.
_TILINGS = (
  _tiling(4, (0.0, 1.0, -1.0, 2.0, -0.5)),
  _tiling(2, (0.0, 1.0, -1.0)),
)


def tiling(
  size: Pair, batch: int, kernel_shape: Sequence[int], geometry: ConvGeometry
) -> Tiling | None:
  """What outputs of such a size are best computed in, if in tiles at all.

  Tiles that do not fit the size evenly are computed whole; the products are at
  most half of those of sums over taps.
  """
  if (
    tuple(kernel_shape[:2]) != (_TAPS, _TAPS)
    or geometry._replace(padding=ConvGeometry().padding) != ConvGeometry()
    or not all(0 <= p < _TAPS for side in geometry.padding for p in side)
  ):
    return None
  for choice in _TILINGS:
    tiles = int(np.prod(choice.counts(size)))
    half = 2 * tiles * choice.places <= _TAPS**2 * size[0] * size[1]
    if half and batch * tiles >= _LEAST_TILES:
      return choice
  return None


def _combined(matrix: np.ndarray, parts: list[jax.Array]) -> list[jax.Array]:
  """The matrix times a vector of arrays, without its zeros."""
  return [
    functools.reduce(
      jnp.add,
      (np.float32(c) * part for c, part in zip(row, parts, strict=True) if c),
    )
    for row in matrix
  ]


def _tiles(
  x: jax.Array,
  matrix: np.ndarray,
  side: int,
  before: Pair,
  counts: Pair,
  *,
  axis: int,
  together: int,
  shape: tuple[int, int],
) -> list[jax.Array]:
  """`matrix @ tile @ matrix.T` of every tile of an array.

  Elementwise on all first lines, all second lines, ... it takes half the time
  that it takes as matrix products.

  Args:
    x: shape (..., height, width, ...).
    matrix: (places, lines of a tile).
    side: a tile begins so far after the one before it.
    before: the first begins so far outside of the array, where zeros are.
    counts: tiles along height and width.
    axis: where the height is; the width comes next.
    together: places of a row in one array; it divides them.
    shape: of the tiles in a place: (-1, channels) or (channels, -1).

  Returns:
    row by row of places, shape (together, *shape).
  """
  lines = matrix.shape[1]
  pads = [(0, 0)] * x.ndim
  for i, (first, count) in enumerate(zip(before, counts, strict=True)):
    last = (count - 1) * side + lines - first - x.shape[axis + i]
    pads[axis + i] = (first, last)
  x = lax.optimization_barrier(jnp.pad(x, pads))

  def cut(x, axis, count):
    return [
      lax.slice_in_dim(x, i, i + (count - 1) * side + 1, side, axis=axis)
      for i in range(lines)
    ]

  # In one array: XLA would compute a row that it need not put together with
  # others anew for every column that reads it.
  rows = jnp.stack(_combined(matrix, cut(x, axis, counts[0])))
  rows = lax.optimization_barrier(rows)
  columns = [_combined(matrix, cut(row, axis + 1, counts[1])) for row in rows]
  return [
    jnp.stack(row[i : i + together]).reshape(together, *shape)
    for row in columns
    for i in range(0, len(row), together)
  ]


def _products(
  subscripts: str, left: list[jax.Array], right: list[jax.Array]
) -> list[jax.Array]:
  """Matrix products of all places, those of an array in one batch.

  XLA computes a batch of small matrices on one core. Batches that do not wait
  for each other it computes side by side.
  """
  return [
    jnp.einsum(subscripts, a, b) for a, b in zip(left, right, strict=True)
  ]


def _from_tiles(
  sums: list[jax.Array], matrix: np.ndarray, batch: int, counts: Pair
) -> jax.Array:
  """`matrix @ tile @ matrix.T` of every tile, put together as NHWC.

  Args:
    sums: for each row of places, shape (places, tiles, channels).
    matrix: (side of a tile, places).
    batch: how many images there are.
    counts: tiles along height and width.

  Returns:
    shape (batch, height, width, channels).
  """
  side, places = matrix.shape
  sums = [s.reshape(places, batch, *counts, s.shape[-1]) for s in sums]
  rows = lax.optimization_barrier(jnp.stack(_combined(matrix, sums)))
  columns = [rows[:, place] for place in range(places)]
  out = jnp.stack(_combined(matrix, columns), axis=4)
  out = jnp.moveaxis(out, 0, 2)  # batch, tiles, side, tiles, side, channels
  return out.reshape(batch, counts[0] * side, counts[1] * side, -1)


def _of_kernel(matrix: np.ndarray, kernel: jax.Array) -> jax.Array:
  """`matrix @ k @ matrix.T` of the kernels k of all pairs of channels.

  Args:
    matrix: shape (p, q).
    kernel: shape (q * q, in, out).

  Returns:
    shape (p * p, in, out).
  """
  both = np.kron(matrix, matrix).astype(np.float32)
  flat = both @ kernel.reshape(kernel.shape[0], -1)
  return flat.reshape(-1, *kernel.shape[1:])


def input_gradient(
  gradient: jax.Array,
  kernel: jax.Array,
  input_shape: tuple[int, ...],
  geometry: ConvGeometry,
  by: Tiling,
) -> jax.Array:
  """Transposed convolution of the output gradient with the kernel.

  Args:
    gradient: of the output, shape (batch, height', width', out), float32.
    kernel: shape (3, 3, in, out), float32.
    input_shape: (batch, height, width, in).
    geometry: of the convolution.
    by: from `tiling`, for the input's height and width.

  Returns:
    shape `input_shape`, float32.
  """
  batch, height, width, _ = input_shape
  counts = by.counts((height, width))
  before = tuple(_TAPS - 1 - side[0] for side in geometry.padding)
  data = _tiles(
    gradient,
    by.data,
    by.side,
    before,
    counts,
    axis=1,
    together=len(by.data),
    shape=(-1, gradient.shape[-1]),
  )
  flipped = by.kernel[:, ::-1]
  weights = _of_kernel(flipped, kernel.reshape(-1, *kernel.shape[2:]))
  weights = jnp.split(weights, len(by.data))
  sums = _products("kto,kio->kti", data, weights)
  out = _from_tiles(sums, by.output, batch, counts)
  return out[:, :height, :width]


def kernel_gradient(
  gradient: jax.Array,
  packed: jax.Array,
  channels: int,
  geometry: ConvGeometry,
  by: Tiling,
) -> jax.Array:
  """Correlation of the input bits with the output gradient.

  Args:
    gradient: of the output, shape (batch, height', width', out), float32.
    packed: shape (batch, height, width, words), from `pack_bits`.
    channels: input channels, so many bits there are of each.
    geometry: of the convolution.
    by: from `tiling`, for the output's height and width.

  Returns:
    shape (3, 3, in, out), float32.
  """
  batch, *size, outputs = gradient.shape
  counts = by.counts(size)
  before = tuple(side[0] for side in geometry.padding)
  of_bits = functools.partial(
    _tiles, matrix=by.data, side=by.side, before=before, counts=counts, axis=1
  )
  of_gradient = functools.partial(
    _tiles,
    matrix=by.output.T,
    side=by.side,
    before=(0, 0),
    counts=counts,
    shape=(-1, outputs),
  )

  def channels_last(first, count):
    words = lax.dynamic_slice_in_dim(packed, first, count)
    cut = lax.dynamic_slice_in_dim(gradient, first, count)
    bits = unpack_bits(words, channels, gradient.dtype)
    together = len(by.data)
    data = of_bits(bits, together=together, shape=(-1, channels))
    weights = of_gradient(cut, axis=1, together=together)
    return jnp.concatenate(_products("kti,kto->kio", data, weights))

  # Of few channels a product is a sum over many tiles. XLA's is fast if these
  # are innermost on its left; with images innermost of them, what comes before
  # the product still works on whole vectors.
  few = max(channels, outputs) < _MANY_CHANNELS
  if few:
    packed = jnp.moveaxis(packed, (0, 3), (3, 0))
    packed = lax.optimization_barrier(packed)

  def images_last(first, count):
    words = lax.dynamic_slice_in_dim(packed, first, count, axis=3)
    cut = lax.dynamic_slice_in_dim(gradient, first, count)
    bits = unpack_bits(words, channels, gradient.dtype, axis=0)
    together = _FEW_TOGETHER
    data = of_bits(bits, together=together, shape=(channels, -1))
    cut = jnp.moveaxis(cut, 0, 2)
    weights = of_gradient(cut, axis=0, together=together)
    return jnp.concatenate(_products("kit,kto->kio", data, weights))

  zeros = jnp.zeros((by.places, channels, outputs), gradient.dtype)
  sums = _chunks.summed(
    images_last if few else channels_last,
    zeros,
    images=batch,
    image_bytes=4 * by.places * int(np.prod(counts)) * (channels + outputs),
    most_bytes=max(_FEW_CHUNK_BYTES if few else _CHUNK_BYTES, zeros.nbytes),
  )
  out = _of_kernel(by.kernel.T, sums)
  return out.reshape(_TAPS, _TAPS, channels, outputs)
