"""The published residual networks: each is what it sets of `ResNet`.

`**options` are attributes of `ResNet`: `conv`, `activation`, `dtype` and
whatever else is to differ from the published network. None leaves an option as
published.
"""

from typing import Any

from ovsw_jax.models import _options
from ovsw_jax.models._resnet import ResNet

_WIDE = (64, 128, 256, 512)
_NARROW = (16, 32, 64)


def _resnet(options: dict[str, Any], **published: Any) -> ResNet:
  return ResNet(**_options.changed(published, options))


def cifar_resnet18(num_classes: int = 10, **options: Any) -> ResNet:
  """CIFAR ResNet-18: basic blocks, binary shortcuts, 64 to 512 channels.

  As in OvSW. IR-Net's has `shortcut="real"` and
  `conv_init="torch_uniform"`; SD-BNN's `shortcut="real"`,
  `stem_activation="hardtanh"` and "he_normal" as `conv_init` and `head_init`.

  Args:
    num_classes: number of logits.
    **options: attributes of `ResNet` that differ from the published network.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.cifar_resnet18().stage_sizes
    (2, 2, 2, 2)
  """
  return _cifar_basic((2, 2, 2, 2), num_classes, options)


def cifar_resnet34(num_classes: int = 10, **options: Any) -> ResNet:
  """CIFAR ResNet-34; see `cifar_resnet18`.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.cifar_resnet34().stage_sizes
    (3, 4, 6, 3)
  """
  return _cifar_basic((3, 4, 6, 3), num_classes, options)


def _cifar_basic(stage_sizes, num_classes, options) -> ResNet:
  return _resnet(
    options,
    num_classes=num_classes,
    stage_sizes=stage_sizes,
    widths=_WIDE,
    block="basic",
    shortcut="binary",
  )


def cifar_resnet20(num_classes: int = 10, **options: Any) -> ResNet:
  """CIFAR ResNet-20: a shortcut around each convolution, 16 to 64 channels.

  As in OvSW and ReCU. IR-Net's and SD-BNN's have `shortcut="strided"` and
  "he_normal" as `conv_init` and `head_init`. IR-Net's with real activations
  has `block="basic"`, `stem_activation="identity"`, and "relu" as `activation`
  and `last_activation` besides.

  Args:
    num_classes: number of logits.
    **options: attributes of `ResNet` that differ from the published network.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.cifar_resnet20(shortcut="strided").shortcut
    'strided'
  """
  return _resnet(
    options,
    num_classes=num_classes,
    stage_sizes=(3, 3, 3),
    widths=_NARROW,
    block="bireal",
    shortcut="pooled",
    stem_activation="hardtanh",
  )


def resnet18(num_classes: int = 1000, **options: Any) -> ResNet:
  """ImageNet ResNet-18: a real 1x1 shortcut around each convolution.

  As in OvSW, whose batch-norm scales start at 1e-8, but for the last. IR-Net's
  has `norm_scale=1.0` and `conv_init="fan_out_normal"`. Its code also builds a
  batch normalization of the logits that it never calls, so that its count of
  parameters is 2,000 above this network's.

  Args:
    num_classes: number of logits.
    **options: attributes of `ResNet` that differ from the published network.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.resnet18().stage_sizes
    (2, 2, 2, 2)
  """
  return _imagenet((2, 2, 2, 2), num_classes, options)


def resnet34(num_classes: int = 1000, **options: Any) -> ResNet:
  """ImageNet ResNet-34; see `resnet18`.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.resnet34().stage_sizes
    (3, 4, 6, 3)
  """
  return _imagenet((3, 4, 6, 3), num_classes, options)


def _imagenet(stage_sizes, num_classes, options) -> ResNet:
  return _resnet(
    options,
    num_classes=num_classes,
    stage_sizes=stage_sizes,
    widths=_WIDE,
    block="bireal",
    shortcut="real",
    stem="imagenet",
    stem_activation="hardtanh",
    norm_scale=1e-8,
  )


def birealnet18(num_classes: int = 1000, **options: Any) -> ResNet:
  """Bi-Real Net 18 for ImageNet: 16 blocks of one convolution and shortcut.

  Shortcuts pool, then change the width by a real 1x1 convolution. No
  activation follows the stem, no normalization the average pooling, and the
  blocks have no non-linearity but the next layer's sign. ReActNet and RBONN add
  `activation="rprelu"`, SD-BNN "prelu". With real convolutions the network is
  all but linear: give the full-precision twin an `activation` too.

  Args:
    num_classes: number of logits.
    **options: attributes of `ResNet` that differ from the published network.

  References:
    Liu et al., `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_, 2018

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.birealnet18(activation="rprelu").stage_sizes
    (4, 4, 4, 4)
  """
  return _bireal((4, 4, 4, 4), _WIDE, "imagenet", num_classes, options)


def birealnet34(num_classes: int = 1000, **options: Any) -> ResNet:
  """Bi-Real Net 34 for ImageNet; see `birealnet18`.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.birealnet34().stage_sizes
    (6, 8, 12, 6)
  """
  return _bireal((6, 8, 12, 6), _WIDE, "imagenet", num_classes, options)


def cifar_birealnet18(num_classes: int = 10, **options: Any) -> ResNet:
  """`birealnet18` with a 3x3 stem, for small images. Not from a paper.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.cifar_birealnet18().stage_sizes
    (4, 4, 4, 4)
  """
  return _bireal((4, 4, 4, 4), _WIDE, "cifar", num_classes, options)


def cifar_birealnet20(num_classes: int = 10, **options: Any) -> ResNet:
  """`birealnet18` at ResNet-20's depth and widths: 18 binary convolutions.

  For small images; not from a paper.

  Args:
    num_classes: number of logits.
    **options: attributes of `ResNet` that differ from this network.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.cifar_birealnet20().widths
    (16, 32, 64)
  """
  return _bireal((6, 6, 6), _NARROW, "cifar", num_classes, options)


def _bireal(stage_sizes, widths, stem, num_classes, options) -> ResNet:
  return _resnet(
    options,
    num_classes=num_classes,
    stage_sizes=stage_sizes,
    widths=widths,
    block="single",
    shortcut="pooled_real",
    activation="identity",
    stem=stem,
    last_norm=False,
  )


def reactnet_a(num_classes: int = 1000, **options: Any) -> ResNet:
  """ReActNet-A for ImageNet: MobileNet's 13 blocks, binary and residual.

  A block is a 3x3 convolution that keeps the width and a 1x1 convolution that
  changes it. Where the reference has two 1x1 convolutions of C channels side
  by side, here one has 2 C; function and parameters are the same.

  Args:
    num_classes: number of logits.
    **options: attributes of `ResNet` that differ from the published network.

  References:
    Liu et al., `ReActNet <https://arxiv.org/abs/2003.03488>`_, 2020

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.models.reactnet_a().block
    'mobile'
  """
  return _resnet(
    options,
    num_classes=num_classes,
    stage_sizes=(1, 2, 2, 6, 2),
    widths=(64, 128, 256, 512, 1024),
    block="mobile",
    shortcut="repeated",
    activation="rprelu",
    stem="mobile",
    stem_width=32,
    last_norm=False,
  )
