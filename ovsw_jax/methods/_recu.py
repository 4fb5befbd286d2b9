"""ReCU: dead weights in the tails of the distribution are revived.

Xu et al., `ReCU: Reviving the Dead Weights in Binary Neural Networks
<https://arxiv.org/abs/2103.12369>`_, ICCV 2021.
"""

import functools

import jax

from ovsw_jax import nn, quantizers, sign
from ovsw_jax.methods._method import Method

__all__ = ["recu"]


def _uniform(key: jax.Array, latent: jax.Array) -> jax.Array:
  return jax.random.uniform(key, latent.shape[-1:], latent.dtype)


def recu(tau_min: float = 0.85, tau_max: float = 0.99) -> Method:
  """ReCU: standardized weights, clamped at a quantile that grows.

  Activations are normalized in training as in OvSW, but their deviation is not
  a constant to the gradient. The output scale is learned and starts uniform in
  [0, 1).

  Args:
    tau_min: quantile at the start, at least 0.5.
    tau_max: quantile at the end, below 1.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.recu(tau_max=0.95).name
    'recu'
  """
  tau = quantizers.tau_schedule(tau_min, tau_max)
  conv = functools.partial(
    nn.BinaryConv,
    weight_quantizer=quantizers.scheduled(
      lambda progress: quantizers.clamped_weights(tau(progress))
    ),
    activation_quantizer=quantizers.sign_activations(sign.approx, detach=False),
    output_scale="learned",
    output_scale_init=_uniform,
  )
  return Method("recu", conv)
