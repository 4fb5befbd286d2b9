"""The factory of sign estimators, and those without a schedule."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Estimator = Callable[..., jax.Array]
"""A function from an array to its signs (+1 or -1), same shape and dtype.

Further arguments, if it takes any, are the parameters of its derivative.
"""


def hard_sign(x: jax.Array) -> jax.Array:
  """Returns +1 where `x >= 0` and -1 elsewhere, in the dtype of `x`.

  Its own derivative is zero everywhere; train through an estimator.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import sign
    >>> sign.hard_sign(jnp.array([-2.0, -0.0, 0.0, 3.0])).tolist()
    [-1.0, 1.0, 1.0, 1.0]
  """
  one = jnp.ones((), x.dtype)
  return jnp.where(x >= 0, one, -one)


def sign_estimator(
  derivative: Callable[..., jax.Array] | None = None,
) -> Estimator:
  """Builds a sign with the given surrogate derivative.

  Args:
    derivative: maps the input `x`, and the parameters that follow it, to the
      factor by which the gradient is multiplied, an array that broadcasts to
      `x`. `None` is the identity straight-through estimator, which keeps no
      residual at all.

  Returns:
    A pure function of a floating-point array and of the derivative's
    parameters, usable under `jit`, `vmap`, `scan` and reverse-mode
    differentiation. It returns +1 or -1 in the shape and dtype of its input,
    and raises `TypeError` for other dtypes. The parameters may be traced, and
    their gradient is zero.

  Examples:
    A triangular window, of a width that is given with the input:

    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import sign
    >>> triangle = sign.sign_estimator(
    ...   lambda x, width: jnp.maximum(0, 1 - abs(x) / width)
    ... )
    >>> x = jnp.array([0.5, -3.0])
    >>> jax.grad(lambda x: triangle(x, 2.0).sum())(x).tolist()
    [0.75, 0.0]
  """

  @jax.custom_vjp
  def estimator(x, *theta):
    del theta
    return hard_sign(x)

  def forward(x, *theta):
    return hard_sign(x), (None if derivative is None else x, theta)

  def backward(residuals, gradient):
    x, theta = residuals
    if derivative is not None:
      factor = derivative(x, *theta)
      gradient = (gradient * factor).astype(gradient.dtype)
    return gradient, *(jnp.zeros_like(value) for value in theta)

  estimator.defvjp(forward, backward)

  def checked(x: jax.Array, *theta: jax.typing.ArrayLike) -> jax.Array:
    """+1 where `x >= 0`, else -1; see `sign_estimator`."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise TypeError(
        f"a sign estimator takes a floating-point array, got dtype {x.dtype}; "
        "cast it first, for example with x.astype(jnp.float32)."
      )
    # Whole numbers too become floats: those alone have a gradient to be zero.
    return estimator(
      x, *(jnp.asarray(v, jnp.result_type(v, float)) for v in theta)
    )

  return checked


ste = sign_estimator()
"""Identity straight-through estimator: the gradient passes unchanged.

OvSW's choice for weights. Bengio et al., `Estimating or Propagating Gradients
Through Stochastic Neurons <https://arxiv.org/abs/1308.3432>`_, 2013.

Examples:
  >>> import jax, jax.numpy as jnp
  >>> from ovsw_jax import sign
  >>> x = jnp.array([-1.0, 0.25])
  >>> sign.ste(x).tolist()
  [-1.0, 1.0]
  >>> jax.grad(lambda x: sign.ste(x).sum())(x).tolist()
  [1.0, 1.0]
"""

clipped_ste = sign_estimator(lambda x: (jnp.abs(x) < 1).astype(x.dtype))
"""Straight-through inside ``|x| < 1``, zero outside and at exactly 1.

Hubara et al., `Binarized Neural Networks
<https://arxiv.org/abs/1602.02830>`_, 2016; the OvSW code's ``hardtanh``.

Examples:
  >>> import jax, jax.numpy as jnp
  >>> from ovsw_jax import sign
  >>> x = jnp.array([-1.0, 0.25])
  >>> sign.clipped_ste(x).tolist()
  [-1.0, 1.0]
  >>> jax.grad(lambda x: sign.clipped_ste(x).sum())(x).tolist()
  [0.0, 1.0]
"""

clipped_ste_closed = sign_estimator(lambda x: (jnp.abs(x) <= 1).astype(x.dtype))
"""Straight-through inside ``|x| <= 1``, zero outside.

The weights of `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_ and of
`ReActNet <https://arxiv.org/abs/2003.03488>`_.

Examples:
  >>> import jax, jax.numpy as jnp
  >>> from ovsw_jax import sign
  >>> x = jnp.array([-1.0, 0.25])
  >>> sign.clipped_ste_closed(x).tolist()
  [-1.0, 1.0]
  >>> jax.grad(lambda x: sign.clipped_ste_closed(x).sum())(x).tolist()
  [1.0, 1.0]
"""

approx = sign_estimator(lambda x: jnp.maximum(0, 2 - 2 * jnp.abs(x)))
"""ApproxSign: the derivative of a piecewise parabola, ``max(0, 2 - 2|x|)``.

OvSW's choice for activations. Liu et al., `Bi-Real Net
<https://arxiv.org/abs/1808.00278>`_, 2018, equation 7.

Examples:
  >>> import jax, jax.numpy as jnp
  >>> from ovsw_jax import sign
  >>> x = jnp.array([-1.0, 0.25])
  >>> sign.approx(x).tolist()
  [-1.0, 1.0]
  >>> jax.grad(lambda x: sign.approx(x).sum())(x).tolist()
  [0.0, 1.5]
"""


@functools.cache
def magnitude_gated(output_axis: int = -1) -> Estimator:
  """Straight-through for the smaller half of each filter's weights.

  The gradient passes where ``|w|`` is strictly below the mean ``|w|`` of its
  output channel: the OvSW code's option ``hardtanhv2``.

  Args:
    output_axis: the axis of output channels; the last one for HWIO
      convolution kernels and (in, out) dense kernels.

  Returns:
    An estimator, see `sign_estimator`.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import sign
    >>> gated = sign.magnitude_gated()
    >>> w = jnp.array([[0.1], [-0.5]])  # two inputs, one output channel
    >>> jax.grad(lambda w: gated(w).sum())(w).tolist()
    [[1.0], [0.0]]
  """

  def derivative(w):
    axes = tuple(i for i in range(w.ndim) if i != output_axis % w.ndim)
    magnitude = jnp.abs(w)
    gate = magnitude < jnp.mean(magnitude, axis=axes, keepdims=True)
    return gate.astype(w.dtype)

  return sign_estimator(derivative)
