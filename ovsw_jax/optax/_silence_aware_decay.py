"""Silence-aware decaying (SAD), weight decay for weights that never flip."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ovsw_jax.optax import _hyperparameters, _masks, _statistics


class SADState(NamedTuple):
  """Flip history of every weight, and statistics of the last update."""

  sad_count: jax.Array | None  # shape=(), dtype=jnp.int32; None: no schedule.
  flip_ema: Any  # shape of each parameter, dtype=accumulator_dtype.
  # Sign at the previous update: True is +1.
  positive: Any  # shape of each parameter, dtype=jnp.bool_.
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
  ``silent_fraction``, the share of weights with :math:`T_t < \theta`;
  ``silent_fraction_per_leaf``; ``flip_ema``, which is :math:`T_t`; and
  ``positive``, where :math:`w_t \geq 0`. The fractions are at least float32.

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
    accumulator_dtype: dtype of :math:`T`. In bfloat16 the average stalls.
    mask: which leaves are binary: a function from the parameters to a tree of
      booleans, such as :func:`binary_mask`, or such a tree. ``None`` takes the
      leaves named ``latent`` if there are any, else all of rank 2 or more,
      else all. The others pass unchanged and have no state.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` object. Its ``update``
    needs ``params``. Updates keep shape and dtype. The state holds one
    accumulator and one boolean for each selected weight.

  Raises:
    ValueError: for a negative or non-finite `weight` or `threshold`, a
      `momentum` outside [0, 1), an `init_value` outside [0, 1], an
      `accumulator_dtype` that is no floating-point dtype, a mask that selects
      nothing, `params` that are missing, or updates that do not fit them.

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
    when you set a mask function. What is traced cannot be checked for its
    range. With parameters in bfloat16 pass ``hyperparam_dtype=jnp.float32`` as
    well, as 0.999 in bfloat16 is 1.
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
  scheduled = (weight, momentum, threshold)

  def silence(ema, params, limit):
    silent = jax.tree.map(lambda t: t < jnp.asarray(limit, t.dtype), ema)
    return silent, *_statistics.fractions(silent, params)

  def init_fn(params):
    count = _hyperparameters.first_count(*scheduled)
    positive = _statistics.positive(params)
    ema = _statistics.filled(positive, init_value, accumulator_dtype)
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

    def penalise(g, p, s):
      dtype = jnp.promote_types(
        _statistics.float_dtype(g), _statistics.float_dtype(p)
      )
      decayed = g.astype(dtype) + jnp.asarray(penalty, dtype) * p.astype(dtype)
      return jnp.where(s, decayed.astype(g.dtype), g)

    updates = jax.tree.map(penalise, updates, params, silent)
    count = _hyperparameters.next_count(state.sad_count)
    return updates, SADState(count, ema, positive, total, each)

  inner = optax.GradientTransformationExtraArgs(init_fn, update_fn)
  return _masks.restrict("sad", inner, mask)
