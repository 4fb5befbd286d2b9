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


def _places(dtype: jnp.dtype, inner: int) -> jax.Array:
  """Shifts, for words that have so many axes after their bits."""
  places = jnp.arange(jnp.iinfo(dtype).bits, dtype=dtype)
  return places.reshape(-1, *[1] * inner)


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
  return _pack(bits, bits.ndim - 1)


def _pack(bits: jax.Array, axis: int) -> jax.Array:
  """`pack_bits` along an axis, counted from the first."""
  count, inner = bits.shape[axis], bits.ndim - 1 - axis
  dtype = word_dtype(count)
  width = jnp.iinfo(dtype).bits
  words = -(-count // width)
  ones = (bits > 0).astype(dtype)
  filling = [(0, 0)] * axis + [(0, words * width - count)] + [(0, 0)] * inner
  ones = jnp.pad(ones, filling).reshape(
    *bits.shape[:axis], words, width, *bits.shape[axis + 1 :]
  )
  places = _places(dtype, inner)
  return jnp.sum(ones << places, axis=axis + 1, dtype=dtype)


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
  return _pack(kernel, kernel.ndim - 2)


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
  places = _places(packed.dtype, packed.ndim - 1 - axis)
  bits = (jnp.expand_dims(packed, axis + 1) >> places) & 1
  # The arithmetic form vectorizes better than a choice between +1 and -1.
  whole = dtype if jnp.issubdtype(dtype, jnp.signedinteger) else jnp.int32
  signs = (2 * bits.astype(whole) - 1).astype(dtype)
  filled = packed.shape[axis] * bits.shape[axis + 1]
  signs = signs.reshape(*packed.shape[:axis], filled, *packed.shape[axis + 1 :])
  return lax.slice_in_dim(signs, 0, count, axis=axis)


def are_whole_words(shape: tuple[int, ...]) -> bool:
  """Whether a kernel's input channels fill words, of a shape (..., in, out)."""
  if len(shape) < 2 or not shape[-2]:
    return False
  return shape[-2] % jnp.iinfo(word_dtype(shape[-2])).bits == 0
