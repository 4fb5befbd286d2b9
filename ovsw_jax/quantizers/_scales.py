"""Statistics of each output channel's latent weights: scales and centring."""

import jax
import jax.numpy as jnp

from ovsw_jax import _sums

_VARIANCE_EPSILON = 1e-5  # of the OvSW and ReCU code, under the root


def per_output(latent: jax.Array) -> tuple[int, ...]:
  """The axes of one output channel: all but the last."""
  return tuple(range(latent.ndim - 1))


def mean_magnitude(latent: jax.Array) -> jax.Array:
  """Mean `|w|` of each output channel, shape (out,), without gradient.

  Rastegari et al., `XNOR-Net <https://arxiv.org/abs/1603.05279>`_, 2016,
  equation 6.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> quantizers.mean_magnitude(jnp.array([[1.0, 0.0], [-3.0, 2.0]])).tolist()
    [2.0, 1.0]
  """
  return _mean(jnp.abs(jax.lax.stop_gradient(latent)))


def _mean(x: jax.Array) -> jax.Array:
  """The mean of each output channel, shape (out,)."""
  return _sums.sums(x, per_output(x)) / (x.size // x.shape[-1])


def _check_variance(latent: jax.Array) -> None:
  if latent.size == latent.shape[-1]:
    raise ValueError(
      f"a latent weight of shape {latent.shape} has one weight per output "
      "channel, so its variance is not defined; use a learned output scale or "
      "none, and a weight quantizer that does not standardize."
    )


def standardized(
  latent: jax.Array, epsilon: float = _VARIANCE_EPSILON
) -> jax.Array:
  """Latent weights of mean 0 and variance 1 in each output channel.

  ``(w - mean) / sqrt(var + epsilon)`` with the unbiased variance; the gradient
  flows through mean and variance.

  Args:
    latent: shape (..., out).
    epsilon: added under the root. With 0, as in the code of IR-Net and RBNN,
      an output channel of equal weights becomes NaN.

  Raises:
    ValueError: for filters of a single weight, which have no variance.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> latent = jnp.array([[1.0], [2.0], [3.0]])
    >>> quantizers.standardized(latent, epsilon=0.0).ravel().tolist()
    [-1.0, 0.0, 1.0]
  """
  _check_variance(latent)
  axes = per_output(latent)
  centred = latent - jnp.mean(latent, axis=axes, keepdims=True)
  return centred / jnp.sqrt(jnp.var(centred, axis=axes, ddof=1) + epsilon)


def standardized_magnitude(latent: jax.Array) -> jax.Array:
  """Mean `|z|` of each output channel's standardized weights, shape (out,).

  ``z = (w - mean) / sqrt(var + 1e-5)`` over each output channel, with the
  unbiased variance; about 0.798 for Gaussian weights. No gradient flows: it
  is OvSW's computed output scale, and it makes loss and latent gradient
  independent of the latent weights' magnitude.

  Raises:
    ValueError: for filters of a single weight, which have no variance.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import quantizers
    >>> w = jnp.array([[1.0], [2.0], [3.0]])
    >>> float(quantizers.standardized_magnitude(w)[0])  # doctest: +ELLIPSIS
    0.66666...
  """
  _check_variance(latent)
  latent = jax.lax.stop_gradient(latent)
  centred = latent - _mean(latent)
  # `jnp.var` would centre it again.
  count = latent.size // latent.shape[-1]
  variance = _sums.sums(jnp.square(centred), per_output(latent)) / (count - 1)
  # mean|w0 / sd| = mean|w0| / sd: the standardized tensor is never built.
  return _mean(jnp.abs(centred)) / jnp.sqrt(variance + _VARIANCE_EPSILON)
