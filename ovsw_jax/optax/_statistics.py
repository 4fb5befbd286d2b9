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
  dtypes = [float_dtype(p) for p in jax.tree.leaves(params)]
  size = sum(leaf.size for leaf in leaves)
  # Only a model of more than 2**32 weights leaves the integers.
  dtype = jnp.uint32 if size < 2**32 else jnp.float32
  counts = jax.tree.map(lambda leaf: jnp.sum(leaf, dtype=dtype), flags)
  total = sum(jax.tree.leaves(counts)).astype(jnp.result_type(*dtypes))
  each = per_leaf(
    lambda count, flag, p: count.astype(float_dtype(p)) / max(flag.size, 1),
    counts,
    flags,
    params,
  )
  return total / max(size, 1), each
