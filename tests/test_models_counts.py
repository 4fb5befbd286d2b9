"""Parameter counts: the published ones, and those of the methods' layers."""

import functools
import itertools

import jax.numpy as jnp
import pytest
from flax import linen

from ovsw_jax import models, nn
from tests.test_models import counts, shapes

STRIDED = {"shortcut": "strided"}
REAL = {"shortcut": "real"}
ONE_WEIGHT_32_ACTIVATIONS = STRIDED | {
  "block": "basic",
  "activation": "relu",
  "stem_activation": "identity",
  "last_activation": "relu",
}
HARDTANH_LAST = {"last_activation": "hardtanh"}

# Trainable and binary parameters, from the authors' own networks: OvSW's, then
# IR-Net's.
COUNTS = [
  ("cifar_resnet18", 10, {}, 11_174_986, 11_157_504),
  ("cifar_resnet18", 100, {}, 11_221_156, 11_157_504),
  ("cifar_resnet18", 10, {"activation": nn.PReLU}, 11_178_826, 11_157_504),
  ("cifar_resnet20", 10, {}, 269_850, 267_264),
  ("cifar_resnet20", 100, {}, 275_700, 267_264),
  ("cifar_resnet34", 10, {}, 21_283_146, 21_258_240),
  ("vgg_small", 10, {}, 4_660_618, 4_571_136),
  ("vgg_small", 100, {}, 5_397_988, 4_571_136),
  ("vgg_small", 10, {"activation": "prelu"}, 4_661_898, 4_571_136),
  ("resnet18", 1000, {}, 11_690_536, 10_985_472),
  ("resnet34", 1000, {}, 21_798_696, 21_086_208),
  ("cifar_resnet20", 10, STRIDED, 269_850, 267_264),
  ("cifar_resnet20", 10, ONE_WEIGHT_32_ACTIVATIONS, 269_850, 267_264),
  ("cifar_resnet18", 10, REAL, 11_174_986, 10_985_472),
  ("vgg_small", 10, HARDTANH_LAST, 4_660_106, 4_571_136),
  # Less the 2,000 of a batch normalization that is built and never called.
  ("resnet18", 1000, {"norm_scale": 1.0}, 11_692_536 - 2_000, 10_985_472),
  ("resnet34", 1000, {"norm_scale": 1.0}, 21_800_696 - 2_000, 21_086_208),
]
LEARNED = functools.partial(nn.BinaryConv, output_scale="learned")
WITH_LEARNED_SCALE = [
  ("cifar_resnet18", 10, 11_179_722),
  ("cifar_resnet20", 10, 270_522),
  ("vgg_small", 10, 4_662_282),
  ("resnet18", 1000, 11_694_376),
  ("resnet34", 1000, 21_806_248),
]


@pytest.mark.parametrize(
  ("name", "classes", "options", "total", "binary"), COUNTS
)
def test_published_counts(name, classes, options, total, binary):
  model = models.make(name, num_classes=classes, **options)
  assert counts(shapes(model)) == (total, binary)


@pytest.mark.parametrize(("name", "classes", "total"), WITH_LEARNED_SCALE)
def test_counts_with_learned_scales(name, classes, total):
  model = models.make(name, num_classes=classes, conv=LEARNED)
  assert counts(shapes(model))[0] == total


def bireal_count(stage_sizes, widths, stem_size, classes):
  """Bi-Real Net by hand: total and binary parameters."""
  before = widths[0]
  total, binary = stem_size**2 * 3 * before + 2 * before, 0
  for size, width in zip(stage_sizes, widths, strict=True):
    binary += 9 * (before * width + (size - 1) * width**2)
    total += size * 2 * width
    if before != width:
      total += before * width + 2 * width
    before = width
  return total + binary + (before + 1) * classes, binary


WIDE, NARROW = (64, 128, 256, 512), (16, 32, 64)
BIREAL = [
  ("birealnet18", 1000, ((4, 4, 4, 4), WIDE, 7), 11_689_512, 10_985_472),
  ("birealnet34", 1000, ((6, 8, 12, 6), WIDE, 7), 21_797_672, 21_086_208),
  ("cifar_birealnet18", 10, ((4, 4, 4, 4), WIDE, 3), 11_173_962, 10_985_472),
  ("cifar_birealnet20", 10, ((6, 6, 6), NARROW, 3), 272_474, 267_264),
]


@pytest.mark.parametrize(("name", "classes", "form", "total", "binary"), BIREAL)
def test_bireal_counts_by_hand(name, classes, form, total, binary):
  assert bireal_count(*form, classes) == (total, binary)
  model = models.make(name, num_classes=classes)
  assert counts(shapes(model)) == (total, binary)


class MethodConv(linen.Module):
  """A binary convolution beside a method's parameters, which it only holds."""

  features: int
  kernel_size: int
  strides: int = 1
  per_input: int = 0  # parameters per input channel
  per_output: int = 0
  reduction: int = 0  # of a squeeze-and-excitation pair without biases
  kernel_init: object = nn.he_normal
  dtype: object = jnp.float32

  @linen.compact
  def __call__(self, x, train=False, progress=0.0):
    zeros, channels = linen.initializers.zeros, x.shape[-1]
    self.param("per_input", zeros, (self.per_input, channels))
    self.param("per_output", zeros, (self.per_output, self.features))
    if self.reduction:
      hidden = channels // self.reduction
      self.param("squeeze", zeros, (channels, hidden))
      self.param("excite", zeros, (hidden, channels))
    layer = nn.BinaryConv(self.features, self.kernel_size, self.strides)
    return layer(x, train, progress)


REACTNET = functools.partial(MethodConv, per_input=1)  # shift of the sign
RBONN = functools.partial(MethodConv, per_input=1, per_output=2)  # gamma, u
SDBNN = functools.partial(MethodConv, per_output=1, reduction=16)  # alpha
SDBNN_IMAGENET = functools.partial(MethodConv, per_output=1, reduction=8)
WITH_METHOD = [
  ("birealnet18", 1000, REACTNET, {"activation": "rprelu"}, 11_704_424),
  ("birealnet18", 1000, RBONN, {"activation": "rprelu"}, 11_712_104),
  ("birealnet18", 1000, SDBNN_IMAGENET, {"activation": "prelu"}, 11_980_840),
  ("cifar_resnet20", 10, SDBNN, STRIDED, 274_074),
  (
    "cifar_resnet18",
    10,
    SDBNN,
    REAL | {"stem_activation": "hardtanh"},
    11_320_650,
  ),
  ("vgg_small", 10, SDBNN, HARDTANH_LAST, 4_715_018),
]


@pytest.mark.parametrize(
  ("name", "classes", "conv", "options", "total"), WITH_METHOD
)
def test_published_counts_with_the_methods_parameters(
  name, classes, conv, options, total
):
  model = models.make(name, num_classes=classes, conv=conv, **options)
  assert counts(shapes(model))[0] == total


def test_reactnet_a_by_hand():
  """13 blocks: 3x3 and 1x1, two norms, two RPReLUs and two shifted signs."""
  widths = [32, 64, *2 * [128], *2 * [256], *6 * [512], *2 * [1024]]
  binary = signs = others = 0
  for before, width in itertools.pairwise(widths):
    binary += 9 * before**2 + before * width
    others += (2 + 3) * (before + width)
    signs += 2 * before
  others += 27 * 32 + 2 * 32 + 1025 * 1000
  model = models.reactnet_a()
  assert counts(shapes(model)) == (binary + others, binary)
  model = models.reactnet_a(conv=REACTNET)
  assert counts(shapes(model))[0] == binary + others + signs == 29_343_592
