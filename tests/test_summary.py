"""The model table, against numbers derived by hand."""

import functools
import json
import time

import jax
import jax.numpy as jnp
import pytest
from flax import linen

import ovsw_jax as ovsw
from ovsw_jax import methods, models, nn

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)

# A 3x3 convolution that keeps the width. Where the width doubles the side
# halves, so it is the same in each stage, and half of it where both change.
WIDE = 32**2 * 9 * 64**2  # CIFAR, 64 to 512 channels
NARROW = 32**2 * 9 * 16**2  # CIFAR, 16 to 64
LARGE = 56**2 * 9 * 64**2  # ImageNet, 64 to 512
STEM_WIDE, STEM_LARGE = 32**2 * 27 * 64, 112**2 * 7**2 * 3 * 64
# 1x1 convolutions where stages begin, the same in each for the same reason.
SHORTCUTS_WIDE, SHORTCUTS_LARGE = 3 * 16**2 * 64 * 128, 3 * 28**2 * 64 * 128


def convolutions(*stages):
  """Whole convolutions in stages of so many; the first of later ones: half."""
  return sum(stages) - (len(stages) - 1) / 2


REACTNET_SIDES = (112, 56, 56, 28, 28, *6 * [14], *2 * [7])
REACTNET_WIDTHS = (32, 64, *2 * [128], *2 * [256], *6 * [512], *2 * [1024])
REACTNET = sum(
  side**2 * (9 * before**2 + before * width)
  for side, before, width in zip(
    REACTNET_SIDES, REACTNET_WIDTHS[:-1], REACTNET_WIDTHS[1:], strict=True
  )
)
HEAD = 512 * 1000

# Multiplications of bits, and the others.
MACS = {
  "cifar_resnet20": (NARROW * convolutions(6, 6, 6), 32**2 * 27 * 16 + 640),
  "cifar_resnet18": (
    WIDE * convolutions(4, 4, 4, 4) + SHORTCUTS_WIDE,
    STEM_WIDE + 5120,
  ),
  "cifar_resnet34": (
    WIDE * convolutions(6, 8, 12, 6) + SHORTCUTS_WIDE,
    STEM_WIDE + 5120,
  ),
  "vgg_small": (
    # 128 -> 128, 256, 256, 512, 512, pooled after the first and the third.
    32**2 * 9 * 128**2 * (1 + 1 / 2 + 1 + 1 / 2 + 1),
    32**2 * 27 * 128 + 4 * 4 * 512 * 10,
  ),
  "cifar_birealnet20": (
    NARROW * convolutions(6, 6, 6),
    32**2 * 27 * 16 + 2 * 16**2 * 16 * 32 + 640,
  ),
  "cifar_birealnet18": (
    WIDE * convolutions(4, 4, 4, 4),
    STEM_WIDE + SHORTCUTS_WIDE + 5120,
  ),
  "resnet18": (
    LARGE * convolutions(4, 4, 4, 4),
    STEM_LARGE + SHORTCUTS_LARGE + HEAD,
  ),
  "resnet34": (
    LARGE * convolutions(6, 8, 12, 6),
    STEM_LARGE + SHORTCUTS_LARGE + HEAD,
  ),
  "birealnet18": (
    LARGE * convolutions(4, 4, 4, 4),
    STEM_LARGE + SHORTCUTS_LARGE + HEAD,
  ),
  "birealnet34": (
    LARGE * convolutions(6, 8, 12, 6),
    STEM_LARGE + SHORTCUTS_LARGE + HEAD,
  ),
  # The paper has 4.82e9 binary and 0.12e8 other operations.
  "reactnet_a": (REACTNET, 112**2 * 27 * 32 + 1024 * 1000),
}
# The same, and the parameters of `test_models_counts`, written out.
NUMBERS = {
  "cifar_resnet20": (267_264, 2_586, 40_108_032, 443_008),
  "cifar_resnet18": (11_157_504, 17_482, 553_648_128, 1_774_592),
  "cifar_resnet34": (21_258_240, 24_906, 1_157_627_904, 1_774_592),
  "vgg_small": (4_571_136, 89_482, 603_979_776, 3_620_864),
  "cifar_birealnet20": (267_264, 5_210, 40_108_032, 705_152),
  "cifar_birealnet18": (10_985_472, 188_490, 547_356_672, 8_066_048),
  "resnet18": (10_985_472, 705_064, 1_676_279_808, 137_793_536),
  "resnet34": (21_086_208, 712_488, 3_525_967_872, 137_793_536),
  "birealnet18": (10_985_472, 704_040, 1_676_279_808, 137_793_536),
  "birealnet34": (21_086_208, 711_464, 3_525_967_872, 137_793_536),
  "reactnet_a": (28_253_184, 1_080_488, 4_816_896_000, 11_862_016),
}


def make(name, **options):
  small = name.startswith(("cifar", "vgg"))
  model = models.make(name, num_classes=10 if small else 1000, **options)
  return model, CIFAR if small else IMAGENET


@pytest.mark.parametrize("name", sorted(models.ARCHITECTURES))
def test_numbers_by_hand(name):
  table = ovsw.summary(*make(name))
  bits, others, macs_1bit, macs_32bit = NUMBERS[name]
  assert MACS[name] == (macs_1bit, macs_32bit)
  assert (table.parameters_1bit, table.parameters_32bit) == (bits, others)
  assert (table.macs_1bit, table.macs_32bit) == (macs_1bit, macs_32bit)
  assert table.memory_bytes == bits / 8 + 4 * (others + table.statistics)
  share = macs_1bit / (macs_1bit + macs_32bit)
  assert table.binarized_share == pytest.approx(share)


def test_resnet20_in_full():
  """48.6 KiB by hand: an eighth of a byte a bit, four bytes of all the rest."""
  table = ovsw.summary(*make("cifar_resnet20"))
  # Norms of the stem and of 18 convolutions, and the head's.
  statistics = 2 * (7 * 16 + 6 * 32 + 6 * 64 + 64)
  memory = 267_264 / 8 + 4 * (2_586 + statistics)
  assert table.statistics == statistics == 1_504
  assert table.memory_bytes == memory == 49_768
  assert table.float_memory_bytes == 4 * (269_850 + 1_504) == 1_085_416
  assert table.compression_ratio == pytest.approx(21.8095, abs=1e-4)
  first = table.layers[2]
  assert first == (
    "layer1_block0/conv1",
    "BinaryConv",
    1,
    (32, 32, 16),
    2_304,
    0,
    0,
    32**2 * 2_304,
    0,
  )
  assert first.memory_bits == 2_304
  assert table.layers[-1].name == "head" and table.layers[-1].input_bits == 32
  # Convolutions, their norms, the head and its norm; no row without numbers.
  assert len(table.layers) == 19 + 19 + 2


# Parameters of one binary layer that are not its latent weight: of 4 inputs
# and 8 outputs.
METHODS = {
  "ags": 0,
  "bireal": 0,
  "irnet": 0,
  "ovsw": 0,
  "rbnn": 2 * 8,  # angle, learned output scale
  "rbonn": 4 + 2 * 8,  # shift; gamma and u
  "reactnet": 4,  # shift
  "recu": 8,  # learned output scale
  "sad": 0,
  "sdbnn": 8 + 2 * 4,  # alpha; squeeze and excite
  "sdbnn_imagenet": 8 + 2 * 4,
  "vanilla": 0,
  "xnor_net": 0,
}


@pytest.mark.parametrize(
  "name", sorted(methods.METHODS.keys() - {"full_precision"})
)
def test_a_layer_of_every_method(name):
  arguments = {"reduction": 4} if name.startswith("sdbnn") else {}
  method = methods.make(name, **arguments)
  layer = method.conv(8, 3, strides=2)
  table = ovsw.summary(layer, (6, 6, 4))
  (row,) = table.layers
  assert (row.kind, row.input_bits) == ("BinaryConv", 1)
  assert row.output_shape == (3, 3, 8)
  assert row.parameters_1bit == 9 * 4 * 8
  shapes = jax.eval_shape(
    lambda: layer.init(jax.random.key(0), jnp.zeros((1, 6, 6, 4)))["params"]
  )
  real = sum(leaf.size for leaf in jax.tree.leaves(shapes)) - 9 * 4 * 8
  assert row.parameters_32bit == real == METHODS.get(name, real)
  assert row.macs_1bit == 3 * 3 * 9 * 4 * 8
  if name in METHODS:  # those of SD-BNN are of its shift, 4 -> 1 -> 4
    assert row.macs_32bit == (8 if name.startswith("sdbnn") else 0)


def test_the_twin_and_the_first_of_two_steps_have_no_bits():
  twin = methods.make("full_precision")
  first = methods.real_weights(methods.make("reactnet"))
  binary = ovsw.summary(*make("cifar_birealnet20"))
  for method, input_bits in ((twin, 32), (first, 1)):
    table = ovsw.summary(*make("cifar_birealnet20", conv=method.conv))
    assert (table.parameters_1bit, table.macs_1bit) == (0, 0)
    assert table.macs_32bit == binary.macs_1bit + binary.macs_32bit
    assert table.compression_ratio == 1 and table.binarized_share == 0
    assert table.layers[2].input_bits == input_bits


class Mixed(linen.Module):
  """A user's own network, with Flax's layers beside ours."""

  @linen.compact
  def __call__(self, x, wide: bool):
    x = linen.Conv(8, (3, 3), feature_group_count=2, name="conv")(x)
    shared = nn.BinaryConv(8, 3, feature_group_count=4, name="shared")
    x = shared(shared(x))
    x = linen.ConvTranspose(6, (2, 2), strides=(2, 2), name="up")(x)
    x = x.reshape(x.shape[0], -1, 6)
    x = linen.MultiHeadDotProductAttention(2, qkv_features=4, name="attention")(
      x
    )
    x = nn.BinaryDense(5, name="binary")(x)
    scale = self.param("scale", linen.initializers.ones, (5, 7 if wide else 3))
    return x @ scale


@pytest.mark.parametrize("wide", (False, True))
def test_a_users_own_network(wide):
  table = ovsw.summary(Mixed(), (4, 4, 6), wide=wide)
  rows = {row.name: row for row in table.layers}
  tokens = 8 * 8
  macs = {name: (row.macs_1bit, row.macs_32bit) for name, row in rows.items()}
  outputs = 7 if wide else 3
  assert macs == {
    "conv": (0, 16 * 9 * 3 * 8),
    "shared": (2 * 16 * 9 * 2 * 8, 0),
    "up": (0, 16 * 4 * 8 * 6),
    "attention/query": (0, tokens * 6 * 4),
    "attention/key": (0, tokens * 6 * 4),
    "attention/value": (0, tokens * 6 * 4),
    "attention": (0, 2 * tokens**2 * 4),
    "attention/out": (0, tokens * 4 * 6),
    "binary": (tokens * 6 * 5, 0),
    "Mixed": (0, tokens * 5 * outputs),
  }
  assert (
    rows["shared"].parameters_1bit == 9 * 2 * 8
  )  # once, though called twice
  assert rows["Mixed"].parameters_32bit == 5 * outputs
  assert rows["Mixed"].output_shape == (tokens, outputs)


def test_text_html_and_dict_hold_the_same_numbers():
  table = ovsw.summary(*make("cifar_resnet20"))
  text, page = str(table), table._repr_html_()
  assert repr(table) == text
  for words in (
    "layer1_block0/conv1",
    "32x32x16",
    "2,359,296",
    "40,108,032",
    "48.60",
    "269,850, of which 99.04% are 1-bit",
    "40,551,040, of which 98.91% are binarized",
    "21.81 times smaller",
  ):
    assert words in text and words in page
  table_lines = text.splitlines()[2 : 3 + len(table.layers) + 3]
  assert len({len(line) for line in table_lines}) == 1  # numbers are aligned
  assert page.count("<tr>") == 1 + len(table.layers) + 1 + 4
  plain = json.loads(json.dumps(table.to_dict()))
  assert plain["macs_1bit"] == 40_108_032
  assert plain["layers"][2]["output_shape"] == [32, 32, 16]
  assert sum(row["memory_bytes"] for row in plain["layers"]) == 49_768


def test_names_are_escaped_in_html():
  class Odd(linen.Module):
    @linen.compact
    def __call__(self, x):
      return linen.Dense(2, name="<b>")(x)

  page = ovsw.summary(Odd(), 3)._repr_html_()
  assert "&lt;b&gt;" in page and "<b>Odd" in page and ">Dense<" in page
  assert page.count("<b>") == 1


@pytest.mark.parametrize(
  ("shape", "words"),
  [
    ((), "must be the sizes of one example's axes"),
    ((32, None, 3), r"input_shape=\(32, None, 3\) must be the sizes"),
    ((32, 0, 3), "without batch axis, such as"),
    ((1, 32, 32, 3), r"ResNet does not take input_shape=\(1, 32, 32, 3\)"),
    ((31, 32, 3), "sides must be even"),
  ],
)
def test_wrong_shapes_are_refused(shape, words):
  with pytest.raises(ValueError, match=words):
    ovsw.summary(models.cifar_resnet20(), shape)


def test_missing_arguments_are_named():
  with pytest.raises(ValueError, match="wide"):
    ovsw.summary(Mixed(), (4, 4, 6))


def test_no_arithmetic_and_little_time():
  """Ten billion multiplications are not made; shapes cost nothing."""
  began = time.perf_counter()
  table = ovsw.summary(models.cifar_resnet20(dtype=jnp.bfloat16), (512, 512, 3))
  assert time.perf_counter() - began < 10
  assert table.macs_1bit == 40_108_032 * 16**2
  partial = functools.partial(nn.BinaryConv, dtype=jnp.bfloat16)
  assert ovsw.summary(*make("cifar_resnet20", conv=partial)).macs_32bit == (
    443_008
  )
