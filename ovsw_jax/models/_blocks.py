"""The residual block of the published binary networks, in all its styles.

A block is a sequence of *units*: some convolutions, each with batch
normalization, and one shortcut around them. How many convolutions a shortcut
spans is what tells an ordinary residual block from Bi-Real Net's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from ovsw_jax.models._shortcuts import Layers


class Style(NamedTuple):
  """The form of a block."""

  units: tuple[tuple[int, ...], ...]  # kernel sizes of each unit
  widens: int = 0  # unit that changes the width; the first one strides


BLOCKS = {
  "basic": Style(((3, 3),)),  # one shortcut around two convolutions
  "bireal": Style(((3,), (3,))),  # two convolutions, a shortcut around each
  "mobile": Style(((3,), (1,)), widens=1),  # ReActNet-A's
  "single": Style(((3,),)),  # half of a bireal block, as Bi-Real Net counts
}


class Block(nn.Module):
  """Units of convolutions, normalizations and a shortcut, then activation.

  Layers are numbered through the block: `conv1`, `norm1`, `activation1`, ...
  The activation follows every normalization, after the shortcut is added where
  one ends.
  """

  features: int
  strides: int
  style: Style
  shortcut: Callable[..., jax.Array]
  layers: Layers

  @nn.compact
  def __call__(self, x: jax.Array, train: bool, progress: Any) -> jax.Array:
    layers, count = self.layers, 0
    for unit, kernel_sizes in enumerate(self.style.units):
      strides = self.strides if unit == 0 else 1
      features = x.shape[-1] if unit < self.style.widens else self.features
      y = x
      for place, kernel_size in enumerate(kernel_sizes):
        if place > 0:
          y = layers.activation(name=f"activation{count}")(y)
        count += 1
        y = layers.conv(
          features,
          kernel_size,
          strides=strides if place == 0 else 1,
          name=f"conv{count}",
        )(y, train, progress)
        y = layers.norm(name=f"norm{count}")(y, train)
      if strides != 1 or x.shape[-1] != features:
        name = "shortcut" if unit == 0 else f"shortcut{unit + 1}"
        x = self.shortcut(x, features, strides, layers, train, progress, name)
      x = layers.activation(name=f"activation{count}")(y + x)
    return x
