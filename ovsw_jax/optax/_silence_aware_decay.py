"""Silence-aware decaying (SAD), weight decay for weights that never flip."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ovsw_jax.optax import (
  _flip_average,
  _fractions,
  _hyperparameters,
  _masks,
  _statistics,
)


class SADState(NamedTuple):
  """Flip history of every weight, and statistics of the last update."""

  sad_count: jax.Array | None  # shape=(), dtype=jnp.int32; None: no schedule.
  flip_ema: Any  # shape of each parameter, dtype=accumulator_dtype.
  # Sign at the previous update: True is +1.
  positive: Any  # shape of each parameter, dtype=jnp.bool_.
  silent_fraction: jax.Array  # shape=(), dtype=float32 (float64 for float64).
  silent_fraction_per_leaf: Any  # shape=() per leaf, dtype as the total.


class CompactSADState(NamedTuple):
  """Flip history of every weight in two bytes, and statistics.

  The history is read with :func:`flip_ema` and :func:`positive`.
  """

  sad_count: jax.Array  # shape=(), dtype=jnp.int32.
  # Sign at the previous update in the highest bit, 1 for +1; below it a float
  # x from 1 on, exponent and mantissa. The average is (x - 1) * unit.
  sad_code: Any  # shape of each parameter, dtype=jnp.uint16.
  sad_unit: jax.Array  # shape=(), dtype=jnp.float32.
  sad_mantissa: jax.Array  # Its bits, shape=(), dtype=jnp.int32.
  silent_fraction: jax.Array  # shape=(), dtype=float32 (float64 for float64).
  silent_fraction_per_leaf: Any  # shape=() per leaf, dtype as the total.


def _check_momentum_dtype(momentum: Any) -> None:
  """A traced bfloat16 momentum has lost the digits that matter."""
  if getattr(momentum, "dtype", None) == jnp.bfloat16:
    raise ValueError(
      "sad: `momentum` is a bfloat16 array, which rounds 0.999 to 1 and stops"
      " the moving average; pass float32, and under inject_hyperparams"
      " hyperparam_dtype=jnp.float32."
    )


def sad(
  weight: optax.ScalarOrSchedule = 9e-4,
  momentum: optax.ScalarOrSchedule = 0.999,
  threshold: optax.ScalarOrSchedule = 1e-4,
  *,
  init_value: jax.typing.ArrayLike = 0.0,
  accumulator_dtype: jax.typing.DTypeLike = "float32",
  state: Literal["full", "compact"] = "full",
  mask: _masks.Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adds weight decay to the latent weights that have long kept their sign.

  For each weight :math:`w` at step :math:`t`, with gradient :math:`g`, a moving
  average :math:`T` of its sign flips decides whether it is silent:

  .. math::

    T_t &= m\, T_{t-1} +
      (1 - m)\, [\operatorname{sign}(w_t) \neq \operatorname{sign}(w_{t-1})] \\
    g_t &\leftarrow g_t + \lambda\, [T_t < \theta]\, w_t

  Here :math:`\operatorname{sign}(0) = +1`, as a bit has two values; the
  reference counts a weight of exactly zero as a third. The previous signs start
  as those of the parameters given to ``init``, so the first update sees no
  flip and finds every weight silent. With the defaults one flip keeps a weight
  from being silent for 2302 updates.

  The penalty is coupled: it goes through momentum and learning rate like L2
  regularisation. Put it after :func:`ags` and before weight decay and momentum.
  An update that is skipped, by :func:`optax.apply_if_finite` or
  :class:`optax.MultiSteps`, changes no state.

  Statistics, read with ``optax.tree.get(opt_state, name)``:
  ``silent_fraction``, the share of weights with :math:`T_t < \theta`, and
  ``silent_fraction_per_leaf``, both at least float32. :math:`T_t` and where
  :math:`w_t \geq 0` are read with :func:`flip_ema` and :func:`positive`.

  A compact state keeps :math:`T_t / m^t`, which only flips change, as a float
  of fifteen bits relative to a unit that is doubled, and the float halved, once
  in :math:`-\log_m 2` updates. Each flip rounds it, up or down by turns, by at
  most one of the spacings of which an update without a flip takes :math:`d` to
  :math:`2 d`, 2 to 4 with the defaults. So the silence after a first flip, or
  after `init_value`, begins at most one update early or late. After more flips
  the standard deviation is at most :math:`\sqrt{T / (12 (1 - m))} / d` updates
  and a constant below one: with the defaults 0.3 updates for weights that flip
  once in 100, and 1.6 for those that flip every other time, where it takes 2302
  to 9206 updates. Not even flips in step with the rounding can put :math:`T`
  wrong by more than a share :math:`T_{\max} / d` of itself, with
  :math:`T_{\max}` the largest so far.

  Args:
    weight: the penalty :math:`\lambda \geq 0`: a number, a 0-d array or a
      schedule. The reference, which calls it ``dampen_weight``, trains
      ResNet-20 on CIFAR-10 with 9e-4 and ImageNet with 2e-5.
    momentum: decay :math:`m \in [0, 1)` of the moving average
      (``track_momentum``); a number, a 0-d array or a schedule.
    threshold: below this :math:`\theta \geq 0` a weight is silent
      (``track_threshold``); a number, a 0-d array or a schedule.
    init_value: :math:`T_0 \in [0, 1]`. 0 finds all weights silent until their
      first flip, 1 (the reference's ``track_ones``) none for the first 9205
      updates at the default momentum and threshold.
    accumulator_dtype: dtype of :math:`T` in a full state; a compact one takes
      the default only. In bfloat16 the average stalls.
    state: "full" keeps :math:`T` in `accumulator_dtype` and a boolean sign for
      each weight, 5 bytes; "compact" both in a uint16. For a compact state
      `momentum` and `threshold` are numbers, not schedules or traced, and
      `momentum` is at most about 0.9995, and from 0.9993 on `threshold` at
      least 1e-4; do not change them halfway.
    mask: which leaves are binary: a function from the parameters to a tree of
      booleans, such as :func:`binary_mask`, or such a tree. ``None`` takes the
      leaves named ``latent`` if there are any, else all of rank 2 or more,
      else all. The others pass unchanged and have no state.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` object. Its ``update``
    needs ``params``. Updates keep shape and dtype.

  Raises:
    ValueError: for a negative or non-finite `weight` or `threshold`, a
      `momentum` outside [0, 1), an `init_value` outside [0, 1], an
      `accumulator_dtype` that is no floating-point dtype, an unknown `state`,
      a compact one with hyperparameters that it cannot hold, a mask that
      selects nothing, `params` that are missing, or updates that do not fit
      them.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import ovsw_jax as ovsw
    >>> params = {"latent": jnp.array([[0.5, -2.0]])}
    >>> grads = {"latent": jnp.array([[1.0, 1.0]])}
    >>> tx = optax.chain(ovsw.optax.sad(0.01), optax.sgd(1.0))
    >>> opt_state = tx.init(params)
    >>> updates, opt_state = tx.update(grads, opt_state, params)
    >>> print(updates["latent"])  # both silent: gradient + 0.01 * weight
    [[-1.005 -0.98 ]]
    >>> params = optax.apply_updates(params, updates)
    >>> updates, opt_state = tx.update(grads, opt_state, params)
    >>> print(optax.tree.get(opt_state, "silent_fraction"))  # one has flipped
    0.5

  References:
    Xiang et al., `OvSW: Overcoming Silent Weights for Accurate Binary Neural
    Networks <https://arxiv.org/abs/2407.05257>`_, ECCV 2024, silence awareness
    decaying.

  .. note:: Under :func:`optax.inject_hyperparams` pass ``static_args="mask"``
    when you set a mask function, and for a compact state
    ``static_args=("momentum", "threshold", "init_value")``. What is traced
    cannot be checked for its range. With parameters in bfloat16 pass
    ``hyperparam_dtype=jnp.float32`` as well, as 0.999 in bfloat16 is 1.
  """
  check = _hyperparameters.check_scalar
  _check_momentum_dtype(momentum)
  check("sad", "weight", weight)
  check("sad", "momentum", momentum, high=1.0)
  check("sad", "threshold", threshold)
  check("sad", "init_value", init_value, high=math.nextafter(1.0, 2.0))
  if not jnp.issubdtype(accumulator_dtype, jnp.floating):
    raise ValueError(
      f"sad: `accumulator_dtype` is {accumulator_dtype!r}; pass a"
      " floating-point dtype such as jnp.float32."
    )
  if state == "full":
    inner = _full(weight, momentum, threshold, init_value, accumulator_dtype)
  elif state == "compact":
    if jnp.dtype(accumulator_dtype) != jnp.float32:
      raise ValueError(
        f"sad: `accumulator_dtype` is {accumulator_dtype!r}, but a compact"
        ' state has no accumulator; leave it out, or pass state="full".'
      )
    inner = _compact(weight, momentum, threshold, init_value)
  else:
    raise ValueError(f'sad: `state` is {state!r}; pass "full" or "compact".')
  return _masks.restrict("sad", inner, mask)


def _penalised(updates: Any, params: Any, silent: Any, penalty: Any) -> Any:
  """`updates + penalty * params` where a weight is silent."""

  def leaf(g, p, s):
    dtype = jnp.promote_types(
      _statistics.float_dtype(g), _statistics.float_dtype(p)
    )
    decayed = g.astype(dtype) + jnp.asarray(penalty, dtype) * p.astype(dtype)
    return jnp.where(s, decayed.astype(g.dtype), g)

  return jax.tree.map(leaf, updates, params, silent)


def _full(
  weight, momentum, threshold, init_value, dtype
) -> optax.GradientTransformationExtraArgs:
  """The average as it is, in `dtype`, and the signs as booleans."""
  scheduled = (weight, momentum, threshold)

  def silence(ema, params, limit):
    silent = jax.tree.map(lambda t: t < jnp.asarray(limit, t.dtype), ema)
    return silent, *_fractions.fractions(params, silent)

  def init_fn(params):
    count = _hyperparameters.first_count(*scheduled)
    positive = _statistics.positive(params)
    ema = _statistics.filled(positive, init_value, dtype)
    limit = _hyperparameters.value_at(threshold, count)
    _, total, each = silence(ema, params, limit)
    return SADState(count, ema, positive, total, each)

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    penalty, decay, limit = (
      _hyperparameters.value_at(h, state.sad_count) for h in scheduled
    )
    _check_momentum_dtype(decay)
    positive = _statistics.positive(params)
    flipped = _statistics.differs(positive, state.positive)
    ema = jax.tree.map(
      lambda t, f: (
        jnp.asarray(decay, t.dtype) * t + jnp.asarray(1 - decay, t.dtype) * f
      ),
      state.flip_ema,
      flipped,
    )
    silent, total, each = silence(ema, params, limit)
    count = _hyperparameters.next_count(state.sad_count)
    return (
      _penalised(updates, params, silent, penalty),
      SADState(count, ema, positive, total, each),
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _compact(
  weight, momentum, threshold, init_value
) -> optax.GradientTransformationExtraArgs:
  """The average and the sign in 16 bits."""
  momentum, threshold, init_value = (
    _concrete(name, value)
    for name, value in (
      ("momentum", momentum),
      ("threshold", threshold),
      ("init_value", init_value),
    )
  )
  average = _flip_average.make(momentum, threshold)
  if average is None:
    raise ValueError(
      f"sad: a compact state is too small for `momentum` {momentum:g} with"
      f" `threshold` {threshold:g}; pass a smaller momentum, up to about"
      ' 0.9995, a larger threshold, or state="full".'
    )

  def silence(codes, limit, params):
    silent = jax.tree.map(lambda c: average.is_silent(c, limit), codes)
    return silent, *_fractions.fractions(params, silent)

  def init_fn(params):
    positive = _statistics.positive(params)
    level, unit, limit = average.initial(init_value)
    codes = jax.tree.map(lambda p: _statistics.sign_bit(p) | level, positive)
    _, total, each = silence(codes, limit, params)
    # Shaped as the total, these have on every mesh the type that update gives.
    return CompactSADState(
      sad_count=_statistics.filled(total, 0, jnp.int32),
      sad_code=codes,
      sad_unit=_statistics.filled(total, unit, jnp.float32),
      sad_mantissa=_statistics.filled(total, average.mantissa, jnp.int32),
      silent_fraction=total,
      silent_fraction_per_leaf=each,
    )

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    penalty = _hyperparameters.value_at(weight, state.sad_count)
    moment = average.moment(state.sad_count)
    codes = jax.tree.map(
      lambda c, p: average.update(c, p, moment),
      state.sad_code,
      _statistics.positive(params),
    )
    silent, total, each = silence(codes, moment.limit, params)
    state = state._replace(
      sad_count=optax.safe_increment(state.sad_count),
      sad_code=codes,
      sad_unit=moment.unit,
      silent_fraction=total,
      silent_fraction_per_leaf=each,
    )
    return _penalised(updates, params, silent, penalty), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _concrete(name: str, value: Any) -> float:
  """The value of a hyperparameter that a compact state builds its scale on."""
  if callable(value) or isinstance(value, jax.core.Tracer):
    kind = "a schedule" if callable(value) else "traced"
    raise ValueError(
      f'sad: with state="compact" `{name}` is {kind}, but has to be a number'
      ' known beforehand; pass one, or state="full". Under inject_hyperparams'
      ' pass static_args=("momentum", "threshold", "init_value").'
    )
  return float(value)
