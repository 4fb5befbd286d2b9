r"""Gradients of a 3x3 convolution by Winograd's minimal filtering, on a CPU.

It takes :math:`m \times m` outputs from :math:`n \times n` inputs :math:`d`,
:math:`n = m + 2`, and a kernel :math:`k` with :math:`n^2` products instead of
:math:`9 m^2`, a quarter of them for :math:`m = 4`:

.. math::

  Y = A^\top [(G\, k\, G^\top) \odot (B^\top d\, B)]\, A.

Of the output's gradient as :math:`d` and the kernel turned round it gives the
input's gradient. The formula's transpose gives the kernel's gradient, turned
round as well, out of the same :math:`d` and tiles :math:`x` of the input:

.. math::

  G^\top \Bigl[\sum (A\, x\, A^\top) \odot (B^\top d\, B)\Bigr]\, G.

With many channels the products are matrix products, one for each of the
:math:`n^2` places, and the rest is little.

Unlike sums of bits, gradients are rounded anyway. In float32 the error here is
up to 3e-6 of a gradient's root mean square, a few times that of sums over taps
and channels.

References:
  Lavin and Gray, `Fast Algorithms for Convolutional Neural Networks
  <https://arxiv.org/abs/1509.09308>`_, CVPR 2016.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ovsw_jax._bits import unpack_bits
from ovsw_jax.products import _chunks
from ovsw_jax.products._geometry import ConvGeometry, Pair
from ovsw_jax.products._tiling import TAPS, Tiling

# Transformed tiles in flight; more of them leave the cache. A part is worth its
# time where its tiles are many times as large as the sums that it adds to.
_CHUNK_BYTES, _CHUNK_SUMS = _chunks.CACHE_BYTES // 4, 16
# Before jax 0.11, XLA computes a batch of small matrices on one core, and
# batches side by side.
_BATCHES_SHARED = jax.__version_info__ >= (0, 11)


def _together(width: int) -> int:
  """Of a row's places, how many are in an array, and so in a batch."""
  return width if _BATCHES_SHARED else 2


def _combined(
  matrix: np.ndarray, parts: Sequence[jax.Array]
) -> list[jax.Array]:
  """The matrix times a vector of arrays, without its zeros."""
  return [
    functools.reduce(
      jnp.add,
      (
        part.dtype.type(c) * part
        for c, part in zip(row, parts, strict=True)
        if c
      ),
    )
    for row in matrix
  ]


def _rows(matrix: np.ndarray, lines: Sequence[jax.Array]) -> jax.Array:
  """`_combined`, in one array that is written to memory.

  XLA would compute what it need not put together with others anew for each of
  its readers.
  """
  return lax.optimization_barrier(jnp.stack(_combined(matrix, lines)))


def _places(
  matrix: np.ndarray,
  rows: Sequence[Sequence[jax.Array]],
  shape: tuple[int, ...],
) -> list[jax.Array]:
  """The matrix times each of the rows; all places, `_together` in an array.

  Elementwise on whole arrays it takes half the time that it takes as matrix
  products.
  """
  places = [place for row in rows for place in _combined(matrix, row)]
  count = _together(len(matrix))
  return [
    jnp.stack(places[i : i + count]).reshape(count, *shape)
    for i in range(0, len(places), count)
  ]


def _transformed(matrix: np.ndarray, x: jax.Array) -> list[jax.Array]:
  """`matrix @ x @ matrix.T` of arrays x, shape (lines, lines, ...)."""
  lines, shape = len(x), x.shape[2:]
  rows = _rows(matrix, list(x.reshape(lines, -1)))
  rows = rows.reshape(len(matrix), lines, -1)
  return _places(matrix, [list(row) for row in rows], shape)


def _columns(
  matrix: np.ndarray, places: list[jax.Array], shape: tuple[int, ...]
) -> list[jax.Array]:
  """`matrix @ x @ matrix.T` of arrays x in places, column by column.

  Args:
    matrix: shape (lines, places of a row).
    places: from `_places`, or products of such.
    shape: of an x's place.

  Returns:
    for each column, shape (lines, *shape).
  """
  lines, width = matrix.shape
  count = _together(width)
  step = width // count
  columns = []
  for first in range(step):
    rows = _rows(matrix, [x.reshape(-1) for x in places[first::step]])
    rows = rows.reshape(lines, count, *shape)
    columns += [rows[:, place] for place in range(count)]
  return _combined(matrix, columns)


def _padded(x: jax.Array, by: Tiling, before: Pair, counts: Pair) -> jax.Array:
  """With zeros where tiles reach beyond it.

  Args:
    x: shape (batch, height, width, channels).
    by: the tiling.
    before: the first tile begins so far outside of x.
    counts: tiles along height and width.
  """
  pads = [(0, 0)] * 4
  for axis, (first, count) in enumerate(zip(before, counts, strict=True), 1):
    end = (count - 1) * by.side + len(by.data)
    pads[axis] = (first, end - first - x.shape[axis])
  return lax.optimization_barrier(jnp.pad(x, pads))


def _gradient_tiles(x: jax.Array, by: Tiling, counts: Pair) -> list[jax.Array]:
  """`B^T d B` of every tile d; they overlap by two lines.

  Args:
    x: from `_padded`.
    by: the tiling.
    counts: tiles along height and width.

  Returns:
    `_places` of shape (tiles, channels).
  """
  batch, height, width, channels = x.shape
  lines = len(by.data)

  down, across = ((count - 1) * by.side + 1 for count in counts)
  # Flat, for long loops.
  flat = x.reshape(batch, height, -1)
  cuts = [
    lax.slice_in_dim(flat, i, i + down, by.side, axis=1) for i in range(lines)
  ]
  rows = _rows(by.data, cuts).reshape(lines, -1, width, channels)

  def cut(row, i):
    # Both at once: of a row by itself, read six times, XLA makes a copy.
    limits = (row + 1, rows.shape[1], i + across, channels)
    return lax.slice(rows, (row, 0, i, 0), limits, (1, 1, by.side, 1))

  rows_of_cuts = [[cut(row, i) for i in range(lines)] for row in range(lines)]
  return _places(by.data, rows_of_cuts, (-1, channels))


def _whole(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Rows times powers of two that make them whole numbers, and these powers."""
  scales = np.ones((len(matrix), 1))
  while (fractions := (scales * matrix % 1).any(axis=1)).any():
    scales[fractions] *= 2
  return (scales * matrix).astype(np.int16), scales


def _bit_tiles(
  packed: jax.Array, channels: int, by: Tiling, counts: Pair
) -> list[jax.Array]:
  """`A x A^T` of every tile x of the bits, A in `_whole` numbers.

  These are small: as int16 they are computed at twice the rate.

  Args:
    packed: shape (batch, height, width, words), from `pack_bits`.
    channels: so many bits there are of each.
    by: the tiling.
    counts: tiles along height and width.

  Returns:
    `_places` of shape (channels, tiles), float32.
  """
  matrix, _ = _whole(by.output.T)
  side, (batch, *size, words) = by.side, packed.shape
  filled = [count * side for count in counts]
  beyond = [(0, f - s) for f, s in zip(filled, size, strict=True)]
  packed = jnp.pad(packed, ((0, 0), *beyond, (0, 0)))
  # Cut and turned as words, and put together: XLA would turn them anew for each
  # bit of theirs.
  turned = jnp.stack(
    [
      packed[:, r::side, c::side].reshape(-1, words).T
      for r, c in np.ndindex(side, side)
    ]
  )
  turned = lax.optimization_barrier(turned)
  bits = unpack_bits(turned, channels, jnp.int16, axis=1)
  bits = bits.reshape(side, side, channels, batch, *counts)
  if filled != size:
    down, across = (
      (jnp.arange(f) < s).reshape(-1, side).T.astype(bits.dtype)
      for f, s in zip(filled, size, strict=True)
    )
    bits *= down[:, None, None, None, :, None] * across[:, None, None, None, :]
  places = _transformed(matrix, bits.reshape(side, side, channels, -1))
  return [place.astype(jnp.float32) for place in places]


def gradients(
  gradient: jax.Array,
  packed: jax.Array,
  kernel: jax.Array,
  geometry: ConvGeometry,
  by: Tiling,
) -> tuple[jax.Array, jax.Array]:
  """Of the input bits and of the kernel, given that of the output.

  Args:
    gradient: of the output, shape (batch, height', width', out), float32.
    packed: shape (batch, height, width, words), from `pack_bits`.
    kernel: shape (3, 3, in, out), float32.
    geometry: of the convolution.
    by: from `_tiling.choose`, for the input's height and width.

  Returns:
    shapes (batch, height, width, in) and (3, 3, in, out), float32.
  """
  batch, *size, _ = packed.shape
  channels, outputs = kernel.shape[2:]
  counts = by.counts(size)
  before = tuple(TAPS - 1 - side[0] for side in geometry.padding)
  turned = by.kernel[:, ::-1]
  weights = _transformed(turned, kernel)
  # Before it is cut into parts, for XLA pads it where it computes it.
  padded = _padded(gradient, by, before, counts)

  def products(subscripts, left, right):
    return [
      jnp.einsum(subscripts, a, b) for a, b in zip(left, right, strict=True)
    ]

  def part(first, count):
    cut = lax.dynamic_slice_in_dim(padded, first, count)
    words = lax.dynamic_slice_in_dim(packed, first, count)
    data = _gradient_tiles(cut, by, counts)
    bits = _bit_tiles(words, channels, by, counts)
    # XLA's are fast where the left side is summed over its last axis.
    sums = products("kit,kto->kio", bits, data)
    places = products("kto,kio->kti", data, weights)
    columns = _columns(by.output, places, (count, *counts, channels))
    out = jnp.moveaxis(jnp.stack(columns, axis=4), 0, 2)
    out = out.reshape(count, *(by.side * n for n in counts), channels)
    return sums, out[:, : size[0], : size[1]]

  sums, to_input = _chunks.summed(
    part,
    [jnp.zeros_like(place) for place in weights],
    images=batch,
    image_bytes=4 * by.places * int(np.prod(counts)) * (channels + outputs),
    most_bytes=max(_CHUNK_BYTES, _CHUNK_SUMS * sum(w.nbytes for w in weights)),
  )
  _, scales = _whole(by.output.T)
  columns = _columns((turned / scales).T, sums, (channels, outputs))
  return to_input, jnp.stack(columns, axis=1)
