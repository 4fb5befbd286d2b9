"""Initializers of the published networks."""

from flax import linen as nn

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""Normal with variance 2 / fan_in, not truncated: the latent weights' default.
"""

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within 1 / sqrt(fan_in): what the reference's real layers start from.
"""
