"""Architectures: twins, dtypes, initial values, options and wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import methods, models, nn

ALL = sorted(models.ARCHITECTURES)


def shapes(model, side=32):
  """The variables' shapes; nothing is computed."""
  images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


def initialised(model, images):
  """`model.init` as one program: run by itself, each of its ops is one."""
  return jax.jit(model.init)(jax.random.key(0), images)


def counts(variables):
  binary = total = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    total += leaf.size
    binary += leaf.size * (path[-1].key == "latent")
  return total, binary


@pytest.mark.parametrize("name", ALL)
def test_full_precision_twin_has_the_same_shapes_and_no_latents(name):
  binary = shapes(models.make(name, num_classes=10))
  method = methods.make("full_precision")
  twin = shapes(models.make(name, num_classes=10, conv=method.conv))
  assert counts(twin) == (counts(binary)[0], 0)
  by_name = [
    {
      jax.tree_util.keystr(path).replace("latent", "kernel"): leaf.shape
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (binary, twin)
  ]
  assert by_name[0] == by_name[1]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float32))
def test_logits_are_float32(name, dtype):
  model = models.make(name, num_classes=7, dtype=dtype)
  side = 64 if name.startswith("resnet") else 32
  variables = shapes(model, side)
  images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  logits, _ = jax.eval_shape(
    lambda v, x: model.apply(
      v, x, train=True, progress=0.5, mutable=["batch_stats"]
    ),
    variables,
    images,
  )
  assert logits.shape == (2, 7) and logits.dtype == jnp.float32


def test_resnet20_takes_other_sizes_and_channels():
  model = models.cifar_resnet20()
  images = jnp.ones((2, 16, 16, 1))
  variables = initialised(model, images)
  assert jax.jit(model.apply)(variables, images).shape == (2, 10)


def test_initial_values():
  """Latents N(0, 2/fan_in), real layers uniform, norms one; VGG by fan-out."""
  images = jnp.zeros((1, 16, 16, 3))
  params = initialised(models.cifar_resnet20(), images)["params"]
  latent = params["layer3_block1"]["conv1"]["latent"]
  np.testing.assert_allclose(latent.std(), (2 / (9 * 64)) ** 0.5, rtol=0.02)
  assert np.abs(latent).max() > 3 * latent.std()  # not truncated
  stem = params["stem_conv"]["kernel"]
  bound = 27**-0.5
  assert bound * 0.95 < np.abs(stem).max() <= bound
  assert np.abs(params["head"]["bias"]).max() <= 64**-0.5
  params = initialised(models.vgg_small(), images)["params"]
  latent = params["conv4"]["latent"]
  np.testing.assert_allclose(latent.std(), (2 / (9 * 512)) ** 0.5, rtol=0.02)
  np.testing.assert_allclose(params["head"]["kernel"].std(), 0.01, rtol=0.05)
  np.testing.assert_array_equal(params["head"]["bias"], 0)
  np.testing.assert_array_equal(params["activation5"]["slope"], 0.25)


def test_imagenet_norm_scales_start_at_1e_8_but_the_last():
  variables = initialised(models.resnet18(), jnp.zeros((1, 32, 32, 3)))
  small = ones = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    if path[-1].key == "scale":
      small += bool(np.all(leaf == np.float32(1e-8)))
      ones += bool(np.all(leaf == 1))
  assert (small, ones) == (20, 1)


def initial(**options):
  model = models.cifar_resnet20(stage_sizes=(1, 1, 1), **options)
  images = jnp.zeros((1, 8, 8, 3))
  return initialised(model, images)["params"]


def test_initializers_by_name():
  params = initial(
    num_classes=100,
    shortcut="real",
    conv_init="he_normal",
    head_init="he_normal",
  )
  block = params["layer3_block0"]
  for leaf, fan_in in (
    (params["stem_conv"]["kernel"], 27),
    (block["conv1"]["latent"], 9 * 32),
    (block["shortcut_conv"]["kernel"], 32),
    (params["head"]["kernel"], 64),
  ):
    np.testing.assert_allclose(leaf.std(), (2 / fan_in) ** 0.5, rtol=0.1)
    assert np.abs(leaf).max() > 2.5 * leaf.std()  # a uniform one stays below
  latent = initial(conv_init="torch_uniform")["layer3_block0"]["conv1"][
    "latent"
  ]
  bound = (9 * 32) ** -0.5
  assert bound * 0.99 < np.abs(latent).max() <= bound
  latent = initial(conv_init="fan_out_normal")["layer3_block0"]["conv1"][
    "latent"
  ]
  np.testing.assert_allclose(latent.std(), (2 / (9 * 64)) ** 0.5, rtol=0.02)


@pytest.mark.parametrize("name", ALL)
def test_activation_replaces_every_blocks_own(name):
  own = shapes(models.make(name, num_classes=10))["params"]
  options = {"activation": "rprelu"}
  changed = shapes(models.make(name, num_classes=10, **options))["params"]
  blocks = [key for key in own if key.startswith("layer")]
  if name == "vgg_small":  # the last one is an option of its own
    assert all("input_shift" in changed[f"activation{i}"] for i in range(5))
    assert "input_shift" not in changed["activation5"]
  else:
    assert all("input_shift" in changed[k]["activation1"] for k in blocks)
  assert "stem_nonlinearity" not in changed


def test_none_leaves_an_option_as_published():
  assert models.make("vgg_small", num_classes=10, last_activation=None) == (
    models.vgg_small()
  )
  plain = models.make("reactnet_a", num_classes=10, activation=None, stem=None)
  assert (plain.activation, plain.stem) == ("rprelu", "mobile")


def test_names_and_what_they_stand_for_are_the_same():
  named = models.cifar_resnet20(activation="prelu")
  given = models.cifar_resnet20(activation=nn.PReLU)
  assert shapes(named) == shapes(given)


def test_shortcuts_of_a_block_whose_width_changes_in_two_units():
  """ReActNet-A's block with real shortcuts: each has layers of its own."""
  block = shapes(models.reactnet_a(shortcut="real"))["params"]["layer2_block0"]
  shape = block["shortcut_conv"]["kernel"].shape
  assert (shape, block["shortcut2_conv"]["kernel"].shape) == (
    (1, 1, 64, 64),
    (1, 1, 64, 128),
  )


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("cifar_resnet20", {"shortcutt": "real"}, "'shortcutt'.*shortcut, conv"),
    ("vgg_small", {"shortcut": "real"}, "'vgg_small' .*conv, activation"),
    ("cifar_resnet20", {"shortcut": "A"}, "shortcut='A'.*'strided'"),
    ("cifar_resnet20", {"block": "bottleneck"}, "'bottleneck'.*'bireal'"),
    ("birealnet18", {"stem": 7}, "stem=7 .*'imagenet'"),
    ("birealnet18", {"activation": "gelu"}, "activation='gelu'.*'rprelu'"),
    ("vgg_small", {"last_activation": True}, "last_activation=True.*'prelu'"),
    ("resnet18", {"conv_init": "he"}, "conv_init='he'.*'he_normal'"),
    ("resnet18", {"head_init": "zero"}, "head_init='zero'.*'torch_uniform'"),
    ("resnet18", {"stage_sizes": (2, 2)}, r"stage_sizes=\(2, 2\).*widths"),
    ("resnet18", {"widths": (8, 8, 8, 0)}, r"widths=\(8, 8, 8, 0\).*positive"),
  ],
)
def test_wrong_options_name_what_there_is(name, options, message):
  with pytest.raises(ValueError, match=message):
    models.make(name, num_classes=10, **options)


@pytest.mark.parametrize(
  ("shortcut", "side", "widths", "message"),
  [
    ("pooled", 6, (4, 8, 16), r"even; got shape \(2, 3, 3, 8\)"),
    ("pooled_real", 6, (4, 8, 16), r"even; got shape \(2, 3, 3, 8\)"),
    ("strided", 8, (4, 4, 8), "4 -> 4 channels"),
    ("pooled", 8, (4, 16, 32), "4 -> 16 channels"),
    ("repeated", 8, (4, 6, 12), "4 -> 6 channels"),
  ],
)
def test_shortcuts_that_do_not_fit(shortcut, side, widths, message):
  model = models.cifar_resnet20(shortcut=shortcut, widths=widths)
  with pytest.raises(ValueError, match=message):
    shapes(model, side)


@pytest.mark.parametrize("shortcut", ("strided", "real", "binary"))
def test_shortcuts_that_take_odd_sizes(shortcut):
  shapes(models.cifar_resnet20(shortcut=shortcut), side=6)


def test_wrong_names_and_sizes():
  with pytest.raises(ValueError, match=r"'resnet19'.*cifar_resnet18"):
    models.make("resnet19", num_classes=10)
  with pytest.raises(ValueError, match="num_classes=1 "):
    models.make("vgg_small", num_classes=1)
  with pytest.raises(ValueError, match=r"multiples of 8.*\(2, 20, 20, 3\)"):
    shapes(models.vgg_small(), side=20)
