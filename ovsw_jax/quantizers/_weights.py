"""Weight quantizers that take the sign of the latent weight as it is."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ovsw_jax import sign
from ovsw_jax.quantizers._quantized import Quantized, WeightQuantizer
from ovsw_jax.quantizers._scales import mean_magnitude


def sign_weights(estimator: sign.Estimator = sign.ste) -> WeightQuantizer:
  """Weight quantizer: the sign of the latent weight, scale one.

  Args:
    estimator: the sign estimator its gradient uses.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> quantize = quantizers.sign_weights()
    >>> quantize(jnp.array([[0.3], [-0.1]]), 0.0).value.tolist()
    [[1.0], [-1.0]]
  """

  def quantize(latent, progress=0.0):
    del progress
    return Quantized(
      estimator(latent), jnp.ones(latent.shape[-1:], latent.dtype)
    )

  return quantize


def scaled_sign(
  derivative: Callable[[jax.Array], jax.Array] | None = None,
) -> WeightQuantizer:
  """Weight quantizer: sign times mean magnitude, gradient given for the value.

  Layers multiply the scale into their output, so that the gradient of the bits
  carries it: ``dL/dbits = scale * dL/dvalue``. The code of XNOR-Net, Bi-Real
  Net and ReActNet defines the latent gradient as a factor times ``dL/dvalue``;
  here the scale is divided out again. An output channel of zeros has scale 0
  and gets no gradient.

  Args:
    derivative: maps the latent weight to the factor on the value's gradient;
      None is 1.

  Returns:
    A weight quantizer whose scale is `mean_magnitude` of the latent weight.

  Examples:
    Bi-Real Net's weights:

    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> quantize = quantizers.scaled_sign(lambda w: jnp.abs(w) <= 1)
    >>> latent = jnp.array([[1.0], [-3.0]])
    >>> quantize(latent, 0.0).value.tolist()
    [[2.0], [-2.0]]
    >>> jax.grad(lambda w: quantize(w, 0.0).value.sum())(latent).tolist()
    [[1.0], [0.0]]
  """

  def bits_derivative(latent):
    scale = mean_magnitude(latent)
    inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
    return inverse if derivative is None else inverse * derivative(latent)

  estimator = sign.sign_estimator(bits_derivative)

  def quantize(latent, progress=0.0):
    del progress
    return Quantized(estimator(latent), mean_magnitude(latent))

  return quantize


_scaled_sign = scaled_sign()


def scaled_sign_weights(
  latent: jax.Array, progress: jax.typing.ArrayLike = 0.0
) -> Quantized:
  """Weight quantizer: sign times mean magnitude, gradient one to the *value*.

  The OvSW code's option ``ste_v2``: `scaled_sign` with the factor 1.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> latent = jnp.array([[1.0], [-3.0]])
    >>> quantizers.scaled_sign_weights(latent).value.tolist()
    [[2.0], [-2.0]]
  """
  return _scaled_sign(latent, progress)


def real_weights(
  latent: jax.Array, progress: jax.typing.ArrayLike = 0.0
) -> Quantized:
  """No quantizer: the latent weight as it is, in the place of the bits.

  For the first stage of two-step training, in which activations are binary and
  weights are not. It is the one quantizer whose "bits" are not +1 and -1.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> quantizers.real_weights(jnp.array([[0.25], [-3.0]])).value.tolist()
    [[0.25], [-3.0]]
  """
  del progress
  return Quantized(latent, jnp.ones(latent.shape[-1:], latent.dtype))
