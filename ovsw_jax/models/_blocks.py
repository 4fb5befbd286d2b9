"""Residual blocks of the published binary networks.

Every block takes `conv`, a factory for its binary convolutions, and `norm`, one
for its batch normalizations, so that the same block serves every method and
the full-precision twin.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ovsw_jax.nn import RealConv, hardtanh, torch_uniform

ModuleFactory = Callable[..., Callable[..., jax.Array]]


class Hardtanh(nn.Module):
  """`ovsw_jax.nn.hardtanh` as a module, to stand where `PReLU` may."""

  def __call__(self, x: jax.Array) -> jax.Array:
    return hardtanh(x)


def pooled_shortcut(x: jax.Array, features: int, strides: int) -> jax.Array:
  """Average pooling and zero channels: the shortcut without parameters."""
  if strides == 1 and x.shape[-1] == features:
    return x
  if strides != 2 or features != 2 * x.shape[-1]:
    raise ValueError(
      "the parameter-free shortcut halves the size and doubles the channels; "
      f"got strides={strides} and {x.shape[-1]} -> {features} channels."
    )
  pooled = nn.avg_pool(x, (2, 2), strides=(2, 2))
  extra = features // 4
  return jnp.pad(pooled, ((0, 0), (0, 0), (0, 0), (extra, extra)))


class BasicBlock(nn.Module):
  """Two convolutions and one shortcut around both; a binary 1x1 shortcut."""

  features: int
  strides: int
  conv: ModuleFactory
  norm: ModuleFactory
  activation: ModuleFactory

  @nn.compact
  def __call__(self, x: jax.Array, train: bool, progress: Any) -> jax.Array:
    shortcut = x
    y = self.conv(self.features, 3, strides=self.strides, name="conv1")(
      x, train, progress
    )
    y = self.norm(name="norm1")(y, train)
    y = self.activation(name="activation1")(y)
    y = self.conv(self.features, 3, name="conv2")(y, train, progress)
    y = self.norm(name="norm2")(y, train)
    if self.strides != 1 or x.shape[-1] != self.features:
      shortcut = self.conv(
        self.features, 1, strides=self.strides, name="shortcut_conv"
      )(x, train, progress)
      shortcut = self.norm(name="shortcut_norm")(shortcut, train)
    return self.activation(name="activation2")(y + shortcut)


class BiRealBlock(nn.Module):
  """Two convolutions, each with a shortcut of its own, and hardtanh.

  Liu et al., `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_, 2018. Where
  size or width changes, the shortcut has no parameters (`real_shortcut=False`)
  or is a full-precision 1x1 convolution with batch normalization.
  """

  features: int
  strides: int
  conv: ModuleFactory
  norm: ModuleFactory
  real_shortcut: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool, progress: Any) -> jax.Array:
    changes = self.strides != 1 or x.shape[-1] != self.features
    if self.real_shortcut and changes:
      shortcut = RealConv(
        self.features,
        1,
        strides=self.strides,
        kernel_init=torch_uniform,
        dtype=self.dtype,
        name="shortcut_conv",
      )(x)
      shortcut = self.norm(name="shortcut_norm")(shortcut, train)
    else:
      shortcut = pooled_shortcut(x, self.features, self.strides)
    y = self.conv(self.features, 3, strides=self.strides, name="conv1")(
      x, train, progress
    )
    x = hardtanh(self.norm(name="norm1")(y, train) + shortcut)
    y = self.conv(self.features, 3, name="conv2")(x, train, progress)
    return hardtanh(self.norm(name="norm2")(y, train) + x)
