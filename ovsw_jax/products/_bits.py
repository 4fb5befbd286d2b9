"""Bits packed into words along the last axis."""

import jax
import jax.numpy as jnp
from jax import lax


def word_dtype(count: int) -> jnp.dtype:
  """The widest of uint32, uint16 and uint8 that wastes less than a byte."""
  bytes_ = -(-count // 8)
  for dtype in (jnp.uint32, jnp.uint16):
    if bytes_ % jnp.dtype(dtype).itemsize == 0:
      return jnp.dtype(dtype)
  return jnp.dtype(jnp.uint8)


def _places(dtype: jnp.dtype) -> jax.Array:
  return jnp.arange(jnp.iinfo(dtype).bits, dtype=dtype)


def pack_bits(bits: jax.Array) -> jax.Array:
  """Packs +1 and -1 along the last axis, least significant bit first.

  Args:
    bits: shape (..., n), +1 or -1, any real dtype.

  Returns:
    shape (..., words) of uint32, uint16 or uint8, `ceil(n / 8)` bytes for each
    row. Bits beyond n are 0.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> products.pack_bits(jnp.array([1.0, -1.0, 1.0, 1.0]))
    Array([13], dtype=uint8)
  """
  count = bits.shape[-1]
  dtype = word_dtype(count)
  width = jnp.iinfo(dtype).bits
  words = -(-count // width)
  ones = (bits > 0).astype(dtype)
  filling = [(0, 0)] * (bits.ndim - 1) + [(0, words * width - count)]
  ones = jnp.pad(ones, filling).reshape(*bits.shape[:-1], words, width)
  return jnp.sum(ones << _places(dtype), axis=-1, dtype=dtype)


def pack_kernel(kernel: jax.Array) -> jax.Array:
  """Packs a kernel of +1 and -1 along its input channels.

  Args:
    kernel: shape (..., in, out), +1 or -1, any real dtype.

  Returns:
    shape (..., words, out); a column of words is what `pack_bits` makes of an
    output channel.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> products.pack_kernel(jnp.array([[1.0, -1.0], [1.0, 1.0]])).tolist()
    [[3, 2]]
  """
  return jnp.swapaxes(pack_bits(jnp.swapaxes(kernel, -2, -1)), -2, -1)


def unpack_bits(
  packed: jax.Array,
  count: int,
  dtype: jax.typing.DTypeLike,
  axis: int = -1,
) -> jax.Array:
  """Undoes `pack_bits`.

  Args:
    packed: shape (..., words, ...), from `pack_bits`.
    count: how many bits a row has.
    dtype: of the result.
    axis: where the words are.

  Returns:
    +1 or -1, shape (..., count, ...).

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> products.unpack_bits(jnp.array([13], jnp.uint8), 4, jnp.int8).tolist()
    [1, -1, 1, 1]
  """
  axis %= packed.ndim
  inner = range(1, packed.ndim - axis)
  places = jnp.expand_dims(_places(packed.dtype), tuple(inner))
  bits = (jnp.expand_dims(packed, axis + 1) >> places) & 1
  # The arithmetic form vectorizes better than a choice between +1 and -1.
  signs = (2 * bits.astype(jnp.int32) - 1).astype(dtype)
  signs = signs.reshape(*packed.shape[:axis], -1, *packed.shape[axis + 1 :])
  return lax.slice_in_dim(signs, 0, count, axis=axis)
