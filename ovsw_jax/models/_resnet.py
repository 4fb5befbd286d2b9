"""The reference's ResNets, for CIFAR and ImageNet.

The CIFAR ResNet-18 and -34 have ordinary basic blocks with *binary* 1x1
shortcuts; ResNet-20 and the ImageNet networks have a shortcut around every
convolution. Stem and classifier are full precision in all of them, and batch
normalization follows the global average pooling.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ovsw_jax import nn as layers
from ovsw_jax.models import _blocks


def _imagenet_pool(x: jax.Array) -> jax.Array:
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class ResNet(nn.Module):
  """A residual network: stem, stages of blocks, pooling, classifier.

  Input: normalized images (batch, height, width, channels), float. Output:
  float32 logits (batch, num_classes). Variables: `params`, `batch_stats`.

  Attributes:
    stage_sizes: number of blocks in each stage; stages after the first halve
      the size.
    widths: channels of each stage; the first is the stem's too.
    num_classes: number of logits.
    block: factory `(features, strides, conv=, norm=, name=)` of a block.
    conv: factory of the binary convolutions.
    stem_size: kernel size of the stem, whose stride is 1 for 3 and 2 for 7.
    stem_activation: follows the stem's normalization.
    stem_pool: follows that.
    norm_scale_init: initializer of the scale of all batch normalizations but
      the last.
    norm_axis_name: mapped axis of the batch, under `pmap` or `shard_map`.
    dtype: dtype of the convolutions' operands.
  """

  stage_sizes: Sequence[int]
  widths: Sequence[int]
  num_classes: int
  block: Callable[..., Any]
  conv: Callable[..., Any] = layers.BinaryConv
  stem_size: int = 3
  stem_activation: Callable[[jax.Array], jax.Array] | None = None
  stem_pool: Callable[[jax.Array], jax.Array] | None = None
  norm_scale_init: Callable[..., jax.Array] = nn.initializers.ones
  norm_axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    train: bool = False,
    progress: jax.typing.ArrayLike = 0.0,
  ) -> jax.Array:
    norm = functools.partial(
      layers.BatchNorm,
      scale_init=self.norm_scale_init,
      axis_name=self.norm_axis_name,
    )
    conv = functools.partial(self.conv, dtype=self.dtype)
    x = layers.RealConv(
      self.widths[0],
      self.stem_size,
      strides=1 if self.stem_size == 3 else 2,
      kernel_init=layers.torch_uniform,
      dtype=self.dtype,
      name="stem_conv",
    )(images)
    x = norm(name="stem_norm")(x, train)
    if self.stem_activation is not None:
      x = self.stem_activation(x)
    if self.stem_pool is not None:
      x = self.stem_pool(x)
    for stage, (size, width) in enumerate(
      zip(self.stage_sizes, self.widths, strict=True), start=1
    ):
      for index in range(size):
        x = self.block(
          width,
          2 if stage > 1 and index == 0 else 1,
          conv=conv,
          norm=norm,
          name=f"layer{stage}_block{index}",
        )(x, train, progress)
    x = jnp.mean(x, axis=(1, 2))
    x = layers.BatchNorm(axis_name=self.norm_axis_name, name="head_norm")(
      x, train
    )
    return layers.Dense(self.num_classes, name="head")(x)


def cifar_resnet18(
  num_classes: int = 10,
  *,
  activation: Callable[..., Any] = _blocks.Hardtanh,
  **kwargs,
) -> ResNet:
  """CIFAR ResNet-18: basic blocks, binary shortcuts, 64 to 512 channels.

  Args:
    num_classes: number of logits.
    activation: module factory, `Hardtanh` or `ovsw_jax.nn.PReLU`.
    **kwargs: `conv`, `dtype`, `norm_axis_name` of `ResNet`.
  """
  return _cifar_basic((2, 2, 2, 2), num_classes, activation, **kwargs)


def cifar_resnet34(
  num_classes: int = 10,
  *,
  activation: Callable[..., Any] = _blocks.Hardtanh,
  **kwargs,
) -> ResNet:
  """CIFAR ResNet-34; see `cifar_resnet18`."""
  return _cifar_basic((3, 4, 6, 3), num_classes, activation, **kwargs)


def _cifar_basic(stage_sizes, num_classes, activation, **kwargs) -> ResNet:
  return ResNet(
    stage_sizes=stage_sizes,
    widths=(64, 128, 256, 512),
    num_classes=num_classes,
    block=functools.partial(_blocks.BasicBlock, activation=activation),
    **kwargs,
  )


def cifar_resnet20(num_classes: int = 10, **kwargs) -> ResNet:
  """CIFAR ResNet-20: Bi-Real blocks, parameter-free shortcuts, 16 to 64.

  Args:
    num_classes: number of logits.
    **kwargs: `conv`, `dtype`, `norm_axis_name` of `ResNet`.
  """
  return ResNet(
    stage_sizes=(3, 3, 3),
    widths=(16, 32, 64),
    num_classes=num_classes,
    block=_blocks.BiRealBlock,
    stem_activation=layers.hardtanh,
    **kwargs,
  )


def resnet18(num_classes: int = 1000, **kwargs) -> ResNet:
  """ImageNet ResNet-18: Bi-Real blocks, real 1x1 shortcuts, 7x7 stem.

  All batch-norm scales but the last start at 1e-8, as the reference's do.

  Args:
    num_classes: number of logits.
    **kwargs: `conv`, `dtype`, `norm_axis_name` of `ResNet`.
  """
  return _imagenet((2, 2, 2, 2), num_classes, **kwargs)


def resnet34(num_classes: int = 1000, **kwargs) -> ResNet:
  """ImageNet ResNet-34; see `resnet18`."""
  return _imagenet((3, 4, 6, 3), num_classes, **kwargs)


def _imagenet(stage_sizes, num_classes, dtype=jnp.float32, **kwargs) -> ResNet:
  return ResNet(
    stage_sizes=stage_sizes,
    widths=(64, 128, 256, 512),
    num_classes=num_classes,
    block=functools.partial(
      _blocks.BiRealBlock, real_shortcut=True, dtype=dtype
    ),
    stem_size=7,
    stem_activation=layers.hardtanh,
    stem_pool=_imagenet_pool,
    norm_scale_init=nn.initializers.constant(1e-8),
    dtype=dtype,
    **kwargs,
  )
