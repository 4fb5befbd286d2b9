"""Learning-rate schedules.

The OvSW reference sets the learning rate once an epoch; `cosine_epoch`,
`constant` and `multistep` do the same and reproduce its tables, `linear` and
`linear_early` those of ReActNet's family. `cosine`, the default, follows the
same curve as `cosine_epoch` step by step and falls to zero.

Epoch-wise schedules are tables, computed in float64 on the host and looked up
on the device: what the device sees is the table rounded once.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

SCHEDULES = (
  "cosine",
  "cosine_epoch",
  "constant",
  "linear",
  "linear_early",
  "multistep",
  "multistep_warmup",
)


def cosine_epoch(
  learning_rate: float, epochs: int, warmup_epochs: int = 0, floor: float = 1e-5
) -> np.ndarray:
  r"""The reference's cosine: linear warm-up, then half a cosine plus a floor.

  .. math::
    \eta_e = \begin{cases}
      \eta \, (e + 1) / W & e < W \\
      \eta \, (1 + \cos(\pi (e - W) / (E - W))) / 2 + f & e \ge W
    \end{cases}

  The floor is added, and only after the warm-up: the first epoch after it runs
  at :math:`\eta + f`.

  Args:
    learning_rate: peak value, :math:`\eta \ge 0`.
    epochs: length of the run, :math:`E \ge 1`.
    warmup_epochs: :math:`0 \le W \le E`.
    floor: :math:`f \ge 0`.

  Returns:
    The learning rate of every epoch: shape ``(epochs,)``, float64.

  Raises:
    ValueError: an argument is out of its range.

  Examples:
    >>> cosine_epoch(0.1, 5, warmup_epochs=2).round(5).tolist()
    [0.05, 0.1, 0.10001, 0.07501, 0.02501]

  References:
    `cosine_lr` of the OvSW reference code; Xiang et al., `OvSW: Overcoming
    Silent Weights for Accurate Binary Neural Networks
    <https://arxiv.org/abs/2407.05257>`_, 2024
  """
  _check(learning_rate=learning_rate, floor=floor)
  _check_warmup(epochs, warmup_epochs)
  epoch = np.arange(epochs)
  warmup = learning_rate * (epoch + 1) / max(warmup_epochs, 1)
  span = max(epochs - warmup_epochs, 1)
  decay = 0.5 * (1 + np.cos(np.pi * (epoch - warmup_epochs) / span))
  return np.where(epoch < warmup_epochs, warmup, decay * learning_rate + floor)


def constant_epoch(
  learning_rate: float, epochs: int, warmup_epochs: int = 0
) -> np.ndarray:
  """The reference's constant: linear warm-up, then one value.

  Args:
    learning_rate: value after the warm-up, at least 0.
    epochs: length of the run, at least 1.
    warmup_epochs: from 0 to ``epochs``.

  Returns:
    The learning rate of every epoch: shape ``(epochs,)``, float64.

  Raises:
    ValueError: an argument is out of its range.

  Examples:
    >>> constant_epoch(0.1, 4, warmup_epochs=2).tolist()
    [0.05, 0.1, 0.1, 0.1]
  """
  _check(learning_rate=learning_rate)
  _check_warmup(epochs, warmup_epochs)
  ramp = (np.arange(epochs) + 1) / max(warmup_epochs, 1)
  return learning_rate * np.minimum(ramp, 1.0)


def multistep_epoch(
  learning_rate: float,
  epochs: int,
  every: int = 30,
  gamma: float = 0.1,
  warmup_epochs: int = 0,
) -> np.ndarray:
  """The reference's steps: times ``gamma`` after every ``every`` epochs.

  Args:
    learning_rate: first value, at least 0.
    epochs: length of the run, at least 1.
    every: epochs between two drops, at least 1.
    gamma: factor of a drop, at least 0.
    warmup_epochs: from 0 to ``epochs``, a part of the first ``every``; the
      reference has none.

  Returns:
    The learning rate of every epoch: shape ``(epochs,)``, float64.

  Raises:
    ValueError: an argument is out of its range.

  Examples:
    >>> multistep_epoch(0.1, 5, every=2, gamma=0.5).tolist()
    [0.1, 0.1, 0.05, 0.05, 0.025]
  """
  _check(learning_rate=learning_rate, gamma=gamma)
  if every < 1:
    raise ValueError(f"every must be at least 1 epoch, got {every!r}.")
  ramp = constant_epoch(learning_rate, epochs, warmup_epochs)
  return ramp * gamma ** (np.arange(epochs) // every)


def linear_epoch(
  learning_rate: float, epochs: int, *, early: bool = False
) -> np.ndarray:
  r"""Linear decay to zero: :math:`\eta (1 - e / E)`.

  Args:
    learning_rate: value of the first epoch, at least 0.
    epochs: length of the run, :math:`E \ge 1`.
    early: :math:`\eta (1 - (e + 1) / E)` instead, which the code of ReActNet
      and its relatives comes to: the last epoch runs at zero, and only the
      batch statistics move.

  Returns:
    The learning rate of every epoch: shape ``(epochs,)``, float64.

  Raises:
    ValueError: an argument is out of its range.

  Examples:
    >>> linear_epoch(1.0, 4).tolist()
    [1.0, 0.75, 0.5, 0.25]
    >>> linear_epoch(1.0, 4, early=True).tolist()
    [0.75, 0.5, 0.25, 0.0]
  """
  _check(learning_rate=learning_rate)
  _check_warmup(epochs, 0)
  return learning_rate * (1 - (np.arange(epochs) + early) / epochs)


def by_epoch(table: np.ndarray, steps_per_epoch: int) -> optax.Schedule:
  """A per-epoch table as a function of the step; the last value stays.

  Args:
    table: learning rate of every epoch, shape ``(epochs,)``.
    steps_per_epoch: updates in an epoch, at least 1.

  Returns:
    An Optax schedule: integer step, traced or not, to a scalar of the default
    float dtype.

  Raises:
    ValueError: ``steps_per_epoch`` is below 1.

  Examples:
    >>> schedule = by_epoch(np.array([0.5, 0.25]), steps_per_epoch=3)
    >>> [float(schedule(step)) for step in (0, 2, 3, 5, 99)]
    [0.5, 0.5, 0.25, 0.25, 0.25]
  """
  _check_steps(steps_per_epoch)

  def schedule(step) -> jax.Array:
    epoch = jnp.clip(step // steps_per_epoch, 0, len(table) - 1)
    return jnp.asarray(table)[epoch]

  return schedule


def cosine(
  learning_rate: float, steps: int, warmup_steps: int = 0
) -> optax.Schedule:
  """Linear warm-up, then half a cosine to zero, both by the step.

  The first step already learns (the reference's ``(e + 1) / W``, where
  ``optax.warmup_cosine_decay_schedule`` starts at zero), and a run without
  warm-up needs no special case.

  Args:
    learning_rate: peak value, at least 0.
    steps: length of the run in updates, at least 1.
    warmup_steps: updates of the warm-up, below ``steps``.

  Returns:
    An Optax schedule: integer step, traced or not, to a scalar of the default
    float dtype.

  Raises:
    ValueError: an argument is out of its range.

  Examples:
    >>> schedule = cosine(1.0, steps=6, warmup_steps=2)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
  """
  _check(learning_rate=learning_rate)
  if steps < 1 or not 0 <= warmup_steps < steps:
    raise ValueError(
      "steps must be at least 1 and warmup_steps at least 0 and below it, got"
      f" steps={steps!r}, warmup_steps={warmup_steps!r}."
    )

  def schedule(step) -> jax.Array:
    # Differences and minima stay in integers: a float32 step count is exact
    # only up to 2**24.
    step = jnp.asarray(step)
    ramp = jnp.minimum(step + 1, warmup_steps) / max(warmup_steps, 1)
    past = jnp.clip(step - warmup_steps, 0, steps - warmup_steps)
    decay = 0.5 * (1 + jnp.cos(math.pi * (past / (steps - warmup_steps))))
    return learning_rate * jnp.where(step < warmup_steps, ramp, decay)

  return schedule


def make(
  name: str,
  *,
  learning_rate: float,
  epochs: int,
  steps_per_epoch: int,
  warmup_epochs: int = 0,
  floor: float = 1e-5,
  every: int = 30,
  gamma: float = 0.1,
) -> optax.Schedule:
  """The schedule of a config.

  Args:
    name: one of ``SCHEDULES``. ``cosine`` follows the curve by the step and
      ends at zero; the others change once an epoch, as the published code does.
    learning_rate: peak value, at least 0.
    epochs: length of the run, at least 1.
    steps_per_epoch: updates in an epoch, at least 1.
    warmup_epochs: epochs of linear warm-up, at least 0 and below ``epochs``.
      ``multistep`` and the linear ones have none and ignore it, as in the
      published code; ``multistep_warmup`` has it.
    floor: what ``cosine_epoch`` adds after the warm-up.
    every: epochs between two drops of ``multistep``.
    gamma: factor of a drop of ``multistep``.

  Returns:
    An Optax schedule: integer step, traced or not, to a scalar of the default
    float dtype.

  Raises:
    ValueError: unknown name, or an argument out of its range.

  Examples:
    >>> schedule = make(
    ...   "cosine_epoch", learning_rate=0.1, epochs=4, steps_per_epoch=10,
    ...   warmup_epochs=2)
    >>> [round(float(schedule(step)), 5) for step in (0, 9, 10, 20, 30)]
    [0.05, 0.05, 0.1, 0.10001, 0.05001]
  """
  _check_steps(steps_per_epoch)
  if epochs >= 1 and warmup_epochs >= epochs:
    raise ValueError(
      f"warmup_epochs={warmup_epochs!r} must be below epochs={epochs!r}: the"
      " run would end before the warm-up does."
    )
  makers: dict[str, Callable[[], optax.Schedule]] = {
    "cosine": lambda: cosine(
      learning_rate, epochs * steps_per_epoch, warmup_epochs * steps_per_epoch
    ),
    "cosine_epoch": lambda: by_epoch(
      cosine_epoch(learning_rate, epochs, warmup_epochs, floor), steps_per_epoch
    ),
    "constant": lambda: by_epoch(
      constant_epoch(learning_rate, epochs, warmup_epochs), steps_per_epoch
    ),
    "linear": lambda: by_epoch(
      linear_epoch(learning_rate, epochs), steps_per_epoch
    ),
    "linear_early": lambda: by_epoch(
      linear_epoch(learning_rate, epochs, early=True), steps_per_epoch
    ),
    "multistep": lambda: by_epoch(
      multistep_epoch(learning_rate, epochs, every, gamma), steps_per_epoch
    ),
    "multistep_warmup": lambda: by_epoch(
      multistep_epoch(learning_rate, epochs, every, gamma, warmup_epochs),
      steps_per_epoch,
    ),
  }
  if name not in makers:
    raise ValueError(
      f"Unknown schedule {name!r}; known schedules: {', '.join(SCHEDULES)}."
    )
  _check_warmup(epochs, warmup_epochs)
  return makers[name]()


def _check(**values: float) -> None:
  for name, value in values.items():
    if not (math.isfinite(value) and value >= 0):
      raise ValueError(f"{name} must be finite and at least 0, got {value!r}.")


def _check_steps(steps_per_epoch: int) -> None:
  if steps_per_epoch < 1:
    raise ValueError(
      f"steps_per_epoch must be at least 1, got {steps_per_epoch!r}."
    )


def _check_warmup(epochs: int, warmup_epochs: int) -> None:
  if epochs < 1:
    raise ValueError(f"epochs must be at least 1, got {epochs!r}.")
  if not 0 <= warmup_epochs <= epochs:
    raise ValueError(
      "warmup_epochs must be at least 0 and at most epochs, got"
      f" warmup_epochs={warmup_epochs!r}, epochs={epochs!r}."
    )
