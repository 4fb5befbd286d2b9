"""Estimators whose derivative sharpens in the course of training."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ovsw_jax.sign._estimators import Estimator, sign_estimator

Scalar = jax.typing.ArrayLike


def _ede(x, k, t):
  return k * t * (1 - jnp.square(jnp.tanh(t * x)))


def _rbnn(x, k, t):
  return jnp.maximum(0, k * (math.sqrt(2) * t - t * t * jnp.abs(x)))


def _swish(x, beta):
  scaled = beta * x
  numerator = beta * (2 - scaled * jnp.tanh(scaled / 2))
  return numerator / (1 + jnp.cosh(scaled))


_estimators = {f: sign_estimator(f) for f in (_ede, _rbnn, _swish)}


def ede(k: Scalar, t: Scalar) -> Estimator:
  """IR-Net's error decay estimator: ``k t (1 - tanh(t x)^2)``.

  With small `t` and ``k = 1 / t`` it is nearly the identity, with large `t` it
  is close to the derivative of the sign; see `annealing`. The area under it is
  ``2 k``.

  Args:
    k: height, a scalar, traced or not.
    t: sharpness, a scalar, traced or not.

  Returns:
    An estimator, see `sign_estimator`.

  References:
    Qin et al., `Forward and Backward Information Retention for Accurate Binary
    Neural Networks <https://arxiv.org/abs/1909.10788>`_, CVPR 2020

  Examples:
    >>> import jax
    >>> from ovsw_jax import sign
    >>> float(jax.grad(sign.ede(k=10.0, t=0.1))(0.0))
    1.0
  """
  return lambda x: _estimators[_ede](x, k, t)


def rbnn(k: Scalar, t: Scalar) -> Estimator:
  """RBNN's estimator: ``max(0, k (sqrt(2) t - t^2 |x|))``.

  A triangle that reaches to ``sqrt(2) / t``; the area under it is ``2 k``, and
  ``k = 1, t = sqrt(2)`` is `approx`.

  Args:
    k: height, a scalar, traced or not.
    t: sharpness, a scalar, traced or not.

  Returns:
    An estimator, see `sign_estimator`.

  References:
    Lin et al., `Rotated Binary Neural Network
    <https://arxiv.org/abs/2009.13055>`_, NeurIPS 2020

  Examples:
    >>> import jax
    >>> from ovsw_jax import sign
    >>> print(f"{jax.grad(sign.rbnn(k=1.0, t=2**0.5))(0.25):.3f}")
    1.500
  """
  return lambda x: _estimators[_rbnn](x, k, t)


def swish(beta: Scalar = 5.0) -> Estimator:
  """The derivative of SignSwish, of BNN+.

  ``beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))``, which is negative
  for large ``|x|``; the area under it is 2.

  Args:
    beta: sharpness, a scalar, traced or not.

  Returns:
    An estimator, see `sign_estimator`.

  References:
    Darabi et al., `BNN+: Improved Binary Network Training
    <https://arxiv.org/abs/1812.11800>`_, 2018

  Examples:
    >>> import jax
    >>> from ovsw_jax import sign
    >>> float(jax.grad(sign.swish(5.0))(0.0))
    5.0
  """
  return lambda x: _estimators[_swish](x, beta)


def annealing(
  t_min: float, t_max: float = 10.0
) -> Callable[[Scalar], tuple[jax.Array, jax.Array]]:
  """The schedule of `k` and `t` of IR-Net, SD-BNN and RBNN.

  ``t`` grows from `t_min` to `t_max` geometrically, and ``k = max(1/t, 1)``, so
  that the factor at 0 is 1 until `t` reaches 1 and grows from there on. The
  authors move it once an epoch, to ``progress = epoch / epochs``.

  Args:
    t_min: sharpness at ``progress = 0``, positive.
    t_max: sharpness at ``progress = 1``, at least `t_min`.

  Returns:
    A function from `progress`, a scalar in [0, 1], traced or not, to `(k, t)`.

  Raises:
    ValueError: unless ``0 < t_min <= t_max``.

  Examples:
    >>> from ovsw_jax import sign
    >>> schedule = sign.annealing(1e-3, 10.0)
    >>> [round(float(v), 3) for v in schedule(0.25)]
    [100.0, 0.01]
  """
  if not 0 < t_min <= t_max < math.inf:
    raise ValueError(
      f"t_min={t_min} and t_max={t_max} must satisfy 0 < t_min <= t_max: "
      "they are the sharpness of the estimator at the start and at the end."
    )
  low, high = math.log10(t_min), math.log10(t_max)

  def schedule(progress):
    t = 10.0 ** (low + (high - low) * jnp.asarray(progress, float))
    return jnp.maximum(1 / t, 1), t

  return schedule
