"""What a state knows of each weight, whether it is full or compact."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ovsw_jax.optax import _flip_average, _sign_flips, _statistics


def flip_ema(opt_state: optax.OptState) -> Any:
  """The moving average of each weight's sign flips that :func:`sad` keeps.

  Args:
    opt_state: a state of :func:`sad` or :func:`ovsw`, full or compact, alone or
      anywhere in the state of a larger transformation.

  Returns:
    A tree of arrays of the parameters' shapes; leaves that are masked out have
    none. Of a compact state they are float32, and averages that are too small
    to matter are 0.

  Raises:
    ValueError: if the state is of neither.

  Examples:
    >>> import jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> weights = jnp.array([[0.5, -2.0]])
    >>> tx = ovsw.optax.sad(state="compact")
    >>> _, opt_state = tx.update(weights, tx.init(weights), abs(weights))
    >>> print(ovsw.optax.flip_ema(opt_state).round(4))
    [[0.    0.001]]
  """
  unit = optax.tree.get(opt_state, "sad_unit")
  mantissa = optax.tree.get(opt_state, "sad_mantissa")
  return _read(
    "flip_ema",
    "sad",
    opt_state,
    flip_ema=lambda ema: ema,
    sad_code=lambda code: _flip_average.average(code, unit, mantissa),
  )


def positive(opt_state: optax.OptState) -> Any:
  """Where each weight was positive or zero at the last update.

  Args:
    opt_state: a state of :func:`sad`, :func:`ovsw` or :func:`sign_flips`, full
      or compact, alone or anywhere in the state of a larger transformation.

  Returns:
    A tree of boolean arrays of the parameters' shapes; leaves that are masked
    out have none.

  Raises:
    ValueError: if the state is of none of these.

  Examples:
    >>> import jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> opt_state = ovsw.optax.sad().init(jnp.array([[0.5, -2.0, 0.0]]))
    >>> print(ovsw.optax.positive(opt_state))
    [[ True False  True]]
  """
  return _read(
    "positive",
    "sad` or `sign_flips",
    opt_state,
    positive=lambda positive: positive,
    sad_code=lambda code: code >= _statistics.SIGN,
    previous_positive=lambda positive: positive,
    flips_code=lambda code: code >= _statistics.SIGN,
  )


def flips(opt_state: optax.OptState) -> Any:
  """How often each weight has changed sign, as :func:`sign_flips` counts.

  Args:
    opt_state: a state of :func:`sign_flips`, full or compact, alone or anywhere
      in the state of a larger transformation.

  Returns:
    A tree of int32 arrays of the parameters' shapes; leaves that are masked out
    have none. Of a compact state they stop at 16383.

  Raises:
    ValueError: if the state is of no :func:`sign_flips`.

  Examples:
    >>> import jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> weights = jnp.array([[0.5, -2.0]])
    >>> tx = ovsw.optax.sign_flips(state="compact")
    >>> _, opt_state = tx.update(weights, tx.init(weights), abs(weights))
    >>> print(ovsw.optax.flips(opt_state))
    [[0 1]]
  """
  return _read(
    "flips",
    "sign_flips",
    opt_state,
    flips=lambda flips: flips,
    flips_code=lambda code: (code & _sign_flips.MOST).astype(jnp.int32),
  )


def _read(
  name: str,
  transform: str,
  opt_state: optax.OptState,
  **fields: Callable[[jax.Array], jax.Array],
) -> Any:
  """Reads the first of some fields that a state has, leaf by leaf."""
  for field, leaf in fields.items():
    tree = optax.tree.get(opt_state, field)
    if tree is not None:
      return jax.tree.map(leaf, tree)
  raise ValueError(
    f"{name}: there is no state of `{transform}` in the {type(opt_state)};"
    " pass the optimizer state of a chain that has one."
  )
