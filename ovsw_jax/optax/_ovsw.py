"""OvSW: adaptive gradient scaling, then silence-aware decaying."""

from typing import Literal

import optax

from ovsw_jax.optax import (
  _adaptive_gradient_scaling,
  _masks,
  _silence_aware_decay,
)


def ovsw(
  delta: optax.ScalarOrSchedule = 0.04,
  weight: optax.ScalarOrSchedule = 9e-4,
  momentum: optax.ScalarOrSchedule = 0.999,
  threshold: optax.ScalarOrSchedule = 1e-4,
  *,
  output_axis: int | None = None,
  state: Literal["full", "compact"] = "full",
  mask: _masks.Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Overcomes silent weights: :func:`ags`, then :func:`sad`.

  The defaults are the reference's for ResNet-20 on CIFAR-10; for ImageNet it
  uses ``delta=0.01, weight=2e-5``. The order matters: the norms of
  :func:`ags` must not see the penalty. Put it first in the chain, before weight
  decay and momentum. For the arguments that are not here, chain the two.

  Args:
    delta: lower bound on each filter's relative gradient, see :func:`ags`.
    weight: penalty on silent weights, see :func:`sad`; the reference calls it
      ``dampen_weight``.
    momentum: decay of the average of flips (``track_momentum``).
    threshold: average below which a weight is silent (``track_threshold``).
    output_axis: axis of the output channels, ``None`` for the last.
    state: "full", or "compact" for two bytes per weight, see :func:`sad`.
    mask: which leaves are binary, for both; see :func:`ags`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` object. Its ``update``
    needs ``params``. Updates keep shape and dtype.

  Raises:
    ValueError: as :func:`ags` and :func:`sad` do.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import ovsw_jax as ovsw
    >>> params = {"latent": jnp.array([[0.5, -2.0]])}
    >>> grads = {"latent": jnp.array([[1.0, 0.02]])}
    >>> tx = optax.chain(
    ...   ovsw.optax.ovsw(),
    ...   optax.add_decayed_weights(5e-4),
    ...   optax.sgd(0.1, momentum=0.9),
    ... )
    >>> updates, opt_state = tx.update(grads, tx.init(params), params)
    >>> print(optax.tree.get(opt_state, "ags_scaled_fraction"))
    0.5
    >>> print(optax.tree.get(opt_state, "silent_fraction"))
    1.0

  References:
    Xiang et al., `OvSW: Overcoming Silent Weights for Accurate Binary Neural
    Networks <https://arxiv.org/abs/2407.05257>`_, ECCV 2024.
  """
  return optax.chain(
    _adaptive_gradient_scaling.ags(delta, output_axis=output_axis, mask=mask),
    _silence_aware_decay.sad(
      weight, momentum, threshold, state=state, mask=mask
    ),
  )
