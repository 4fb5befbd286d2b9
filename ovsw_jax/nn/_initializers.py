"""Initializers of the published networks."""

from flax import linen as nn

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""Normal with variance 2 / fan_in, not truncated: the latent weights' default.

Examples:
  >>> import jax
  >>> from ovsw_jax import nn
  >>> he_normal = nn.he_normal(jax.random.key(0), (3, 3, 4, 8))
  >>> he_normal.shape, bool(abs(he_normal.std() - (2 / 36) ** 0.5) < 0.05)
  ((3, 3, 4, 8), True)
"""

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within 1 / sqrt(fan_in): what the reference's real layers start from.

Examples:
  >>> import jax
  >>> from ovsw_jax import nn
  >>> torch_uniform = nn.torch_uniform(jax.random.key(0), (3, 3, 4, 8))
  >>> torch_uniform.shape, bool(abs(torch_uniform).max() <= 1 / 6)
  ((3, 3, 4, 8), True)
"""
