"""The optimizer chain: OvSW's order around the optimizers of Optax."""

from typing import Any

import jax
import optax

from ovsw_jax.optax import binary_mask, sign_flips

OPTIMIZERS = ("sgd", "adam", "adamw")


def _more_than_one_axis(params: Any) -> Any:
  return jax.tree.map(lambda p: p.ndim > 1, params)


def _decays(decay_1d: bool, paths: str | None) -> Any:
  """The mask of the parameters that decay."""
  if paths is None:
    return None if decay_1d else _more_than_one_axis
  if decay_1d:
    return binary_mask(paths)
  return lambda params: jax.tree.map(
    lambda wide, chosen: wide and chosen,
    _more_than_one_axis(params),
    binary_mask(paths)(params),
  )


def make(
  name: str,
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  decay_1d: bool = True,
  decay_paths: str | None = None,
  clip_norm: float | None = None,
  transform: optax.GradientTransformation | None = None,
  tail: optax.GradientTransformation | None = None,
  binary: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """Chains clipping, a method's transform, flip statistics and an optimizer.

  The order is the reference's (authors' trainer, aa52fce): AGS measures the
  gradient of the loss alone, SAD adds its penalty to AGS's result, and both
  come before weight decay, which goes through the momentum like an L2 penalty
  (`sgd`, `adam`) or around it (`adamw`).

  Args:
    name: one of `OPTIMIZERS`.
    learning_rate: a number, or a schedule from step to number.
    momentum: of SGD; the first moment's decay of Adam and AdamW.
    nesterov: look-ahead momentum.
    weight_decay: coefficient of the weight decay.
    decay_1d: whether biases, batch-norm parameters and other vectors decay too;
      the reference decays them on CIFAR and not on ImageNet.
    decay_paths: regular expression of the paths of the parameters that decay,
      "layer1_block0/conv1/latent"; None for all.
    clip_norm: largest global gradient norm, or None not to clip.
    transform: the method's gradient transformation, or None.
    tail: a transformation of the updates after the learning rate, or None.
    binary: whether the parameters hold latent binary weights, whose sign flips
      are then counted.

  Returns:
    The transformation; its `update` needs the parameters.

  Raises:
    ValueError: if `name` is unknown; on `init`, if `decay_paths` finds nothing.

  Examples:
    >>> import jax.numpy as jnp, optax
    >>> from ovsw_jax.training import optimizer
    >>> params = {"dense": {"latent": jnp.array([[0.05, -1.0]])}}
    >>> tx = optimizer.make("sgd", 0.1, momentum=0.0)
    >>> state = tx.init(params)
    >>> updates, state = tx.update({"dense": {"latent": jnp.ones((1, 2))}},
    ...                            state, params)
    >>> params = optax.apply_updates(params, updates)
    >>> _, state = tx.update(updates, state, params)
    >>> float(optax.tree.get(state, "flip_rate"))
    0.5
  """
  if name not in OPTIMIZERS:
    raise ValueError(
      f"unknown optimizer.name {name!r}; known: {', '.join(OPTIMIZERS)}"
    )
  decay = []
  if weight_decay:
    decay = [
      optax.add_decayed_weights(
        weight_decay, mask=_decays(decay_1d, decay_paths)
      )
    ]
  if name == "sgd":
    direction = [optax.trace(momentum, nesterov=nesterov)] if momentum else []
  else:
    direction = [optax.scale_by_adam(b1=momentum, nesterov=nesterov)]
  chain = []
  if clip_norm is not None:
    chain.append(optax.clip_by_global_norm(clip_norm))
  if transform is not None:
    chain.append(transform)
  if binary:
    # All that is recorded is exact in two bytes a weight.
    chain.append(sign_flips(state="compact", mask=binary_mask()))
  chain += direction + decay if name == "adamw" else decay + direction
  chain.append(optax.scale_by_learning_rate(learning_rate))
  if tail is not None:
    chain.append(tail)
  return optax.chain(*chain)
