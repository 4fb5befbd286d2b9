"""SD-BNN's quantizers: learned shifts of weights and activations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ovsw_jax import quantizers, sign
from ovsw_jax.nn import _initializers

EstimatorSchedule = Callable[[jax.typing.ArrayLike], sign.Estimator]


def _approx(progress):
  del progress
  return sign.approx


def _clipped(progress):
  del progress
  return sign.clipped_ste_closed


class SelfDistributionWeights(nn.Module):
  """Weight quantizer: the sign after a learned shift towards the filter's mean.

  ``sign(w + sigmoid(alpha) * coefficient * mean)`` with the mean of each output
  channel, which is a constant to the gradient. Scale one. Parameter: `alpha` of
  shape (out,), zeros at first.

  Attributes:
    coefficient: of the mean; 0.01 in the authors' code.
    estimator: maps `progress` to the sign estimator the gradient uses; the
      default is the authors' for ImageNet, for CIFAR it is `sign.ede`.

  References:
    Xue et al., `Self-Distribution Binary Neural Networks
    <https://arxiv.org/abs/2103.02394>`_, 2021

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> latent = jnp.array([[-0.001], [1.0]])  # shifted by 0.0025
    >>> found, _ = nn.SelfDistributionWeights().init_with_output(
    ...   jax.random.key(0), latent
    ... )
    >>> found.bits.ravel().tolist()
    [1.0, 1.0]
  """

  coefficient: float = 0.01
  estimator: EstimatorSchedule = _clipped

  @nn.compact
  def __call__(
    self, latent: jax.Array, progress: jax.typing.ArrayLike = 0.0
  ) -> quantizers.Quantized:
    """Bits in the shape of `latent`, and a scale of ones."""
    outputs = latent.shape[-1:]
    alpha = self.param("alpha", nn.initializers.zeros, outputs, latent.dtype)
    mean = jnp.mean(latent, axis=tuple(range(latent.ndim - 1)))
    shift = self.coefficient * jax.lax.stop_gradient(mean)
    bits = self.estimator(progress)(latent + nn.sigmoid(alpha) * shift)
    return quantizers.Quantized(bits, jnp.ones(outputs, latent.dtype))


class SelfDistributionActivations(nn.Module):
  """Activation quantizer: the sign after a shift that depends on the example.

  ``sign(x + beta)`` with ``beta = sigmoid(relu(p squeeze) excite)`` per example
  and channel, where `p` are the means over the spatial axes. Parameters:
  `squeeze` of shape (in, in // reduction), `excite` the other way round. The
  shift lies in (0, 1) and is about 0.5 at first; it needs the real-valued
  input, in inference too.

  Attributes:
    reduction: 16 in the authors' CIFAR code, 8 in that for ImageNet.
    estimator: maps `progress` to the sign estimator the gradient uses; the
      default is the authors' for ImageNet, for CIFAR it is `sign.ede`.
    kernel_init: initializer of both matrices.

  Raises:
    ValueError: if there are fewer channels than `reduction`.

  References:
    Xue et al., `Self-Distribution Binary Neural Networks
    <https://arxiv.org/abs/2103.02394>`_, 2021

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> x = jnp.full((1, 2, 2, 16), -0.4)  # shifted by about 0.5
    >>> bits, variables = nn.SelfDistributionActivations().init_with_output(
    ...   jax.random.key(0), x
    ... )
    >>> variables["params"]["squeeze"].shape, bits.shape
    ((16, 1), (1, 2, 2, 16))
  """

  reduction: int = 16
  estimator: EstimatorSchedule = _approx
  kernel_init: Callable[..., jax.Array] = _initializers.he_normal

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    train: bool = False,
    progress: jax.typing.ArrayLike = 0.0,
  ) -> jax.Array:
    """+1 or -1 in the shape and dtype of `x`, (batch, ..., in)."""
    del train
    channels = x.shape[-1]
    hidden = channels // self.reduction
    if not hidden:
      raise ValueError(
        f"SelfDistributionActivations: reduction={self.reduction} leaves none "
        f"of the {channels} input channels; pass a smaller reduction."
      )
    squeeze = self.param("squeeze", self.kernel_init, (channels, hidden))
    excite = self.param("excite", self.kernel_init, (hidden, channels))
    space = tuple(range(1, x.ndim - 1))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    pooled = jnp.mean(wide, axis=space, keepdims=True)
    beta = nn.sigmoid(nn.relu(pooled @ squeeze) @ excite)
    return self.estimator(progress)(x + beta.astype(x.dtype))
