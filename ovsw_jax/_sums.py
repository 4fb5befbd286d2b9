"""Sums over arrays, in the form that each backend computes fast.

On CPUs, XLA takes a pass over memory for what is summed and another, of a
single number at a time for integers, for the sum. Halves that are added to each
other it computes together with what they hold, vectorised, in one pass; the
sum over the few numbers that are left is cheap. Beyond four halvings of real
numbers it takes a pass over all of them again, since it would compute each
operand as often as it is used; of flags, whose sums are bytes, six still pay.
Sums of squares of what lies in memory need no halves: for those, and with them
for norms, it has a kernel of its own that takes one pass.

On a GPU a kernel takes some microseconds whatever it does, and XLA sums a large
array in two. So many arrays are first summed by output channel, in the kernels
that compute what is summed, and then all together in one.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

SMALL = 2**12  # Numbers below which one sum is as fast.
_HALVINGS = 4  # Of real numbers, at most so many pay.


@functools.partial(jax.jit, static_argnames="axes", inline=True)
def sums(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """`jnp.sum`, added up in float32 or float64.

  Args:
    x: floating-point, any shape.
    axes: what is summed over, counted from the first.

  Returns:
    The sums, dtype as `x`.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  total = functools.partial(jnp.sum, axis=axes)
  return by_halves(wide, total, axes, _HALVINGS).astype(x.dtype)


def by_halves(
  x: jax.Array,
  total: Callable[[jax.Array], jax.Array],
  axes: Sequence[int],
  halvings: int,
) -> jax.Array:
  """`total` of an array whose halves are first added to each other on CPUs.

  Args:
    x: any array.
    total: sums over axes.
    axes: these, counted from the first. Halved is the one that divides most
      often; but not the array's last, where memory is contiguous, if it has
      another, nor one that is sharded explicitly, which might not split.
    halvings: at most so many.

  Returns:
    What `total` gives.
  """
  if x.size < SMALL:
    return total(x)
  spec = jax.typeof(x).sharding.spec
  possible = [
    (min(_twos(x.shape[i]), halvings), i)
    for i in axes
    if i < max(x.ndim - 1, 1) and spec[i : i + 1] == (None,)
  ]
  times, axis = max(possible, default=(0, 0))

  def halved(x):
    for _ in range(times):
      half = x.shape[axis] // 2
      x = lax.slice_in_dim(x, 0, half, axis=axis) + lax.slice_in_dim(
        x, half, 2 * half, axis=axis
      )
    return total(x)

  return lax.platform_dependent(x, cpu=halved, default=total)


def _twos(size: int) -> int:
  """How often `size` can be halved."""
  return (size & -size).bit_length() - 1


def by_channel(
  x: jax.Array, dtype: jax.typing.DTypeLike | None = None
) -> jax.Array:
  """Sums over all axes but the last, which is a kernel's output channel.

  Those of a vector are one number, shape ().
  """
  axes = tuple(range(x.ndim - 1)) if x.ndim > 1 else None
  return jnp.sum(x, axis=axes, dtype=dtype)


def together(arrays: Sequence[jax.Array]) -> list[jax.Array]:
  """The sum of each of several small arrays, in one kernel.

  Args:
    arrays: any shapes, real numbers.

  Returns:
    Scalars, each of its array's dtype.
  """
  stacked = rows(arrays)
  sums = jnp.sum(stacked, axis=1, dtype=stacked.dtype)
  return [s.astype(x.dtype) for s, x in zip(sums, arrays, strict=True)]


def rows(arrays: Sequence[jax.Array]) -> jax.Array:
  """Small arrays as the rows of one, filled up with zeros.

  Args:
    arrays: any shapes, real numbers. Of more than `SMALL` the sums by channel
      take their place.

  Returns:
    One row of each array.
  """
  small = [x if x.size <= SMALL else by_channel(x, x.dtype) for x in arrays]
  longest = max(x.size for x in small)
  return jnp.stack([jnp.pad(x.ravel(), (0, longest - x.size)) for x in small])
