"""Convolution on packed bits, in the form that XLA's CPU backend runs fast.

Padding is zeros and a bit is not: both functions let a padded tap count as -1
and then take that back, exactly, from what is known of the border.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ovsw_jax._bits import (
  pack_bits,
  pack_kernel,
  unpack_bits,
  word_dtype,
)
from ovsw_jax.products import _chunks
from ovsw_jax.products._geometry import (
  ConvGeometry,
  output_size,
  taps_on_padding,
)

_MOST_WORDS = 256  # terms of one unrolled sum: 3x3 taps of 910 channels
# Beyond these bytes a packed kernel is cut into blocks of output channels.
_LARGE_KERNEL, _BLOCK = 2**16, 64
# Unpacked patches in flight; larger ones leave the cache.
_CHUNK_BYTES = _chunks.CACHE_BYTES // 2


def can_count(kernel_shape: tuple[int, ...], geometry: ConvGeometry) -> bool:
  """Whether `convolve` takes a kernel of this shape."""
  height, width, channels, _ = kernel_shape
  words = height * width * -(-channels // 32)
  return geometry.groups == 1 and words <= _MOST_WORDS


def pack(bits: jax.Array) -> jax.Array:
  """`pack_bits`, in the form that is fast on a CPU, which is little-endian.

  Four comparisons are bytes of a word, which shifts bring together; an eighth
  of the words is left to sum.
  """
  symbolic = any(not isinstance(size, int) for size in bits.shape)
  dtype = word_dtype(bits.shape[-1])
  width = jnp.iinfo(dtype).bits
  if symbolic or bits.shape[-1] % width:  # an export's batch of any size
    return pack_bits(bits)
  shape = bits.shape[:-1]
  octets = (bits > 0).astype(jnp.uint8).reshape(*shape, -1, width // 4, 4)
  words = lax.bitcast_convert_type(octets, jnp.uint32)
  fours = (words | words >> 7 | words >> 14 | words >> 21) & 0xF
  places = 4 * jnp.arange(width // 4, dtype=dtype)
  return jnp.sum(fours.astype(dtype) << places, axis=-1, dtype=dtype)


def _padded(packed: jax.Array, geometry: ConvGeometry) -> jax.Array:
  padded = jnp.pad(packed, ((0, 0), *geometry.padding, (0, 0)))
  # Small, and read once for every tap: worth having in memory.
  return lax.optimization_barrier(padded)


def _taps(
  padded: jax.Array, kernel_size, size, geometry: ConvGeometry, axis: int
) -> list[jax.Array]:
  """What each kernel tap reads; height and width are at `axis` and after."""
  taps = []
  for tap in np.ndindex(kernel_size):
    part = padded
    for i in (0, 1):
      start = tap[i] * geometry.dilation[i]
      stop = start + (size[i] - 1) * geometry.strides[i] + 1
      part = lax.slice_in_dim(
        part, start, stop, geometry.strides[i], axis=axis + i
      )
    taps.append(part)
  return taps


def convolve(
  packed: jax.Array,
  kernel: jax.Array,
  geometry: ConvGeometry,
  *,
  apart: bool = False,
) -> jax.Array:
  """Convolves bits with a kernel of +1 and -1 by exclusive or and popcount.

  Args:
    packed: shape (batch, height, width, words), from `pack_bits`.
    kernel: +1 or -1, shape (height, width, in, out).
    geometry: of one group.
    apart: as of `convolve_words`.

  Returns:
    int32, shape (batch, height', width', out).
  """
  words = lax.optimization_barrier(pack_kernel(kernel))
  return convolve_words(packed, words, kernel.shape[2], geometry, apart=apart)


def _blocks(words: jax.Array) -> list[jax.Array]:
  """A packed kernel, cut along output channels if it is large.

  The loop over output channels reads a stream for each tap and word. Where
  these are many and a power of two apart, they meet in the same few lines of
  the first cache; blocks of their own, they do not.
  """
  outputs = words.shape[-1]
  if words.nbytes <= _LARGE_KERNEL or outputs % _BLOCK:
    return [words]
  parts = [words[..., i : i + _BLOCK] for i in range(0, outputs, _BLOCK)]
  # Copied, and not read in place by the loop that uses it.
  return lax.optimization_barrier(parts)


def _differing(
  taps: list[jax.Array], words: jax.Array, counter: jnp.dtype
) -> jax.Array:
  """How many bits differ: shape (batch, height', width', out)."""
  terms = [
    (tap[..., word, None], words[*place, word])
    for tap, place in zip(taps, np.ndindex(words.shape[:2]), strict=True)
    for word in range(words.shape[2])
  ]
  differing = jnp.zeros((), counter)
  for index, (bits, weights) in enumerate(terms):
    differing += lax.population_count(bits ^ weights).astype(counter)
    if index % _MOST_WORDS == _MOST_WORDS - 1:
      differing = lax.optimization_barrier(differing)
  return differing


# The unrolled sum is thousands of operations: a network's layers of one shape
# trace it once.
@functools.partial(jax.jit, static_argnames=("channels", "geometry", "apart"))
def convolve_words(
  packed: jax.Array,
  words: jax.Array,
  channels: int,
  geometry: ConvGeometry,
  *,
  apart: bool = False,
) -> jax.Array:
  """`convolve` with a kernel that is packed already.

  The loop order is the one that vectorizes: the sum over taps and words is
  unrolled, and output channels are innermost.

  Args:
    packed: shape (batch, height, width, words), from `pack_bits`.
    words: shape (height, width, words, out), from `pack_kernel`.
    channels: input channels, so many bits there are of each.
    geometry: of one group.
    apart: counts in two halves that are put together. XLA fuses a count into
      all that reads it, and counts anew in each; not so a concatenation.

  Returns:
    int32, shape (batch, height', width', out).
  """
  rows, columns = words.shape[:2]
  input_size = packed.shape[1:3]
  size = output_size(geometry, input_size, (rows, columns))
  padded = _padded(packed, geometry)
  taps = _taps(padded, (rows, columns), size, geometry, axis=1)
  narrow = jnp.iinfo(packed.dtype).bits <= 16 and (
    rows * columns * channels < 2**16
  )
  counter = jnp.uint16 if narrow else jnp.uint32
  blocks = [_differing(taps, block, counter) for block in _blocks(words)]
  if len(blocks) > 1:
    differing = jnp.concatenate(blocks, axis=-1)
  elif apart and size[0] > 1:
    half = size[0] // 2
    halves = ([t[:, :half] for t in taps], [t[:, half:] for t in taps])
    parts = [_differing(half, words, counter) for half in halves]
    differing = jnp.concatenate(parts, axis=1)
  else:
    differing = blocks[0]
  sums = rows * columns * channels - 2 * differing.astype(jnp.int32)
  outside = taps_on_padding(geometry, input_size, (rows, columns))
  if outside.any():
    ones = lax.population_count(words).astype(jnp.int32)
    per_tap = 2 * jnp.sum(ones, axis=2) - channels
    sums += jnp.einsum("hwij,ijo->hwo", outside.astype(np.int32), per_tap)
  return sums


def _sum_on_padding(gradient: jax.Array, outside: np.ndarray) -> jax.Array:
  """Sums the gradient where a tap reads padding: shape (kh, kw, out).

  Only the border is read: whole rows first, then columns of what is left.
  """
  rest, total = outside.copy(), 0
  for axis in (0, 1):
    here = rest if axis == 0 else rest.swapaxes(0, 1)
    reads = here.any(axis=(2, 3))
    lines = np.flatnonzero(
      reads.all(axis=1) if axis == 0 else reads.any(axis=1)
    )
    if lines.size:
      parts = [jnp.take(gradient, line, axis=axis + 1) for line in lines]
      sums = jnp.sum(jnp.stack(parts, axis=1), axis=0)
      mask = here[lines].astype(gradient.dtype)
      total += jnp.einsum("hwij,hwo->ijo", mask, sums)
    here[lines] = False
  return total


def kernel_gradient(
  gradient: jax.Array,
  packed: jax.Array,
  input_shape: tuple[int, ...],
  kernel_shape: tuple[int, ...],
  geometry: ConvGeometry,
) -> jax.Array:
  """The kernel's gradient as matrix products of unpacked patches.

  Patches are gathered in bits, where they are small, and unpacked a chunk at a
  time just before they are multiplied.

  Args:
    gradient: of the output, shape (batch, height', width', out), float.
    packed: shape (batch, height, width, words), from `pack_bits`.
    input_shape: (batch, height, width, in).
    kernel_shape: (height, width, in, out).
    geometry: of one group.

  Returns:
    shape `kernel_shape`, dtype of `gradient`.
  """
  height, width, channels, out = kernel_shape
  taps = height * width
  # Positions are innermost, so that unpacking is a shift of whole vectors.
  padded = jnp.moveaxis(_padded(packed, geometry), -1, 0)
  words = jnp.stack(
    _taps(padded, (height, width), gradient.shape[1:3], geometry, axis=2)
  )
  words = lax.optimization_barrier(words).reshape(taps, padded.shape[0], -1)
  batch, rows, columns, _ = gradient.shape
  pixels = rows * columns

  def product(first, count):
    length = count * pixels
    part = lax.dynamic_slice_in_dim(words, first * pixels, length, axis=2)
    patches = unpack_bits(part, channels, gradient.dtype, axis=1)
    # Cut as it is and flattened here: a flat copy before the loop is computed
    # for it alone, beside what the gradient of the input reads.
    cut = lax.dynamic_slice_in_dim(gradient, first, count)
    patches = patches.reshape(taps * channels, length)
    return patches @ cut.reshape(length, out), None

  total, _ = _chunks.summed(
    product,
    jnp.zeros((taps * channels, out), gradient.dtype),
    images=batch,
    image_bytes=pixels * taps * channels * gradient.dtype.itemsize,
    most_bytes=_CHUNK_BYTES,
  )
  total = total.reshape(kernel_shape)
  outside = taps_on_padding(geometry, input_shape[1:3], (height, width))
  if outside.any():
    total += _sum_on_padding(gradient, outside)[:, :, None]
  return total
