"""Dot product of bits with a matrix."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ovsw_jax._bits import pack_bits, unpack_bits
from ovsw_jax.products._convolution import packed_conv


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def binary_dot(
  bits: jax.Array, kernel: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
  """Multiplies bits by a matrix.

  Args:
    bits: +1 or -1, shape (..., in).
    kernel: shape (in, out), any real values.
    dtype: dtype of the operands inside; bfloat16 is exact for +1/-1 kernels.

  Returns:
    shape (..., out), float32, or float64 for float64.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> products.binary_dot(jnp.array([[1.0, -1.0]]), jnp.eye(2)).tolist()
    [[1.0, -1.0]]
  """
  return lax.dot_general(
    bits.astype(dtype),
    kernel.astype(dtype),
    (((bits.ndim - 1,), (0,)), ((), ())),
    preferred_element_type=jnp.promote_types(dtype, jnp.float32),
  )


def packed_dot(bits: jax.Array, words: jax.Array) -> jax.Array:
  """Multiplies bits by a matrix that is bits as well, packed; no gradient.

  Args:
    bits: +1 or -1, shape (..., in).
    words: shape (words, out), `pack_kernel` of a matrix of shape (in, out).

  Returns:
    int32, shape (..., out).

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> words = products.pack_kernel(jnp.array([[1.0], [-1.0], [-1.0]]))
    >>> products.packed_dot(jnp.array([[1.0, -1.0, 1.0]]), words).tolist()
    [[1]]
  """
  *batch, inputs = bits.shape
  pixels = bits.reshape(-1, 1, 1, inputs)
  sums = packed_conv(pixels, words[None, None])
  return sums.reshape(*batch, words.shape[-1])


def _forward(bits, kernel, dtype):
  like = jnp.empty((0, bits.shape[-1]), bits.dtype)
  return binary_dot(bits, kernel, dtype), (pack_bits(bits), kernel, like)


def _backward(dtype, residuals, gradient):
  packed, kernel, like = residuals
  gradient = lax.optimization_barrier(gradient).astype(dtype)
  bits = unpack_bits(packed, like.shape[-1], dtype)
  wide = jnp.promote_types(dtype, jnp.float32)
  batch = tuple(range(bits.ndim - 1))
  to_input = lax.dot_general(
    gradient,
    kernel.astype(dtype),
    (((gradient.ndim - 1,), (1,)), ((), ())),
    preferred_element_type=wide,
  )
  to_kernel = lax.dot_general(
    bits, gradient, ((batch, batch), ((), ())), preferred_element_type=wide
  )
  return to_input.astype(like.dtype), to_kernel.astype(kernel.dtype)


binary_dot.defvjp(_forward, _backward)
