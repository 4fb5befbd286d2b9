"""Sums over images, a part of a batch at a time."""

from collections.abc import Callable

import jax
from jax import lax


def summed(
  part: Callable[[jax.Array | int, int], jax.Array],
  zeros: jax.Array,
  images: int,
  image_bytes: int,
  most_bytes: int,
) -> jax.Array:
  """The sum of `part(first, count)` over parts of `count` images each.

  Args:
    part: of the images from the first on.
    zeros: what the sum starts from.
    images: how many there are; at least one.
    image_bytes: what an image takes inside `part`.
    most_bytes: what a part may take, unless an image alone takes more.
  """
  least = min(-(-images * image_bytes // most_bytes), images)
  chunks = next(n for n in range(max(least, 1), images + 1) if images % n == 0)
  count = images // chunks
  if chunks == 1:
    return part(0, count)
  return lax.fori_loop(
    0, chunks, lambda index, total: total + part(index * count, count), zeros
  )
