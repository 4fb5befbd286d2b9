"""Projection of the updated parameters: the last transformation of a chain."""

from collections.abc import Callable

import jax
import optax

from ovsw_jax.optax import _masks


def project(
  projection: Callable[[jax.Array], jax.Array],
  *,
  mask: _masks.Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Keeps parameters in a set: each becomes the projection of its update.

  Put it last in the chain, behind the learning rate: it replaces the update `u`
  of a parameter `p` by ``projection(p + u) - p``. Clipping latent weights to
  [-1, 1] is one use; XNOR-Net's centring is another.

  Args:
    projection: maps a parameter to one of the same shape and dtype.
    mask: which leaves are projected; as in :func:`ags`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` object without state. Its
    ``update`` needs ``params``. Updates keep shape and dtype.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import ovsw_jax as ovsw
    >>> params = {"latent": jnp.array([[0.875, -0.5]])}
    >>> tx = optax.chain(
    ...   optax.sgd(1.0), ovsw.optax.project(lambda w: jnp.clip(w, -1, 1))
    ... )
    >>> grads = {"latent": jnp.array([[-0.5, -0.25]])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> optax.apply_updates(params, updates)["latent"].tolist()
    [[1.0, -0.25]]
  """

  def init_fn(params):
    del params
    return optax.EmptyState()

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args

    def leaf(u, p):
      return (projection((p + u).astype(p.dtype)) - p).astype(u.dtype)

    return jax.tree.map(leaf, updates, params), state

  inner = optax.GradientTransformationExtraArgs(init_fn, update_fn)
  return _masks.restrict("project", inner, mask)
