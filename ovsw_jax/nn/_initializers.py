"""Initializers of the published networks.

Their numbers are drawn as one vector, and are the same as of an array's shape.
XLA's CPU backend unrolls the loops over an array's small axes, in which each
number takes the hundred instructions of a generator: it compiles a draw of
shape (3, 3, 16, 16) in 1.3 to 3.8 s, and one of its 2304 numbers in 0.2.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn


def as_vector(
  initializer: Callable[..., jax.Array],
) -> Callable[..., jax.Array]:
  """An initializer that does not look at the shape, drawn as a vector."""

  def init(key, shape, dtype=jnp.float32):
    return initializer(key, (math.prod(shape),), dtype).reshape(shape)

  return init


def variance_scaling(
  scale: float,
  mode: Literal["fan_in", "fan_out"],
  distribution: Literal["normal", "uniform"],
) -> Callable[..., jax.Array]:
  """`nn.initializers.variance_scaling`, drawn as a vector."""

  def init(key, shape, dtype=jnp.float32):
    """Weights of a shape (..., in, out), from a key."""
    if len(shape) < 2:
      raise ValueError(
        f"an initializer by fans got shape {tuple(shape)}; it needs the axes of"
        " inputs and outputs, (..., in, out)."
      )
    *window, inputs, outputs = shape
    fan = math.prod(window) * (inputs if mode == "fan_in" else outputs)
    variance = jnp.array(scale / fan if fan else 0, dtype)
    if distribution == "normal":
      draw = nn.initializers.normal(jnp.sqrt(variance))
    else:
      draw = lambda key, shape, dtype: (
        jax.random.uniform(key, shape, dtype, -1) * jnp.sqrt(3 * variance)
      )
    return as_vector(draw)(key, shape, dtype)

  return init


he_normal = variance_scaling(2.0, "fan_in", "normal")
"""Normal with variance 2 / fan_in, not truncated: the latent weights' default.

Examples:
  >>> import jax
  >>> from ovsw_jax import nn
  >>> he_normal = nn.he_normal(jax.random.key(0), (3, 3, 4, 8))
  >>> he_normal.shape, bool(abs(he_normal.std() - (2 / 36) ** 0.5) < 0.05)
  ((3, 3, 4, 8), True)
"""

torch_uniform = variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within 1 / sqrt(fan_in): what the reference's real layers start from.

Examples:
  >>> import jax
  >>> from ovsw_jax import nn
  >>> torch_uniform = nn.torch_uniform(jax.random.key(0), (3, 3, 4, 8))
  >>> torch_uniform.shape, bool(abs(torch_uniform).max() <= 1 / 6)
  ((3, 3, 4, 8), True)
"""
