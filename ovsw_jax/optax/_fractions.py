"""Exact shares of the weights that have flipped, or are silent."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ovsw_jax import _sums
from ovsw_jax.optax import _statistics

# Six halvings add 64 flags, of which two fit into a uint16.
_HALVINGS = 6
_ROWS = 64  # So few are added up as fast without another halving.


def fractions(params: optax.Params, *flags: Any) -> tuple[Any, ...]:
  """The share of `True`, over all leaves together and in each.

  Counting is in integers, so it is exact where a float32 sum of ones would stop
  at 2**24, and the total weighs each leaf by its size.

  Args:
    params: the parameters that the flags belong to; only their dtypes are used.
    *flags: one or two trees of boolean arrays.

  Returns:
    For each of `flags` in turn a scalar and a tree of scalars: float32, or
    float64 for float64 parameters.
  """
  trees = [jax.tree.leaves(tree) for tree in flags]
  structure = jax.tree.structure(flags[0])
  if not trees[0]:
    none = _statistics.per_leaf(None, flags[0])
    return (jnp.zeros([], jnp.float32), none) * len(flags)
  # Only a model of more than 2**32 weights leaves the integers.
  size = sum(leaf.size for leaf in trees[0])
  dtype = jnp.uint32 if size < 2**32 else jnp.float32
  counts = lax.platform_dependent(
    trees,
    cpu=functools.partial(_by_rows, dtype=dtype),
    default=functools.partial(_by_flag, dtype=dtype),
  )
  dtypes = [_statistics.float_dtype(p) for p in jax.tree.leaves(params)]
  result = ()
  for leaf_counts in counts:
    total = _share(sum(leaf_counts), size, jnp.result_type(*dtypes))
    each = [
      _share(count, leaf.size, leaf_dtype)
      for count, leaf, leaf_dtype in zip(
        leaf_counts, trees[0], dtypes, strict=True
      )
    ]
    result += total, jax.tree.unflatten(structure, each)
  return result


def _by_flag(trees: Sequence[Any], dtype: Any) -> list[list[jax.Array]]:
  """The numbers of `True`, counted in the kernels that make the flags."""
  return [
    _sums.together([_sums.by_channel(flag, dtype) for flag in leaves])
    for leaves in trees
  ]


def _by_rows(trees: Sequence[Any], dtype: Any) -> list[list[jax.Array]]:
  """`_by_flag` for CPUs, which count two flags in one pass over memory."""
  leaves = trees[0]
  if len(trees) > 1 and not all(_fit_in_halves(leaf) for leaf in leaves):
    return [_by_rows([leaves], dtype)[0] for leaves in trees]
  packed = _sums.rows(
    [_by_channel(flags) for flags in zip(*trees, strict=True)]
  )
  counts = [packed]
  if len(trees) > 1:
    counts = [packed & 0xFFFF, packed >> 16]
  return [list(jnp.sum(rows, axis=1, dtype=dtype)) for rows in counts]


def _channels(leaf: jax.Array) -> int:
  return leaf.shape[-1] if leaf.ndim > 1 else 1


def _fit_in_halves(leaf: jax.Array) -> bool:
  """Whether 16 bits count the weights of a channel, and channels stay apart."""
  channels = _channels(leaf)
  return leaf.size < 2**16 * channels and channels <= _sums.SMALL


@functools.partial(jax.jit, inline=True)
def _by_channel(flags: Sequence[jax.Array]) -> jax.Array:
  """The numbers of `True` in one or two arrays, by output channel, uint32.

  Two are counted as the bytes of uint16, then as the halves of uint32.
  """
  rows = flags[0].size // max(_channels(flags[0]), 1)
  # What is sharded explicitly might not fit into rows.
  in_rows = set(jax.typeof(flags[0]).sharding.spec[:-1]) <= {None}
  if in_rows:
    flags = [flag.reshape(rows, _channels(flag)) for flag in flags]
  wide = jnp.uint8 if len(flags) == 1 else jnp.uint16
  both = sum(flag.astype(wide) << 8 * i for i, flag in enumerate(flags))

  def totals(both):
    numbers = (both & 255).astype(jnp.uint32)
    if len(flags) > 1:
      numbers |= (both >> 8).astype(jnp.uint32) << 16
    # In a loop of its own, since one that computes what it adds up is not
    # vectorised. XLA makes two of a long sum, and one of a product.
    numbers = lax.optimization_barrier(numbers)
    if in_rows:
      return jnp.dot(jnp.ones(numbers.shape[0], jnp.uint32), numbers)
    return _sums.by_channel(numbers)

  halvings = min(_HALVINGS, (rows // _ROWS | 1).bit_length() - 1)
  found = _sums.by_halves(both, totals, range(both.ndim), halvings)
  # Not summed anew in one kernel for all leaves, which a single core runs; jax
  # 0.10 drops this, and its step is no slower for it.
  return lax.optimization_barrier(found)


def _share(count: jax.Array, size: int, dtype: jnp.dtype) -> jax.Array:
  """`count / size`, and exactly 1 for all of them.

  XLA multiplies by the rounded reciprocal instead, and 41 * (1 / 41) < 1.
  """
  size = max(size, 1)
  ratio = count.astype(dtype) / size
  return jnp.where(count == size, jnp.ones_like(ratio), ratio)
