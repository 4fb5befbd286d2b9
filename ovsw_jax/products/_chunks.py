"""A batch of images, a part of it at a time.

On a CPU a part is as large as the cache allows: XLA's loops make their passes
one after the other, and put the results together on one core. Without them, on
a Xeon with 480 MB of cache, ResNet-20's step at batch 128 takes 0.86 of the
time and ResNet-18's at batch 32 0.96.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# What a cache is taken for where none is described, or a smaller one; and at
# most, for what is in flight is memory as well.
_LEAST_CACHE, _MOST_CACHE = 2**25, 2**28


def cache_bytes(
  described: pathlib.Path = pathlib.Path("/sys/devices/system/cpu/cpu0/cache"),
) -> int:
  """The size of the largest cache of the first core, within bounds.

  Args:
    described: where Linux describes each cache in a folder of its own.
  """
  try:
    sizes = [path.read_text() for path in described.glob("index*/size")]
    found = [int(size.strip().removesuffix("K")) * 1024 for size in sizes]
  except (OSError, ValueError):  # not ours to read, or in another unit
    found = []
  return min(max([_LEAST_CACHE, *found]), _MOST_CACHE)


# Of this machine, read once.
CACHE_BYTES = cache_bytes()


def summed(
  part: Callable[[jax.Array | int, int], tuple[Any, Any]],
  zeros: Any,
  images: int,
  image_bytes: int,
  most_bytes: int,
) -> tuple[Any, Any]:
  """Sums over images, and what there is of each.

  Args:
    part: `part(first, count)`, of so many images from the first on, gives a
      tree of what they add to the sums, and a tree of arrays of which they are
      the first axis.
    zeros: what the sums start from.
    images: how many there are; at least one.
    image_bytes: what an image takes inside `part`.
    most_bytes: what a part may take, unless an image alone takes more.

  Returns:
    the sums, and the other trees put together along the first axis.
  """
  least = min(-(-images * image_bytes // most_bytes), images)
  chunks = next(n for n in range(max(least, 1), images + 1) if images % n == 0)
  count = images // chunks
  if chunks == 1:
    return part(0, count)

  def step(total, index):
    addend, of_images = part(index * count, count)
    return jax.tree.map(jnp.add, total, addend), of_images

  total, of_images = lax.scan(step, zeros, jnp.arange(chunks))
  return total, jax.tree.map(
    lambda x: x.reshape(images, *x.shape[2:]), of_images
  )
