"""RBNN's rotations of the latent weights, as functions of arrays.

The ``n = height * width * in`` weights of an output channel form an (a, b)
matrix X, with ``a b = n`` closest to square, in the order (in, height, width)
of the authors' code. Two orthogonal matrices rotate it: ``R1' X R2``.
"""

import math

import jax
import jax.numpy as jnp

from ovsw_jax import sign


def rotation_sides(weights: int) -> tuple[int, int]:
  """The sides (a, b) of the matrix closest to square, ``a <= b``.

  Examples:
    >>> from ovsw_jax import quantizers
    >>> quantizers.rotation_sides(3 * 3 * 64)
    (24, 24)
    >>> quantizers.rotation_sides(3 * 3 * 16)
    (12, 12)
    >>> quantizers.rotation_sides(7)
    (1, 7)
  """
  a = max(d for d in range(1, math.isqrt(weights) + 1) if weights % d == 0)
  return a, weights // a


def _to_matrices(latent: jax.Array) -> jax.Array:
  """(..., in, out) to (out, a, b)."""
  last = latent.ndim - 1
  filters = latent.transpose(last, last - 1, *range(last - 1))
  sides = rotation_sides(latent.size // latent.shape[-1])
  return filters.reshape(latent.shape[-1], *sides)


def _from_matrices(matrices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  *window, inputs, outputs = shape
  filters = matrices.reshape(outputs, inputs, *window)
  return filters.transpose(*range(2, filters.ndim), 1, 0)


def _product(subscripts: str, *operands: jax.Array) -> jax.Array:
  # Accelerators would else round the operands to half precision.
  return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


def _rotated(matrices: jax.Array, r1: jax.Array, r2: jax.Array) -> jax.Array:
  return _product("ai,oab,bj->oij", r1, matrices, r2)


def rotate(latent: jax.Array, r1: jax.Array, r2: jax.Array) -> jax.Array:
  """Rotates the weights of every output channel: ``R1' X R2``.

  Args:
    latent: shape (..., in, out).
    r1: orthogonal, shape (a, a), see `rotation_sides`.
    r2: orthogonal, shape (b, b).

  Returns:
    The rotated weights, in the shape of `latent`; norms are kept.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])  # by a quarter
    >>> latent = jnp.array([[1.0], [2.0], [3.0], [4.0]])  # one output channel
    >>> quantizers.rotate(latent, turn, jnp.eye(2)).ravel().tolist()
    [3.0, 4.0, -1.0, -2.0]
  """
  return _from_matrices(_rotated(_to_matrices(latent), r1, r2), latent.shape)


def fit_rotations(
  latent: jax.Array, r1: jax.Array, r2: jax.Array, rounds: int = 3
) -> tuple[jax.Array, jax.Array]:
  """Turns the rotations so that the weights come closer to their bits.

  Each round takes the bits ``B = sign(R1' X R2)`` and then the `r1` and the
  `r2` that maximize the sum of ``B * (R1' X R2)``, by singular value
  decomposition. The sum of ``|R1' X R2|`` never falls.

  Args:
    latent: *standardized* latent weights, shape (..., in, out).
    r1: orthogonal, shape (a, a).
    r2: orthogonal, shape (b, b).
    rounds: number of rounds; the authors' code makes 3.

  Returns:
    The new `r1` and `r2`.

  References:
    Lin et al., `Rotated Binary Neural Network
    <https://arxiv.org/abs/2009.13055>`_, NeurIPS 2020, equations 11 to 13

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> latent = jax.random.normal(jax.random.key(0), (16, 1))
    >>> r1, r2 = quantizers.fit_rotations(latent, jnp.eye(4), jnp.eye(4))
    >>> turned = quantizers.rotate(latent, r1, r2)
    >>> bool(abs(turned).sum() > abs(latent).sum())  # closer to +1 and -1
    True
  """
  matrices = _to_matrices(latent)
  for _ in range(rounds):
    bits = sign.hard_sign(_rotated(matrices, r1, r2))
    u, _, vh = jnp.linalg.svd(_product("oij,oab,bj->ia", bits, matrices, r2))
    r1 = (u @ vh).T
    u, _, vh = jnp.linalg.svd(_product("oab,ai,oij->bj", matrices, r1, bits))
    r2 = u @ vh
  return r1, r2
