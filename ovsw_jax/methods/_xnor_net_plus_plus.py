"""XNOR-Net++: the output scale is learned.

Bulat and Tzimiropoulos, `XNOR-Net++: Improved Binary Neural Networks
<https://arxiv.org/abs/1909.13863>`_, BMVC 2019, as in the authors' PyTorch
code.
"""

import functools

import jax
import jax.numpy as jnp

from ovsw_jax import nn, quantizers, sign
from ovsw_jax.methods._method import Method

__all__ = ["xnor_net_plus_plus"]


def _centred_signs(
  latent: jax.Array, progress: jax.typing.ArrayLike
) -> quantizers.Quantized:
  del progress
  centred = latent - jnp.mean(latent, axis=-2, keepdims=True)
  return quantizers.Quantized(
    sign.clipped_ste(centred), quantizers.mean_magnitude(centred)
  )


def _ones(key: jax.Array, latent: jax.Array) -> jax.Array:
  del key
  return jnp.ones(latent.shape[-1:], latent.dtype)


def xnor_net_plus_plus() -> Method:
  """XNOR-Net++: signs of centred weights, and an output scale that is learned.

  The weight is ``mean|c| sign(c)`` with ``c = w - mean(w)`` over the input
  channels; its gradient passes to c where ``|c| < 1``, times ``mean|c|``, and
  through the centring to w. The output is multiplied by one learned number for
  each output channel, 1 at first.

  The paper puts the learned scale in the place of ``mean|c|`` and also has
  scales of the positions of the output, which neither the authors' code nor
  this has. They train in two steps, see `real_weights`, whose first stage has
  no scale here and the learned one there.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.xnor_net_plus_plus().conv.keywords["output_scale"]
    'learned'
  """
  conv = functools.partial(
    nn.BinaryConv,
    weight_quantizer=_centred_signs,
    activation_quantizer=quantizers.sign_activations(
      sign.clipped_ste, normalize=False
    ),
    output_scale="learned",
    output_scale_init=_ones,
  )
  return Method("xnor_net_plus_plus", conv)
