"""A state as one dispatch hands it to the next, in few arrays.

Each array of a program's arguments and results costs the host some ten
microseconds a dispatch, whatever its size, and a quarter of those of a state
with OvSW and flips are scalars: the statistics of each layer. So these travel
as one.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Carried:
  """A tree whose scalars lie in one array for each dtype."""

  arrays: list[jax.Array]  # what is no scalar, in the tree's order
  scalars: dict[str, jax.Array]  # by dtype, shape (..., count)
  dtypes: tuple[str | None, ...] = flax.struct.field(pytree_node=False)
  structure: Any = flax.struct.field(pytree_node=False)


def pack(tree: Any, *, axes: int = 0) -> Carried:
  """The tree, to be handed on; other arrays than scalars are not copied.

  Args:
    tree: a tree of arrays.
    axes: how many axes a scalar has, of replicas.

  Returns:
    What `unpack` undoes.
  """
  leaves, structure = jax.tree.flatten(tree)
  dtypes = tuple(None if x.ndim > axes else x.dtype.name for x in leaves)
  of = lambda d: [x for x, own in zip(leaves, dtypes, strict=True) if own == d]
  return Carried(
    arrays=of(None),
    scalars={d: _stacked(of(d)) for d in sorted({*dtypes} - {None})},
    dtypes=dtypes,
    structure=structure,
  )


def unpack(carried: Carried) -> Any:
  """The tree that `pack` was given."""
  places = {name: iter(_apart(x)) for name, x in carried.scalars.items()}
  places[None] = iter(carried.arrays)
  leaves = [next(places[dtype]) for dtype in carried.dtypes]
  return jax.tree.unflatten(carried.structure, leaves)


@functools.partial(jax.jit, inline=True)
def _stacked(scalars: Sequence[jax.Array]) -> jax.Array:
  return jnp.stack(scalars, axis=-1)


@functools.partial(jax.jit, inline=True)
def _apart(stacked: jax.Array) -> Sequence[jax.Array]:
  return jnp.unstack(stacked, axis=-1)
