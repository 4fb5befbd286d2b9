"""IR-Net: Libra-PB forward, EDE backward.

Qin et al., `Forward and Backward Information Retention for Accurate Binary
Neural Networks <https://arxiv.org/abs/1909.10788>`_, CVPR 2020.
"""

import functools

from ovsw_jax import nn, quantizers, sign
from ovsw_jax.methods._method import Method

__all__ = ["irnet"]


def irnet(
  t_min: float = 1e-3, t_max: float = 10.0, epsilon: float = 0.0
) -> Method:
  """IR-Net: balanced, standardized weights and an estimator that sharpens.

  Args:
    t_min: sharpness of EDE at the start: in the authors' code 1e-3 for
      ResNet-20 and 1e-1 for VGG-Small, in the paper 1e-1. With 1e-3 the
      estimator is the identity for three quarters of the training.
    t_max: sharpness at the end.
    epsilon: added to the variance of each filter; 0 in the authors' code, where
      a filter of equal weights becomes NaN.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.irnet(t_min=0.1).name
    'irnet'
  """
  schedule = sign.annealing(t_min, t_max)

  def ede(progress):
    return sign.ede(*schedule(progress))

  conv = functools.partial(
    nn.BinaryConv,
    weight_quantizer=quantizers.scheduled(
      lambda progress: quantizers.libra_weights(ede(progress), epsilon=epsilon)
    ),
    activation_quantizer=quantizers.scheduled(
      lambda progress: quantizers.sign_activations(
        ede(progress), normalize=False
      )
    ),
    output_scale=None,
  )
  return Method("irnet", conv)
