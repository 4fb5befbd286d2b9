"""What SAD and SGD keep of every weight, between a checkpoint and a state."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util

from ovsw_jax import optax as transforms
from ovsw_jax.interop._checkpoint import Checkpoint, Tree

_COMPACT = (transforms.CompactSADState, transforms.CompactSignFlipsState)


def restore_optimizer(opt_state: Any, checkpoint: Checkpoint) -> Any:
  """Puts what a checkpoint's optimizer had kept into a state of ours.

  Every state of `ovsw_jax.optax.sad`, `ovsw` and `sign_flips` in it goes on
  from the signs of the checkpoint's last update, SAD's with its averages too,
  and every `optax.trace` (of `optax.sgd` with momentum) from its momentum.
  What the checkpoint lacks stays as it is. Statistics such as `silent_fraction`
  are renewed by the next update.

  Args:
    opt_state: of `tx.init(checkpoint.variables["params"])`.
    checkpoint: from `load`.

  Returns:
    The state, of the same structure, shapes and dtypes.

  Raises:
    ValueError: a state of SAD is compact, or of another network.

  Examples:
    >>> import jax, jax.numpy as jnp, optax
    >>> import ovsw_jax as ovsw
    >>> params = {"conv1": {"latent": jnp.ones((3, 3, 4, 8))}}
    >>> variables = {"params": params}
    >>> checkpoint = ovsw.interop.torch.Checkpoint("cifar_resnet20", variables)
    >>> tx = optax.chain(ovsw.optax.ovsw(), optax.sgd(0.1, momentum=0.9))
    >>> opt_state = tx.init(params)
    >>> kept = ovsw.interop.torch.with_optimizer(checkpoint, opt_state)
    >>> again = ovsw.interop.torch.restore_optimizer(opt_state, kept)
    >>> jax.tree.structure(again) == jax.tree.structure(opt_state)
    True
  """

  def fill(tree: Any, source: Tree | None, function=lambda value: value) -> Any:
    if source is None:
      return tree

    def leaf(path, old):
      node: Any = source
      for part in path:
        node = node.get(part.key) if isinstance(node, dict) else None
      if node is None or node.shape != old.shape:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ValueError(
          f"the optimizer state has {where!r} of shape {old.shape}, which the "
          "checkpoint has not; make it of the checkpoint's own parameters."
        )
      return jax.numpy.asarray(function(node), old.dtype)

    return jax.tree_util.tree_map_with_path(leaf, tree)

  def restored(state: Any) -> Any:
    positive = functools.partial(
      fill, source=checkpoint.weight_prev, function=lambda w: w >= 0
    )
    if isinstance(state, transforms.SADState):
      return state._replace(
        flip_ema=fill(state.flip_ema, checkpoint.flip_ema),
        positive=positive(state.positive),
      )
    if isinstance(state, transforms.SignFlipsState):
      return state._replace(previous_positive=positive(state.previous_positive))
    if isinstance(state, optax.TraceState):
      return state._replace(trace=fill(state.trace, checkpoint.momentum))
    if isinstance(state, _COMPACT):
      raise ValueError(
        f"{type(state).__name__} takes no checkpoint; make the transformation "
        'with state="full".'
      )
    return state

  kinds = (
    transforms.SADState,
    transforms.SignFlipsState,
    optax.TraceState,
    *_COMPACT,
  )
  return jax.tree.map(
    restored, opt_state, is_leaf=lambda state: isinstance(state, kinds)
  )


def with_optimizer(checkpoint: Checkpoint, opt_state: Any) -> Checkpoint:
  """A checkpoint with what an optimizer state of ours keeps, for `save`.

  Args:
    checkpoint: with the variables that the state belongs to.
    opt_state: may hold states of `sad` or `ovsw`, full or compact, and one of
      `optax.trace`; what it lacks, the checkpoint lacks.

  Returns:
    The checkpoint with `flip_ema`, `weight_prev` and `momentum`. Of the
    previous weights we keep the signs: `weight_prev` is +1 and -1, which is all
    that SAD reads of it.

  Examples:
    >>> import jax, jax.numpy as jnp, optax
    >>> import ovsw_jax as ovsw
    >>> params = {"conv1": {"latent": jnp.ones((3, 3, 4, 8))}}
    >>> variables = {"params": params}
    >>> checkpoint = ovsw.interop.torch.Checkpoint("cifar_resnet20", variables)
    >>> tx = optax.chain(ovsw.optax.ovsw(), optax.sgd(0.1, momentum=0.9))
    >>> opt_state = tx.init(params)
    >>> kept = ovsw.interop.torch.with_optimizer(checkpoint, opt_state)
    >>> kept.flip_ema["conv1"]["latent"].shape
    (3, 3, 4, 8)
  """

  def latents(tree: Any) -> Tree:
    flat = {
      tuple(part.key for part in path): np.asarray(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return traverse_util.unflatten_dict(flat)

  kinds = (transforms.SADState, transforms.CompactSADState)
  leaves = jax.tree.leaves(
    opt_state, is_leaf=lambda s: isinstance(s, (*kinds, optax.TraceState))
  )
  flip_ema = weight_prev = momentum = None
  for state in leaves:
    if isinstance(state, kinds):
      flip_ema = latents(transforms.flip_ema(state))
      weight_prev = jax.tree.map(
        lambda positive: np.where(positive, 1, -1).astype(np.float32),
        latents(transforms.positive(state)),
      )
    elif isinstance(state, optax.TraceState):
      momentum = latents(state.trace)
  return dataclasses.replace(
    checkpoint, flip_ema=flip_ema, weight_prev=weight_prev, momentum=momentum
  )
