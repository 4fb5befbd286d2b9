"""What quantizers are, and what they return."""

from collections.abc import Callable
from typing import NamedTuple

import jax


class Quantized(NamedTuple):
  """A quantized weight; what the forward pass uses is `bits * scale`.

  Training reads the value, deployment reads the bits and the scale.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> bits = jnp.array([[1.0, -1.0], [-1.0, -1.0]])
    >>> quantizers.Quantized(bits, jnp.array([0.5, 2.0])).value.tolist()
    [[0.5, -2.0], [-0.5, -2.0]]
  """

  bits: jax.Array  # shape of the latent weight, +1 or -1
  scale: jax.Array  # shape (out,), broadcast over the last axis

  @property
  def value(self) -> jax.Array:
    """The quantized weight, shape and dtype of the latent weight."""
    return self.bits * self.scale


WeightQuantizer = Callable[[jax.Array, jax.typing.ArrayLike], Quantized]
"""`(latent, progress) -> Quantized`, the bits in the shape of `latent`."""

ActivationQuantizer = Callable[
  [jax.Array, bool, jax.typing.ArrayLike], jax.Array
]
"""`(x, train, progress) -> bits`, +1 or -1 in the shape of `x`."""

OutputScale = Callable[[jax.Array], jax.Array]
"""`(latent) -> scale` of shape (out,), which multiplies a layer's output."""


def scheduled(build: Callable[[jax.typing.ArrayLike], Callable]) -> Callable:
  """A quantizer that is built anew from `progress`, weight or activation.

  Args:
    build: maps `progress`, a traced scalar in [0, 1], to a quantizer.

  Returns:
    A quantizer of the same kind.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import quantizers, sign
    >>> schedule = sign.annealing(0.1, 10.0)
    >>> binarize = quantizers.scheduled(
    ...   lambda progress: quantizers.sign_activations(
    ...     sign.ede(*schedule(progress)), normalize=False
    ...   )
    ... )
    >>> gradient = jax.grad(lambda x, p: binarize(x, True, p).sum())
    >>> [round(float(gradient(jnp.zeros(1), p)[0]), 3) for p in (0.0, 1.0)]
    [1.0, 10.0]
  """

  def quantize(*arguments):
    progress = arguments[-1]
    return build(progress)(*arguments)

  return quantize
