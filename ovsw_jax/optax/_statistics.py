"""Signs of weights, and what is computed of many small arrays."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ovsw_jax import _bits, _sums

# The bit of a compact state's uint16 that is set where a weight is positive.
SIGN = 0x8000


def float_dtype(x: Any) -> jnp.dtype:
  """The dtype of sums over `x`: float32, or float64 for float64."""
  return jnp.promote_types(x.dtype, jnp.float32)


def positive(params: optax.Params) -> Any:
  """`True` where a weight's sign is +1, that is where `w >= 0`.

  Args:
    params: a tree of real arrays. Abstract leaves (`jax.ShapeDtypeStruct`) have
      no sign yet and give `True`, so that a state can be built from shapes.

  Returns:
    A tree of boolean arrays of the same shapes, sharded alike.
  """

  def leaf(p):
    if isinstance(p, jax.ShapeDtypeStruct):
      return jnp.ones_like(p, dtype=jnp.bool_)
    return _positive(jnp.asarray(p))

  return jax.tree.map(leaf, params)


@functools.partial(jax.jit, inline=True)
def _positive(p: jax.Array) -> jax.Array:
  """`p >= 0`, on CPUs read from the words that forward packs a kernel into.

  Each transform then reads a thirty-second of the weights' bytes. The words
  are written down as a binary layer does, as bits of +1 and -1, so that XLA
  makes those of both once.
  """

  def compared(p):
    return p >= 0

  def packed(p):
    one = jnp.ones((), p.dtype)
    words = _bits.pack_kernel(jnp.where(compared(p), one, -one))
    halves = _halves(words)
    return _bits.unpack_bits(halves, p.shape[-2], jnp.int8, axis=-2) > 0

  # What is sharded explicitly might not split into words.
  whole = jax.typeof(p).sharding.spec[p.ndim - 2 : p.ndim - 1] == (None,)
  if not (whole and _bits.are_whole_words(p.shape)):
    return compared(p)
  return lax.platform_dependent(p, cpu=packed, default=compared)


def _halves(words: jax.Array) -> jax.Array:
  """Words of 32 bits as twice as many of 16, along the last axis but one.

  A compact state's codes have 16 bits as well, and loops over codes and wider
  words take twice the instructions a byte. Out of the caches it tells: a core
  that waits for memory looks ahead by instructions.
  """
  if words.dtype != jnp.uint32:
    return words
  parts = [
    (words & 0xFFFF).astype(jnp.uint16),
    (words >> 16).astype(jnp.uint16),
  ]
  # Written once, and not computed in each reader's loop: two readers jax 0.10
  # does not fuse into; jax 0.12 keeps the barrier for one as well.
  halves = lax.optimization_barrier(jnp.stack(parts, axis=-2))
  shape = (*words.shape[:-2], 2 * words.shape[-2], words.shape[-1])
  return halves.reshape(shape)


def sign_bit(positive: jax.Array) -> jax.Array:
  """`SIGN` where a weight is positive and 0 elsewhere, uint16."""
  return jnp.where(positive, jnp.uint16(SIGN), jnp.uint16(0))


def filled(signs: Any, value: Any, dtype: Any) -> Any:
  """A tree of arrays that hold `value`, shaped and sharded as `signs`.

  What does not depend on the parameters comes out of `jax.jit(tx.init)` on one
  device, whatever their sharding on a mesh of automatic axes. So this depends
  on them, by a choice between equals.

  Args:
    signs: a tree of arrays, such as from :func:`positive`.
    value: a scalar.
    dtype: the dtype of the results.

  Returns:
    A tree of arrays.
  """
  value = jnp.asarray(value, dtype)
  return jax.tree.map(lambda s: jnp.where(s, value, value), signs)


def differs(a: Any, b: Any) -> Any:
  """Leaf by leaf, where two trees of booleans differ."""
  return jax.tree.map(jnp.logical_xor, a, b)


def per_leaf(f: Any, tree: Any, *rest: Any) -> Any:
  """`jax.tree.map` for functions whose results are scalars, or one of a filter.

  Such a tree has the shape of the parameter tree but is no copy of it: its
  leaves are not to be sharded alike. `optax.tree.map_params` recognises copies
  by initialising with a placeholder without leaves; one scalar instead of a
  mapped placeholder tells it that this field is none.
  """
  if not jax.tree.leaves(tree):
    return jnp.zeros([], jnp.float32)
  return jax.tree.map(f, tree, *rest)


def elementwise(f: Callable[..., jax.Array], tree: Any, *rest: Any) -> Any:
  """`jax.tree.map` for small arrays, of all leaves in one kernel on a GPU.

  Args:
    f: computes each number of its result from one of each argument, and keeps
      their dtype.
    tree: a tree of arrays.
    *rest: trees of arrays of the same shapes and dtypes.

  Returns:
    A tree of arrays of these shapes and dtypes.
  """
  leaves, structure = jax.tree.flatten(tree)
  by_leaf = list(zip(leaves, *map(jax.tree.leaves, rest), strict=True))

  def apart(by_leaf):
    return [f(*arrays) for arrays in by_leaf]

  def together(by_leaf):
    rows = [
      jnp.concatenate([x.ravel() for x in arrays])
      for arrays in zip(*by_leaf, strict=True)
    ]
    ends = itertools.accumulate(x.size for x in leaves[:-1])
    parts = jnp.split(f(*rows), list(ends))
    return [
      part.reshape(x.shape).astype(x.dtype)
      for part, x in zip(parts, leaves, strict=True)
    ]

  # What is sharded explicitly has no place in one array.
  whole = all(set(jax.typeof(x).sharding.spec) <= {None} for x in leaves)
  if len(leaves) > 1 and whole:
    found = lax.platform_dependent(by_leaf, cuda=together, default=apart)
  else:
    found = apart(by_leaf)
  return jax.tree.unflatten(structure, found)


def means(params: optax.Params, values: Any) -> Any:
  """The mean of each of a tree's small arrays: scalars, float32 or float64.

  Args:
    params: the parameters that they belong to; only their dtypes are used.
    values: a tree of arrays of real numbers.

  Returns:
    A tree of scalars.
  """

  def apart(leaves):
    return [jnp.sum(x) for x in leaves]

  leaves, structure = jax.tree.flatten(values)
  totals = lax.platform_dependent(leaves, cuda=_sums.together, default=apart)
  found = [
    (total / x.size).astype(float_dtype(p))
    for total, x, p in zip(totals, leaves, jax.tree.leaves(params), strict=True)
  ]
  return per_leaf(lambda x: x, jax.tree.unflatten(structure, found))
