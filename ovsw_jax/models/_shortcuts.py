"""Shortcuts around binary convolutions, where size or width changes.

A shortcut is a function `(x, features, strides, layers, train, progress, name)`
called in the scope of its block, so its layers are the block's: `<name>_conv`
and `<name>_norm`. Where neither size nor width changes it is not called.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ovsw_jax.models._options import ModuleFactory


class Layers(NamedTuple):
  """What a network's blocks and shortcuts make their layers with."""

  conv: ModuleFactory  # binary convolutions
  real_conv: ModuleFactory
  norm: ModuleFactory
  activation: ModuleFactory


def _pool(x: jax.Array) -> jax.Array:
  if x.shape[1] % 2 or x.shape[2] % 2:
    raise ValueError(
      "a pooled shortcut halves its input, whose sides must be even; got shape "
      f"{x.shape}. Use images of another size, or shortcut='strided' or 'real'."
    )
  return nn.avg_pool(x, (2, 2), strides=(2, 2))


def _zero_channels(x, features, strides, halve):
  """Halves the size and puts half of the zero channels on either side."""
  if strides != 2 or features != 2 * x.shape[-1]:
    raise ValueError(
      "the parameter-free shortcuts halve the size and double the channels; "
      f"got strides={strides} and {x.shape[-1]} -> {features} channels."
    )
  extra = features // 4
  return jnp.pad(halve(x), ((0, 0), (0, 0), (0, 0), (extra, extra)))


def pooled(x, features, strides, *_) -> jax.Array:
  """Average pooling and zero channels, as in ReCU and OvSW."""
  return _zero_channels(x, features, strides, _pool)


def strided(x, features, strides, *_) -> jax.Array:
  """Every second pixel and zero channels: option A of CIFAR ResNets."""
  return _zero_channels(x, features, strides, lambda x: x[:, ::2, ::2])


def repeated(x, features, strides, *_) -> jax.Array:
  """Average pooling, and the channels repeated to the new width.

  With a 1x1 convolution to twice the channels, this is ReActNet-A's pair of
  1x1 convolutions side by side, each with a shortcut from the same input.
  """
  times, rest = divmod(features, x.shape[-1])
  if strides not in (1, 2) or rest:
    raise ValueError(
      "the repeating shortcut keeps or halves the size and multiplies the "
      f"channels; got strides={strides} and {x.shape[-1]} -> {features} "
      "channels."
    )
  return jnp.tile(x if strides == 1 else _pool(x), (1, 1, 1, times))


def real(x, features, strides, layers, train, _, name) -> jax.Array:
  """Full-precision strided 1x1 convolution, then batch normalization."""
  y = layers.real_conv(features, 1, strides=strides, name=f"{name}_conv")(x)
  return layers.norm(name=f"{name}_norm")(y, train)


def pooled_real(x, features, strides, layers, train, progress, name):
  """Average pooling, then `real` without stride: Bi-Real Net, ReActNet."""
  x = x if strides == 1 else _pool(x)
  return real(x, features, 1, layers, train, progress, name)


def binary(x, features, strides, layers, train, progress, name) -> jax.Array:
  """Binary strided 1x1 convolution, then batch normalization."""
  y = layers.conv(features, 1, strides=strides, name=f"{name}_conv")(
    x, train, progress
  )
  return layers.norm(name=f"{name}_norm")(y, train)


SHORTCUTS: dict[str, Callable[..., Any]] = {
  "binary": binary,
  "pooled": pooled,
  "pooled_real": pooled_real,
  "real": real,
  "repeated": repeated,
  "strided": strided,
}
