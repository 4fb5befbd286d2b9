"""VGG-Small for CIFAR: six convolutions, five of them binary."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ovsw_jax import nn as layers
from ovsw_jax.models import _options
from ovsw_jax.nn import _initializers

_WIDTHS = (128, 128, 256, 256, 512, 512)
_POOLED = (1, 3, 5)  # convolutions followed by 2x2 max pooling


class VGGSmall(nn.Module):
  """Convolution, pooling, normalization, activation, six times; classifier.

  Input: normalized images (batch, height, width, channels), float, whose sides
  are multiples of 8. Output: float32 logits (batch, num_classes). Pooling comes
  before normalization, as in the reference.

  Attributes:
    num_classes: number of logits.
    conv: factory of the binary convolutions, as `ResNet`'s; takes
      `kernel_init=` as well.
    activation: all activations but the last; as `ResNet`'s.
    last_activation: comes before the classifier; as `activation`.
    norm: factory of the normalizations, as `ResNet`'s.
    norm_axis_name: mapped axis of the batch, under `pmap` or `shard_map`.
    dtype: dtype of the convolutions' operands.

  Raises:
    ValueError: for an activation that does not exist, and for images of another
      size.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> net = ovsw.models.VGGSmall(num_classes=10)
    >>> image = jnp.ones((1, 32, 32, 3))
    >>> logits, _ = jax.eval_shape(
    ...   net.init_with_output, jax.random.key(0), image
    ... )
    >>> logits.shape
    (1, 10)
  """

  num_classes: int
  conv: _options.ModuleFactory = layers.BinaryConv
  activation: _options.Named = "hardtanh"
  last_activation: _options.Named = "prelu"
  norm: _options.ModuleFactory = layers.BatchNorm
  norm_axis_name: str | None = None
  dtype: Any = jnp.float32

  def __post_init__(self):
    for argument in ("activation", "last_activation"):
      _options.named(argument, getattr(self, argument), _options.ACTIVATIONS)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    train: bool = False,
    progress: jax.typing.ArrayLike = 0.0,
  ) -> jax.Array:
    if any(side % 8 for side in images.shape[1:3]):
      raise ValueError(
        "vgg_small halves the image three times, so its sides must be "
        f"multiples of 8; got images of shape {images.shape}."
      )
    norm = functools.partial(self.norm, axis_name=self.norm_axis_name)
    x = images
    for index, width in enumerate(_WIDTHS):
      conv = self.conv if index else layers.RealConv
      x = conv(
        width,
        3,
        kernel_init=_options.fan_out_normal,
        dtype=self.dtype,
        name=f"conv{index}",
      )(x, train, progress)
      if index in _POOLED:
        x = layers.max_pool(x, (2, 2), (2, 2))
      x = norm(name=f"norm{index}")(x, train)
      last = index == len(_WIDTHS) - 1
      argument = "last_activation" if last else "activation"
      activation = _options.named(
        argument, getattr(self, argument), _options.ACTIVATIONS
      )
      x = activation(name=f"activation{index}")(x)
    x = x.reshape(x.shape[0], -1)
    return layers.Dense(
      self.num_classes,
      kernel_init=_initializers.as_vector(nn.initializers.normal(0.01)),
      bias_init=nn.initializers.zeros,
      name="head",
    )(x)


def vgg_small(num_classes: int = 10, **options: Any) -> VGGSmall:
  """VGG-Small, 4.66 M parameters of which 4.57 M are binary.

  As in OvSW, whose last activation is a PReLU; IR-Net's and SD-BNN's have
  `last_activation="hardtanh"`.

  Args:
    num_classes: number of logits.
    **options: attributes of `VGGSmall` that differ from the published network;
      None leaves one as published.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.vgg_small(100, activation="rprelu").num_classes
    100
  """
  return VGGSmall(**_options.changed({"num_classes": num_classes}, options))
