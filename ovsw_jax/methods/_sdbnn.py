"""SD-BNN: learned shifts of weights and activations, and no scales.

Xue et al., `Self-Distribution Binary Neural Networks
<https://arxiv.org/abs/2103.02394>`_, 2021.
"""

import functools

from flax import linen

from ovsw_jax import nn, sign
from ovsw_jax.methods._method import Method
from ovsw_jax.nn import _initializers

__all__ = ["sdbnn", "sdbnn_imagenet"]

_SHIFT_INITS = {
  "he_normal": nn.he_normal,
  "normal": _initializers.as_vector(linen.initializers.normal(0.01)),
}


def _method(name, weights, activations, activation=None) -> Method:
  conv = functools.partial(
    nn.BinaryConv,
    weight_quantizer=weights,
    activation_quantizer=activations,
    output_scale=None,
  )
  return Method(name, conv, activation=activation)


def sdbnn(
  t_min: float = 1e-3,
  t_max: float = 10.0,
  reduction: int = 16,
  coefficient: float = 0.01,
  shift_init: str = "he_normal",
) -> Method:
  """SD-BNN as the authors train it on CIFAR, with IR-Net's EDE.

  Args:
    t_min: sharpness of EDE at the start: in the authors' code 1e-3 for the
      ResNets, 1e-1 for VGG-Small.
    t_max: sharpness at the end.
    reduction: of the channels, inside the activations' shift.
    coefficient: of the filter's mean, in the weights' shift.
    shift_init: initializer of the activations' shift: "he_normal", as the
      authors' ResNets have it, or "normal" of deviation 0.01, as VGG-Small.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.sdbnn(shift_init="normal").name
    'sdbnn'
  """
  if shift_init not in _SHIFT_INITS:
    raise ValueError(
      f"shift_init={shift_init!r} must be one of {', '.join(_SHIFT_INITS)}."
    )
  schedule = sign.annealing(t_min, t_max)

  def ede(progress):
    return sign.ede(*schedule(progress))

  return _method(
    "sdbnn",
    functools.partial(
      nn.SelfDistributionWeights, coefficient=coefficient, estimator=ede
    ),
    functools.partial(
      nn.SelfDistributionActivations,
      reduction=reduction,
      estimator=ede,
      kernel_init=_SHIFT_INITS[shift_init],
    ),
  )


def sdbnn_imagenet(reduction: int = 8, coefficient: float = 0.01) -> Method:
  """SD-BNN as the authors train it on ImageNet, in two stages.

  Weights have the clipped straight-through estimator, activations ApproxSign,
  and PReLU takes the place of the network's non-linearity. The first stage is
  `real_weights` of it.

  Args:
    reduction: of the channels, inside the activations' shift.
    coefficient: of the filter's mean, in the weights' shift.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.sdbnn_imagenet().activation.__name__
    'PReLU'
  """
  return _method(
    "sdbnn_imagenet",
    functools.partial(nn.SelfDistributionWeights, coefficient=coefficient),
    functools.partial(nn.SelfDistributionActivations, reduction=reduction),
    activation=nn.PReLU,
  )
