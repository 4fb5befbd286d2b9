"""ReActNet's activation quantizer: a sign with a learned threshold."""

import jax
from flax import linen as nn

from ovsw_jax import sign


class RSign(nn.Module):
  """Activation quantizer: the sign of `x + shift`, one shift per channel.

  Goes as a class into the slot `activation_quantizer` of the binary layers.
  Parameter: `shift` of shape (in,), zeros at first.

  Attributes:
    estimator: the sign estimator its gradient uses.

  References:
    Liu et al., `ReActNet <https://arxiv.org/abs/2003.03488>`_, ECCV 2020

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> layer = ovsw.nn.BinaryDense(3, activation_quantizer=ovsw.nn.RSign)
    >>> params = layer.init(jax.random.key(0), jnp.ones((2, 5)))["params"]
    >>> params["activation_quantizer"]["shift"].shape
    (5,)
  """

  estimator: sign.Estimator = sign.approx

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    train: bool = False,
    progress: jax.typing.ArrayLike = 0.0,
  ) -> jax.Array:
    """+1 or -1 in the shape and dtype of `x`."""
    del train, progress
    shift = self.param("shift", nn.initializers.zeros, x.shape[-1:])
    return self.estimator(x + shift.astype(x.dtype))
