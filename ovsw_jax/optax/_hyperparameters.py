"""Hyperparameters that are numbers, arrays or schedules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def check_scalar(
  transform: str,
  name: str,
  value: Any,
  *,
  low: float = 0.0,
  high: float = np.inf,
  open_low: bool = False,
) -> None:
  """Raises `ValueError` unless a concrete `value` lies in `[low, high)`.

  Schedules and traced values pass: what they hold is not known yet.
  `open_low` makes the interval `(low, high)`.
  """
  if callable(value) or isinstance(value, jax.core.Tracer):
    return
  bounds = f"{'(' if open_low else '['}{low:g}, {high:g})"
  remedy = f"pass a number, a 0-d array or a schedule with values in {bounds}."
  number = np.asarray(value)
  if not jnp.issubdtype(number.dtype, np.number):
    raise ValueError(
      f"{transform}: `{name}` is {value!r}, which is not a number; {remedy}"
    )
  number = number.astype(np.float64)
  if number.ndim:
    raise ValueError(
      f"{transform}: `{name}` has shape {number.shape}; {remedy}"
    )
  inside = low < number < high if open_low else low <= number < high
  if not inside:
    raise ValueError(f"{transform}: `{name}` is {number}; {remedy}")


def value_at(
  hyperparameter: optax.ScalarOrSchedule, count: jax.Array | None
) -> Any:
  """The value of a number, or of a schedule at `count`."""
  return hyperparameter(count) if callable(hyperparameter) else hyperparameter


def first_count(*hyperparameters: Any) -> jax.Array | None:
  """A zero counter if any hyperparameter is a schedule, else `None`."""
  if any(map(callable, hyperparameters)):
    return jnp.zeros([], jnp.int32)
  return None


def next_count(count: jax.Array | None) -> jax.Array | None:
  """`count + 1`, which stops at the largest int32; `None` stays `None`."""
  return None if count is None else optax.safe_increment(count)
