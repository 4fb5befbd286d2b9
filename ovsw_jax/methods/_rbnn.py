"""RBNN: latent weights rotated towards their bits, once an epoch.

Lin et al., `Rotated Binary Neural Network <https://arxiv.org/abs/2009.13055>`_,
NeurIPS 2020.
"""

import functools
import math

import jax.numpy as jnp
from flax import traverse_util

from ovsw_jax import nn, quantizers, sign
from ovsw_jax.methods import _latents
from ovsw_jax.methods._method import Method

__all__ = ["rbnn"]


def _refresh(variables, progress, *, epsilon, rounds):
  """Turns the rotations of all layers; see `quantizers.fit_rotations`."""
  del progress
  latents = _latents.by_layer(variables["params"])
  rotations = dict(traverse_util.flatten_dict(variables[nn.ROTATIONS]))
  for layer, latent in latents.items():
    r1, r2 = ((*layer, "weight_quantizer", name) for name in ("r1", "r2"))
    rotations[r1], rotations[r2] = quantizers.fit_rotations(
      quantizers.standardized(latent, epsilon),
      rotations[r1],
      rotations[r2],
      rounds,
    )
  return {**variables, nn.ROTATIONS: traverse_util.unflatten_dict(rotations)}


def rbnn(
  beta_init: float = math.pi / 2,
  t_min: float = 1e-2,
  t_max: float = 10.0,
  rounds: int = 3,
  epsilon: float = 0.0,
) -> Method:
  """RBNN: weights blended with their rotation, an estimator that sharpens.

  Weights and each example's activations are standardized, activations in
  evaluation too. The output scale is learned and starts at the mean |w|. The
  rotations are variables of the collection "rotations", which `refresh` turns.

  Args:
    beta_init: where the angle of the blend starts, the share being
      ``|sin(beta)|``. The default is the authors', at which the latent weights
      have **no gradient** until weight decay pulls beta off it; pi/4 (0.785)
      trains from the first step.
    t_min: sharpness at the start, see `sign.annealing`.
    t_max: sharpness at the end.
    rounds: of fitting the rotations, each epoch.
    epsilon: added to the variances of weights and activations; 0 in the
      authors' code, where those without variance become NaN.

  Examples:
    >>> from ovsw_jax import methods
    >>> methods.rbnn(beta_init=0.785).refresh is not None
    True
  """
  schedule = sign.annealing(t_min, t_max)

  def for_weights(progress):
    return sign.rbnn(*schedule(progress))

  def for_activations(progress):
    _, t = schedule(progress)
    return sign.rbnn(1.0, jnp.maximum(t, 1))

  conv = functools.partial(
    nn.BinaryConv,
    weight_quantizer=functools.partial(
      nn.RotatedWeights,
      angle_init=beta_init,
      epsilon=epsilon,
      estimator=for_weights,
    ),
    activation_quantizer=quantizers.scheduled(
      lambda progress: quantizers.standardized_sign_activations(
        for_activations(progress), epsilon=epsilon
      )
    ),
    output_scale="learned",
  )
  refresh = functools.partial(_refresh, epsilon=epsilon, rounds=rounds)
  return Method("rbnn", conv, refresh=refresh)
