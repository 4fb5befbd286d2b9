"""Tiles of outputs for Winograd's minimal filtering, and its matrices."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import polynomial

from ovsw_jax.products._geometry import ConvGeometry, Pair

TAPS = 3
# The kernel's transform is paid for by so many tiles that use it.
_LEAST_TILES = 128


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


def _interpolating(side: int, points: Sequence[float]) -> Tiling:
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
  kernel = np.vander(points, TAPS, True) / scale[:, None]
  data = [np.append(polynomial.polyfromroots(rest), 0) for rest in others]
  data.append(polynomial.polyfromroots(points))
  kernel = np.vstack([kernel, np.eye(TAPS)[-1:]])
  return Tiling(side, output, kernel, np.array(data))


# Large tiles first. Of points that are easy to multiply by, those of tiles of
# four have the smallest rounding errors.
TILINGS = (
  _interpolating(4, (0.0, 1.0, -1.0, 2.0, -0.5)),
  _interpolating(2, (0.0, 1.0, -1.0)),
)


def choose(
  size: Pair, batch: int, kernel_shape: Sequence[int], geometry: ConvGeometry
) -> Tiling | None:
  """What outputs of such a size are best computed in, if in tiles at all.

  Tiles that do not fit the size evenly are computed whole; the products are at
  most half of those of sums over taps.
  """
  if (
    tuple(kernel_shape[:2]) != (TAPS, TAPS)
    or geometry._replace(padding=ConvGeometry().padding) != ConvGeometry()
    or not all(0 <= p < TAPS for side in geometry.padding for p in side)
  ):
    return None
  for choice in TILINGS:
    tiles = int(np.prod(choice.counts(size)))
    half = 2 * tiles * choice.places <= TAPS**2 * size[0] * size[1]
    if half and batch * tiles >= _LEAST_TILES:
      return choice
  return None
