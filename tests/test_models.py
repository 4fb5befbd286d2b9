"""Architectures: parameter counts, twins, initial values, wrong names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import methods, models, nn

# Trainable and binary parameters, from the reference's own networks.
COUNTS = [
  ("cifar_resnet18", 10, {}, 11_174_986, 11_157_504),
  ("cifar_resnet18", 100, {}, 11_221_156, 11_157_504),
  ("cifar_resnet18", 10, {"activation": nn.PReLU}, 11_178_826, 11_157_504),
  ("cifar_resnet20", 10, {}, 269_850, 267_264),
  ("cifar_resnet20", 100, {}, 275_700, 267_264),
  ("cifar_resnet34", 10, {}, 21_283_146, 21_258_240),
  ("vgg_small", 10, {}, 4_660_618, 4_571_136),
  ("vgg_small", 100, {}, 5_397_988, 4_571_136),
  ("vgg_small", 10, {"activation": nn.PReLU}, 4_661_898, 4_571_136),
  ("resnet18", 1000, {}, 11_690_536, 10_985_472),
  ("resnet34", 1000, {}, 21_798_696, 21_086_208),
]
LEARNED = functools.partial(nn.BinaryConv, output_scale="learned")
WITH_LEARNED_SCALE = [
  ("cifar_resnet18", 10, 11_179_722),
  ("cifar_resnet20", 10, 270_522),
  ("vgg_small", 10, 4_662_282),
  ("resnet18", 1000, 11_694_376),
  ("resnet34", 1000, 21_806_248),
]
ALL = sorted(models.ARCHITECTURES)


def shapes(model, side=32):
  """The variables' shapes; nothing is computed."""
  images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


def counts(variables):
  binary = total = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    total += leaf.size
    binary += leaf.size * (path[-1].key == "latent")
  return total, binary


@pytest.mark.parametrize(
  ("name", "classes", "kwargs", "total", "binary"), COUNTS
)
def test_parameter_counts(name, classes, kwargs, total, binary):
  model = models.make(name, num_classes=classes, **kwargs)
  assert counts(shapes(model)) == (total, binary)


@pytest.mark.parametrize(("name", "classes", "total"), WITH_LEARNED_SCALE)
def test_parameter_counts_with_learned_scales(name, classes, total):
  model = models.make(name, num_classes=classes, conv=LEARNED)
  assert counts(shapes(model))[0] == total


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
  variables = model.init(jax.random.key(0), images)
  assert model.apply(variables, images).shape == (2, 10)


def test_initial_values():
  """Latents N(0, 2/fan_in), real layers uniform, norms one; VGG by fan-out."""
  images = jnp.zeros((1, 16, 16, 3))
  params = models.cifar_resnet20().init(jax.random.key(0), images)["params"]
  latent = params["layer3_block1"]["conv1"]["latent"]
  np.testing.assert_allclose(latent.std(), (2 / (9 * 64)) ** 0.5, rtol=0.02)
  assert np.abs(latent).max() > 3 * latent.std()  # not truncated
  stem = params["stem_conv"]["kernel"]
  bound = 27**-0.5
  assert bound * 0.95 < np.abs(stem).max() <= bound
  assert np.abs(params["head"]["bias"]).max() <= 64**-0.5
  params = models.vgg_small().init(jax.random.key(0), images)["params"]
  latent = params["conv4"]["latent"]
  np.testing.assert_allclose(latent.std(), (2 / (9 * 512)) ** 0.5, rtol=0.02)
  np.testing.assert_allclose(params["head"]["kernel"].std(), 0.01, rtol=0.05)
  np.testing.assert_array_equal(params["head"]["bias"], 0)
  np.testing.assert_array_equal(params["activation5"]["slope"], 0.25)


def test_imagenet_norm_scales_start_at_1e_8_but_the_last():
  variables = models.resnet18().init(
    jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
  small = ones = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    if path[-1].key == "scale":
      small += bool(np.all(leaf == np.float32(1e-8)))
      ones += bool(np.all(leaf == 1))
  assert (small, ones) == (20, 1)


def test_wrong_names_and_sizes():
  with pytest.raises(ValueError, match=r"'resnet19'.*cifar_resnet18"):
    models.make("resnet19", num_classes=10)
  with pytest.raises(ValueError, match="num_classes=1 "):
    models.make("vgg_small", num_classes=1)
  with pytest.raises(ValueError, match=r"multiples of 8.*\(2, 20, 20, 3\)"):
    shapes(models.vgg_small(), side=20)
