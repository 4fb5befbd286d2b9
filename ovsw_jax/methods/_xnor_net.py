"""XNOR-Net: scaled signs of centred and clipped weights.

Rastegari et al., `XNOR-Net: ImageNet Classification Using Binary Convolutional
Neural Networks <https://arxiv.org/abs/1603.05279>`_, ECCV 2016, as in the
authors' Torch code.
"""

import functools

import jax
import jax.numpy as jnp

from ovsw_jax import nn, quantizers, sign
from ovsw_jax import optax as transforms
from ovsw_jax.methods import _latents
from ovsw_jax.methods._method import Method

__all__ = ["xnor_net"]

_RULES = ("sgd", "adam")


def centre_and_clip(latent: jax.Array) -> jax.Array:
  """Subtracts the mean over the input channels, then clips to [-1, 1]."""
  centred = latent - jnp.mean(latent, axis=-2, keepdims=True)
  return jnp.clip(centred, -1, 1)


def _factor(latent: jax.Array, rule: str) -> jax.Array:
  """What the code multiplies the gradient of the binarized weight by."""
  inputs, weights = latent.shape[-2], latent.size // latent.shape[-1]
  inside = (jnp.abs(latent) < 1).astype(latent.dtype)
  scale = quantizers.mean_magnitude(latent)
  factor = (1 / weights + scale * inside) * (1 - 1 / inputs)
  return weights * factor if rule == "sgd" else factor


def _input_magnitude(y, x, window_mean):
  """The paper's K: the mean |x| of each window, over all input channels."""
  magnitude = jnp.mean(jnp.abs(x), axis=-1, keepdims=True)
  return y * window_mean(magnitude).astype(y.dtype)


def _refresh(variables, progress):
  """Centres and clips the weights that training starts from."""

  def first(latent):
    return jnp.where(progress > 0, latent, centre_and_clip(latent))

  params = _latents.update(variables["params"], first)
  return {**variables, "params": params}


def xnor_net(input_scale: bool = False, rule: str = "sgd") -> Method:
  """XNOR-Net: weights `mean|w| sign(w)`, centred and clipped at every step.

  The latent gradient is ``(1/n + mean|w| 1[|w| < 1]) (1 - 1/in)`` times that of
  the binarized weight, with `n` weights per output channel and `in` input
  channels (so a layer of one input channel does not learn). The code centres
  and clips before each step; here the tail of the optimizer does so after it,
  and the refresh before the first, which is the same weights at every step.
  Evaluation sees them centred and clipped too, the code's only after one more
  step of training.

  Args:
    input_scale: multiplies the output by the mean |x| of each window, the
      paper's K, which the authors' code leaves out. Its gradient is included.
    rule: "sgd" multiplies the latent gradient by `n`, as the authors' code does
      for SGD; "adam" does not.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.xnor_net(input_scale=True).tail is not None
    True
  """
  if rule not in _RULES:
    raise ValueError(f"rule={rule!r} must be one of {', '.join(_RULES)}.")
  conv = functools.partial(
    nn.BinaryConv,
    weight_quantizer=quantizers.scaled_sign(
      functools.partial(_factor, rule=rule)
    ),
    activation_quantizer=quantizers.sign_activations(
      sign.clipped_ste, normalize=False
    ),
    output_scale=None,
    post=_input_magnitude if input_scale else None,
  )
  return Method(
    "xnor_net",
    conv,
    tail=transforms.project(centre_and_clip, mask=transforms.binary_mask()),
    refresh=_refresh,
  )
