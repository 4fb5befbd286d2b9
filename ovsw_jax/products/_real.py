"""Convolution of real values, for the layers that stay in full precision."""

import functools

import jax

from ovsw_jax.products import _xla
from ovsw_jax.products._geometry import ConvGeometry
from ovsw_jax.products._repeated import repeated

_PLAIN = ConvGeometry()


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def real_conv(
  x: jax.Array, kernel: jax.Array, geometry: ConvGeometry = _PLAIN
) -> jax.Array:
  """Convolves real values; zero padding, NHWC and HWIO.

  It is XLA's own convolution, and its derivatives are; only a `vmap` over
  inputs and kernels, such as seeds trained in one program, is different on a
  GPU, where grouped convolutions are slow. As the products of bits it has
  reverse-mode derivatives alone.

  Args:
    x: shape (batch, height, width, in), any float dtype.
    kernel: shape (height, width, in / groups, out), the same dtype.
    geometry: strides, padding, dilation and groups.

  Returns:
    shape (batch, height', width', out), the same dtype.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import products
    >>> x, w = jnp.ones((1, 4, 4, 2)), jnp.full((3, 3, 2, 1), 0.5)
    >>> products.real_conv(x, w)[0, :, :, 0].tolist()
    [[9.0, 9.0], [9.0, 9.0]]
  """
  return _convolve(x, kernel, geometry)


def _convolve(x, kernel, geometry) -> jax.Array:
  return _xla.convolve(x, kernel, geometry, x.dtype, x.dtype)


def _forward(x, kernel, geometry):
  # Only in training, so that exports meet nothing but a convolution.
  product = functools.partial(_convolve, geometry=geometry)
  return repeated(product)(x, kernel), (x, kernel)


def _backward(geometry, residuals, gradient):
  x, kernel = residuals

  def to_x(gradient, kernel):
    of_x = lambda x: _convolve(x, kernel, geometry)
    return jax.linear_transpose(of_x, x)(gradient)[0]

  def to_kernel(gradient, x):
    of_kernel = lambda kernel: _convolve(x, kernel, geometry)
    return jax.linear_transpose(of_kernel, kernel)(gradient)[0]

  return repeated(to_x)(gradient, kernel), repeated(to_kernel)(gradient, x)


real_conv.defvjp(_forward, _backward)
