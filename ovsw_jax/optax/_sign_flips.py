"""Statistics of sign flips, for any optimizer."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ovsw_jax.optax import _fractions, _masks, _statistics


class SignFlipsState(NamedTuple):
  """Sign flips of every weight since init, and their statistics."""

  flips: Any  # shape of each parameter, dtype=jnp.int32.
  # Sign at the previous update: True is +1.
  previous_positive: Any  # shape of each parameter, dtype=jnp.bool_.
  flip_rate: jax.Array  # shape=(), dtype=float32 (float64 for float64).
  flip_rate_per_leaf: Any  # shape=() per leaf, dtype as flip_rate.
  never_flipped_fraction: jax.Array  # shape=(), dtype as flip_rate.
  never_flipped_fraction_per_leaf: Any  # shape=() per leaf, as flip_rate.


class CompactSignFlipsState(NamedTuple):
  """Sign flips of every weight in two bytes, and their statistics.

  The flips are read with :func:`flips`.
  """

  # From the highest bit: the sign at the previous update, 1 for +1; whether
  # that sign was a flip; and 14 bits of flips since init.
  flips_code: Any  # shape of each parameter, dtype=jnp.uint16.
  flip_rate: jax.Array  # shape=(), dtype=float32 (float64 for float64).
  flip_rate_per_leaf: Any  # shape=() per leaf, dtype as flip_rate.
  never_flipped_fraction: jax.Array  # shape=(), dtype as flip_rate.
  never_flipped_fraction_per_leaf: Any  # shape=() per leaf, as flip_rate.


# Below the bit of the sign: whether it was a flip, and how many there were.
_FLIPPED, MOST = 0x4000, 0x3FFF


def sign_flips(
  *,
  state: Literal["full", "compact"] = "full",
  mask: _masks.Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Counts sign flips of the weights and leaves the updates alone.

  Each update compares the signs of the parameters with those at the update
  before, or at ``init``, with sign(0) = +1. So update `t` sees what the
  optimizer's step `t - 1` did. It may stand anywhere in a chain.

  Statistics, read with ``optax.tree.get(opt_state, name)``: ``flip_rate``, the
  share of weights that flipped since the last update;
  ``never_flipped_fraction``, the share that has not since ``init``; both over
  all selected weights and, with ``_per_leaf`` appended, in each leaf. The
  number of flips of each weight since ``init`` is read with :func:`flips`.

  Args:
    state: "full" keeps an int32 count and a boolean for each weight, 5 bytes;
      "compact" both in a uint16, where the count stops at 16383. All fractions
      are exact in either.
    mask: which leaves are binary: a function from the parameters to a tree of
      booleans, such as :func:`binary_mask`, or such a tree. ``None`` takes the
      leaves named ``latent`` if there are any, else all of rank 2 or more,
      else all.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` object. Its ``update``
    needs ``params``. Fractions are float32, float64 for float64 parameters.

  Raises:
    ValueError: for an unknown `state`, a mask that selects nothing, `params`
      that are missing, or updates that do not fit them.

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
    >>> print(ovsw.optax.flips(opt_state)["latent"])
    [[1 0]]
    >>> print(optax.tree.get(opt_state, "never_flipped_fraction"))
    0.5
  """

  if state == "full":
    inner = _full()
  elif state == "compact":
    inner = _compact()
  else:
    raise ValueError(
      f'sign_flips: `state` is {state!r}; pass "full" or "compact".'
    )
  return _masks.restrict("sign_flips", inner, mask)


def _full() -> optax.GradientTransformationExtraArgs:
  """Counts as int32, and the signs as booleans."""

  def statistics(flipped, flips, params):
    never = jax.tree.map(lambda n: n == 0, flips)
    return _fractions.fractions(params, flipped, never)

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

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _compact() -> optax.GradientTransformationExtraArgs:
  """Sign, flip and count of each weight in 16 bits."""
  flipped, most = jnp.uint16(_FLIPPED), jnp.uint16(MOST)

  def statistics(codes, params):
    return _fractions.fractions(
      params,
      jax.tree.map(lambda c: (c & flipped) != 0, codes),
      jax.tree.map(lambda c: (c & most) == 0, codes),
    )

  def advance(code, positive):
    sign, count = _statistics.sign_bit(positive), code & most
    flip = jnp.minimum(count + jnp.uint16(1), most) | flipped
    changed = (code ^ sign) >= jnp.uint16(_statistics.SIGN)
    return jnp.where(changed, flip, count) | sign

  def init_fn(params):
    codes = jax.tree.map(_statistics.sign_bit, _statistics.positive(params))
    return CompactSignFlipsState(codes, *statistics(codes, params))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    codes = jax.tree.map(
      advance, state.flips_code, _statistics.positive(params)
    )
    return updates, CompactSignFlipsState(codes, *statistics(codes, params))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
