"""Maximum pooling whose gradient is elementwise."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ovsw_jax.nn import _geometry

_Pairs = tuple[tuple[int, int], tuple[int, int]]
_NONE: _Pairs = ((0, 0), (0, 0))


def taps(
  x: jax.Array,
  window: Sequence[int],
  strides: Sequence[int],
  padding: _Pairs = _NONE,
) -> list[jax.Array]:
  """What each place of the window sees, row by row; the lowest in padding.

  Args:
    x: shape (batch, height, width, channels).
    window: height and width.
    strides: along both.
    padding: before and after, along both.

  Returns:
    One array a place, each of shape (batch, height', width', channels).
  """
  lowest = jnp.finfo(x.dtype).min
  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=lowest)
  ends = [
    (size - reach) // stride * stride + 1
    for size, reach, stride in zip(
      padded.shape[1:3], window, strides, strict=True
    )
  ]
  return [
    padded[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
    for i, j in _places(window)
  ]


def _places(window: Sequence[int]):
  return itertools.product(*map(range, window))


def max_pool(
  x: jax.Array,
  window: tuple[int, int],
  strides: tuple[int, int],
  padding: _Pairs = _NONE,
) -> jax.Array:
  """The maximum over windows, as `flax.linen.max_pool`.

  So is its gradient, which goes to the first of equal maxima, row by row. But
  it is an elementwise function of the output's gradient and of one byte a
  window, the place of its maximum, where XLA scatters: on a GPU by atomic
  additions to zeros, with a copy of these.

  Args:
    x: shape (batch, height, width, channels), any float dtype.
    window: height and width.
    strides: along both.
    padding: before and after, along both; it is never the maximum.

  Returns:
    shape (batch, height', width', channels), dtype of `x`.

  Raises:
    ValueError: for another rank, or a window larger than the padded images.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> nn.max_pool(x, (2, 2), (2, 2))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
  """
  _geometry.check_rank("max_pool", x, "(batch, height, width, channels)", 4)
  for axis, name in enumerate(("height", "width")):
    room = x.shape[axis + 1] + sum(padding[axis])
    if window[axis] > room:
      raise ValueError(
        f"max_pool: a window of {name} {window[axis]} is larger than the "
        f"images, {room} with their padding; pass larger images or a smaller "
        "window"
      )
  return _max_pool(x, window, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, strides, padding):
  # What an export meets: Flax's own, which converters know.
  return nn.max_pool(x, window, strides=strides, padding=padding)


def _forward(x, window, strides, padding):
  seen = taps(x, window, strides, padding)
  highest = seen[0]
  place = jnp.zeros(highest.shape, jnp.uint8)
  for index, value in enumerate(seen[1:], start=1):
    # Not `value > highest`: NaN, once seen, is the maximum.
    place = jnp.where(highest >= value, place, jnp.uint8(index))
    highest = jnp.maximum(highest, value)
  # A zero-size array carries the input's height and width.
  return highest, (place, jnp.empty((0, *x.shape[1:3])))


def _backward(window, strides, padding, residuals, gradient):
  place, like = residuals
  zero = jnp.zeros((), gradient.dtype)
  parts = []
  for index, offsets in enumerate(_places(window)):
    part = jnp.where(place == index, gradient, zero)
    spread = [(0, 0, 0)]
    for axis in (0, 1):
      before = offsets[axis] - padding[axis][0]
      reach = (part.shape[axis + 1] - 1) * strides[axis] + 1
      after = like.shape[axis + 1] - reach - before
      spread.append((before, after, strides[axis] - 1))
    parts.append(lax.pad(part, zero, [*spread, (0, 0, 0)]))
  return (functools.reduce(jnp.add, parts),)


_max_pool.defvjp(_forward, _backward)
