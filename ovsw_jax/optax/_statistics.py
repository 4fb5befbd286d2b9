"""Signs of weights, and exact counts of them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


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
    return p >= 0

  return jax.tree.map(leaf, params)


def filled(signs: Any, value: Any, dtype: Any) -> Any:
  """A tree of arrays that hold `value`, shaped and sharded as `signs`.

  What does not depend on the parameters comes out of `jax.jit(tx.init)` on one
  device, whatever their sharding on a mesh of automatic axes. So this depends
  on them, by a choice between equals.

  Args:
    signs: a tree of boolean arrays, from :func:`positive`.
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
  """`jax.tree.map` for functions whose results are scalars.

  A tree of scalars has the shape of the parameter tree but is no copy of it:
  its leaves have no axes to shard. `optax.tree.map_params` recognises copies
  by initialising with a placeholder without leaves; one scalar instead of a
  mapped placeholder tells it that this field is none.
  """
  if not jax.tree.leaves(tree):
    return jnp.zeros([], jnp.float32)
  return jax.tree.map(f, tree, *rest)


def fractions(flags: Any, params: optax.Params) -> tuple[jax.Array, Any]:
  """The share of `True`, over all leaves together and in each.

  Counting is in integers, so it is exact where a float32 sum of ones would stop
  at 2**24, and the total weighs each leaf by its size.

  Args:
    flags: a tree of boolean arrays.
    params: the parameters they belong to; only their dtypes are used.

  Returns:
    `(total, tree)` of scalars: float32, or float64 for float64 parameters.
  """
  leaves = jax.tree.leaves(flags)
  if not leaves:
    return jnp.zeros([], jnp.float32), per_leaf(None, flags)
  # Only a model of more than 2**32 weights leaves the integers.
  size = sum(leaf.size for leaf in leaves)
  dtype = jnp.uint32 if size < 2**32 else jnp.float32
  counts = jax.tree.map(lambda leaf: jnp.sum(leaf, dtype=dtype), flags)
  dtypes = [float_dtype(p) for p in jax.tree.leaves(params)]
  total = sum(jax.tree.leaves(counts))
  each = per_leaf(
    lambda count, flag, p: _share(count, flag.size, float_dtype(p)),
    counts,
    flags,
    params,
  )
  return _share(total, size, jnp.result_type(*dtypes)), each


def _share(count: jax.Array, size: int, dtype: jnp.dtype) -> jax.Array:
  """`count / size`, and exactly 1 for all of them.

  XLA multiplies by the rounded reciprocal instead, and 41 * (1 / 41) < 1.
  """
  size = max(size, 1)
  ratio = count.astype(dtype) / size
  return jnp.where(count == size, jnp.ones_like(ratio), ratio)
