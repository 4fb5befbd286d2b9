"""Statistics of sign flips, for any optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ovsw_jax.optax import _masks, _statistics


class SignFlipsState(NamedTuple):
  """Sign flips of every weight since init, and their statistics."""

  flips: Any  # shape of each parameter, dtype=jnp.int32.
  # Sign at the previous update: True is +1.
  previous_positive: Any  # shape of each parameter, dtype=jnp.bool_.
  flip_rate: jax.Array  # shape=(), dtype=float32 (float64 for float64).
  flip_rate_per_leaf: Any  # shape=() per leaf, dtype as flip_rate.
  never_flipped_fraction: jax.Array  # shape=(), dtype as flip_rate.
  never_flipped_fraction_per_leaf: Any  # shape=() per leaf, as flip_rate.


def sign_flips(
  *, mask: _masks.Mask | None = None
) -> optax.GradientTransformationExtraArgs:
  """Counts sign flips of the weights and leaves the updates alone.

  Each update compares the signs of the parameters with those at the update
  before, or at ``init``, with sign(0) = +1. So update `t` sees what the
  optimizer's step `t - 1` did. It may stand anywhere in a chain.

  Statistics, read with ``optax.tree.get(opt_state, name)``: ``flip_rate``, the
  share of weights that flipped since the last update;
  ``never_flipped_fraction``, the share that has not since ``init``; both over
  all selected weights and, with ``_per_leaf`` appended, in each leaf; and
  ``flips``, the number of flips of each weight since ``init``.

  Args:
    mask: which leaves are binary: a function from the parameters to a tree of
      booleans, such as :func:`binary_mask`, or such a tree. ``None`` takes the
      leaves named ``latent`` if there are any, else all of rank 2 or more,
      else all.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` object. Its ``update``
    needs ``params``. The state holds an int32 and a boolean for each selected
    weight; fractions are float32, float64 for float64 parameters.

  Raises:
    ValueError: for a mask that selects nothing, `params` that are missing, or
      updates that do not fit them.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import ovsw_jax as ovsw
    >>> params = {"latent": jnp.array([[0.5, -2.0]])}
    >>> grads = {"latent": jnp.array([[1.0, 1.0]])}
    >>> tx = optax.chain(ovsw.optax.sign_flips(), optax.adam(1.0))
    >>> opt_state = tx.init(params)
    >>> for _ in range(2):
    ...   updates, opt_state = tx.update(grads, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    >>> print(optax.tree.get(opt_state, "flips")["latent"])
    [[1 0]]
    >>> print(optax.tree.get(opt_state, "never_flipped_fraction"))
    0.5
  """

  def statistics(flipped, flips, params):
    rate = _statistics.fractions(flipped, params)
    never = jax.tree.map(lambda n: n == 0, flips)
    return *rate, *_statistics.fractions(never, params)

  def init_fn(params):
    positive = _statistics.positive(params)
    flips = _statistics.filled(positive, 0, jnp.int32)
    flipped = _statistics.differs(positive, positive)
    return SignFlipsState(flips, positive, *statistics(flipped, flips, params))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    positive = _statistics.positive(params)
    flipped = _statistics.differs(positive, state.previous_positive)
    flips = jax.tree.map(lambda n, f: n + f, state.flips, flipped)
    return updates, SignFlipsState(
      flips, positive, *statistics(flipped, flips, params)
    )

  inner = optax.GradientTransformationExtraArgs(init_fn, update_fn)
  return _masks.restrict("sign_flips", inner, mask)
