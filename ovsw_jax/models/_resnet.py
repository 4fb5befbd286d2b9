"""One residual network: stem, blocks, pooling, classifier."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ovsw_jax import nn as layers
from ovsw_jax.models import _options
from ovsw_jax.models._blocks import BLOCKS, Block
from ovsw_jax.models._shortcuts import SHORTCUTS, Layers


class Stem(NamedTuple):
  """The full-precision first convolution."""

  kernel_size: int
  strides: int
  pool: bool = False  # 3x3 max pooling of stride 2, after the activation


STEMS = {
  "cifar": Stem(3, 1),
  "imagenet": Stem(7, 2, pool=True),
  "mobile": Stem(3, 2),
}


class ResNet(nn.Module):
  """A residual network of binary convolutions between real ends.

  Input: normalized images (batch, height, width, channels), float. Output:
  float32 logits (batch, num_classes). Variables: `params`, `batch_stats`.

  Every option but `conv` and `norm` is a name, a number or a boolean, so that a
  config can set it; activations, the shortcut and initializers may also be what
  the name stands for.

  Attributes:
    stage_sizes: number of blocks in each stage; stages after the first halve
      the size.
    widths: channels of each stage.
    num_classes: number of logits.
    block: "basic", one shortcut around two 3x3 convolutions; "bireal", one
      around each; "single", one convolution and its shortcut; "mobile", a 3x3
      that keeps the width and a 1x1 that changes it, a shortcut around each.
    shortcut: where size or width changes: "pooled" or "strided" with zero
      channels; "real", a 1x1 convolution, or "pooled_real" after pooling;
      "binary", a binary 1x1 convolution; "repeated", pooling and the channels
      repeated.
    conv: factory `(features, kernel_size, strides=, dtype=, name=)` of the
      binary convolutions, each called with `(x, train, progress)`.
    activation: of the blocks: "hardtanh", "identity", "prelu", "relu" or
      "rprelu", or a module factory `(name=)` whose parameters are inferred.
    stem: "cifar", a 3x3 convolution; "imagenet", 7x7 of stride 2 and max
      pooling; "mobile", 3x3 of stride 2.
    stem_width: channels of the stem; None is the first stage's.
    stem_activation: follows the stem's normalization; as `activation`.
    last_norm: whether batch normalization follows the average pooling.
    last_activation: comes before the classifier; as `activation`.
    conv_init: initializer of all convolutions: "he_normal", "fan_out_normal"
      or "torch_uniform". None leaves binary convolutions their own and is
      "torch_uniform" for real ones.
    head_init: initializer of the classifier's kernel.
    norm: factory `(scale_init=, axis_name=, name=)` of the normalizations, each
      called with `(x, train)`.
    norm_scale: initial scale of all normalizations but `last_norm`.
    norm_axis_name: mapped axis of the batch, under `pmap` or `shard_map`.
    dtype: dtype of the convolutions' operands.

  Raises:
    ValueError: for a name that does not exist, naming those that do, or stages
      whose sizes and widths do not match.

  Examples:
    A small network of one's own:

    >>> import jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> net = ovsw.models.ResNet(
    ...   stage_sizes=(1, 1), widths=(8, 16), num_classes=10,
    ...   conv=ovsw.methods.irnet().conv,
    ... )
    >>> image = jnp.ones((1, 8, 8, 1))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), image)
    >>> shapes["params"]["layer2_block0"]["conv1"]["latent"].shape
    (3, 3, 8, 16)
  """

  stage_sizes: Sequence[int]
  widths: Sequence[int]
  num_classes: int
  block: str = "bireal"
  shortcut: _options.Named = "pooled"
  conv: _options.ModuleFactory = layers.BinaryConv
  activation: _options.Named = "hardtanh"
  stem: str = "cifar"
  stem_width: int | None = None
  stem_activation: _options.Named = "identity"
  last_norm: bool = True
  last_activation: _options.Named = "identity"
  conv_init: _options.Named | None = None
  head_init: _options.Named = "torch_uniform"
  norm: _options.ModuleFactory = layers.BatchNorm
  norm_scale: float = 1.0
  norm_axis_name: str | None = None
  dtype: Any = jnp.float32

  def __post_init__(self):
    for argument in _TABLES:
      _meaning(self, argument)  # a wrong name is an error now, not when called
    sizes, widths = tuple(self.stage_sizes), tuple(self.widths)
    if len(sizes) != len(widths) or min(sizes + widths, default=0) < 1:
      raise ValueError(
        f"stage_sizes={sizes} and widths={widths} must be positive and equally "
        "many, one of each for every stage."
      )
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    train: bool = False,
    progress: jax.typing.ArrayLike = 0.0,
  ) -> jax.Array:
    meaning = functools.partial(_meaning, self)
    conv = functools.partial(self.conv, dtype=self.dtype)
    conv_init = meaning("conv_init")
    if conv_init is not None:
      conv = functools.partial(conv, kernel_init=conv_init)
    parts = Layers(
      conv=conv,
      real_conv=functools.partial(
        layers.RealConv,
        kernel_init=conv_init or layers.torch_uniform,
        dtype=self.dtype,
      ),
      norm=functools.partial(
        self.norm,
        scale_init=nn.initializers.constant(self.norm_scale),
        axis_name=self.norm_axis_name,
      ),
      activation=meaning("activation"),
    )
    stem = meaning("stem")
    x = parts.real_conv(
      self.stem_width or self.widths[0],
      stem.kernel_size,
      strides=stem.strides,
      name="stem_conv",
    )(images)
    x = parts.norm(name="stem_norm")(x, train)
    x = meaning("stem_activation")(name="stem_nonlinearity")(x)
    if stem.pool:
      x = layers.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, (size, width) in enumerate(
      zip(self.stage_sizes, self.widths, strict=True), start=1
    ):
      for index in range(size):
        x = Block(
          width,
          2 if stage > 1 and index == 0 else 1,
          style=meaning("block"),
          shortcut=meaning("shortcut"),
          layers=parts,
          name=f"layer{stage}_block{index}",
        )(x, train, progress)
    x = jnp.mean(x, axis=(1, 2))
    if self.last_norm:
      x = self.norm(axis_name=self.norm_axis_name, name="head_norm")(x, train)
    x = meaning("last_activation")(name="head_nonlinearity")(x)
    return layers.Dense(
      self.num_classes, kernel_init=meaning("head_init"), name="head"
    )(x)


_TABLES: dict[str, Mapping[str, Any]] = {
  "block": BLOCKS,
  "shortcut": SHORTCUTS,
  "activation": _options.ACTIVATIONS,
  "stem": STEMS,
  "stem_activation": _options.ACTIVATIONS,
  "last_activation": _options.ACTIVATIONS,
  "conv_init": _options.INITIALIZERS,
  "head_init": _options.INITIALIZERS,
}


def _meaning(network: ResNet, argument: str) -> Any:
  """What the name that an option holds stands for."""
  value = getattr(network, argument)
  if argument == "conv_init" and value is None:  # each layer keeps its own
    return None
  return _options.named(argument, value, _TABLES[argument])
