"""Packed networks compute what the trained ones do, on the same bits."""

import functools
import gzip
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import deploy, methods, models, nn
from ovsw_jax.deploy import _layers, _pack
from ovsw_jax.interop import torch as interop
from tests import packed_networks
from tests.test_methods_invariants import LAYERS
from tests.test_models_golden import REFERENCE, golden_variables, nhwc


def test_a_golden_network(golden):
  name = "cifar_resnet20"
  reference = golden(f"models_{REFERENCE[name][0]}")
  variables = jax.tree.map(
    lambda v: v.astype(np.float32), golden_variables(reference, name)
  )
  model = models.make(name, num_classes=int(reference["num_classes"]))
  images = nhwc(reference["safe_eval/x"]).astype(jnp.float32)
  packed = deploy.pack(model, variables)
  logits, bits = packed_networks.packed_with_bits(packed, images)
  expected, of_network = packed_networks.with_bits(model, variables, images)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  np.testing.assert_allclose(
    logits, reference["safe_eval/f64/logits"], atol=5e-5
  )
  assert len(bits) == REFERENCE[name][1] and bits.keys() == of_network.keys()
  for path, value in of_network.items():
    np.testing.assert_array_equal(bits[path], value, err_msg=path)
  assert not any(
    path[-1].key == "latent"
    for path, _ in jax.tree_util.tree_leaves_with_path(packed.variables)
  )


def test_a_file_of_the_authors_leaves_as_bits(golden, tmp_path):
  """Trained by their code, read by `interop`, packed."""
  folder = pathlib.Path(packed_networks.__file__).parent / "golden"
  path = tmp_path / "epoch_3.state"
  path.write_bytes(
    gzip.decompress((folder / "checkpoint_resnet20.pth.gz").read_bytes())
  )
  checkpoint = interop.load(path)
  packed = deploy.pack(checkpoint.model(), checkpoint.variables)
  expected = golden("checkpoint_resnet20_expected")
  images = expected["x"].astype(np.float32).transpose(0, 2, 3, 1)
  np.testing.assert_allclose(
    packed(images), expected["full/logits_f64"], atol=1e-4
  )


# How activations become bits, and the network; the others have `PLAIN`.
PLAIN = ("sign", {})
METHODS = {
  "irnet": (
    "sign",
    {"block": "bireal", "shortcut": "real", "dtype": jnp.bfloat16},
  ),
  "rbnn": ("centred_sign", {"block": "bireal", "shortcut": "real"}),
  "rbonn": ("shifted_sign", {"block": "single", "shortcut": "pooled_real"}),
  "reactnet": ("shifted_sign", {"block": "mobile", "shortcut": "repeated"}),
  "sdbnn": ("self_distribution_sign", {}),
  "sdbnn_imagenet": ("self_distribution_sign", {"block": "bireal"}),
  "vanilla": ("sign", {"activation": "prelu", "stem": "imagenet"}),
  "xnor_net": ("sign", {"last_activation": "relu"}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_form_of_method(name):
  binarizer, options = METHODS.get(name, PLAIN)
  arguments = {"input_scale": True} if name == "xnor_net" else {}
  model = packed_networks.network(methods.make(name, **arguments), **options)
  image = (32, 32, 3) if "stem" in options else packed_networks.IMAGE
  variables = packed_networks.variables_of(model, image=image)
  images = packed_networks.images_of(image=image)
  packed = deploy.pack(model, variables, image_shape=image)
  assert packed.description.binarizer == binarizer
  expected = jax.jit(functools.partial(model.apply, train=False))(
    variables, images
  )
  np.testing.assert_allclose(packed(images), expected, atol=1e-4)
  if name in ("sdbnn", "sdbnn_imagenet", "rbnn", "xnor_net"):
    assert packed.notes[0].startswith("layer1_block0/conv1: its weights are")
  else:
    assert not packed.notes
  folded = "block" not in options and binarizer == "sign" and not arguments
  assert packed.description.thresholds == (("norm1",) if folded else ())


def test_slopes_that_turn_signs_are_not_folded():
  model = packed_networks.network(activation="prelu")
  variables = packed_networks.variables_of(model)
  slopes = variables["params"]["layer1_block0"]["activation1"]
  slopes["slope"] = -slopes["slope"]
  packed = deploy.pack(model, variables, image_shape=packed_networks.IMAGE)
  assert packed.description.thresholds == ()
  images = packed_networks.images_of()
  np.testing.assert_allclose(
    packed(images), jax.jit(model.apply)(variables, images), atol=1e-4
  )


def test_pooling_before_a_negative_scale():
  """VGG pools sums whose learned scale may be negative."""
  conv = functools.partial(nn.BinaryConv, output_scale="learned")
  model = models.vgg_small(conv=conv)
  image = (8, 8, 3)
  variables = packed_networks.variables_of(model, image=image)
  scale = variables["params"]["conv1"]["output_scale"]
  assert (scale < 0).any() and (scale > 0).any()
  packed = deploy.pack(model, variables)
  assert packed.image_shape == image
  images = packed_networks.images_of(image=image)
  expected, of_network = packed_networks.with_bits(model, variables, images)
  logits, bits = packed_networks.packed_with_bits(packed, images, real=True)
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)
  for path, value in of_network.items():
    np.testing.assert_array_equal(bits[path], value, err_msg=path)


def test_thresholds_are_signs_at_every_sum():
  rng = np.random.default_rng(0)
  channels, inputs = 200, 27
  bits = rng.choice([-1.0, 1.0], size=(3, 3, 3, channels)).astype("f4")
  scale = rng.exponential(size=channels).astype("f4")
  scale[:5] = 0
  bias = rng.normal(size=channels).astype("f4")
  bias[5:20] = 0
  norm = [rng.normal(size=channels).astype("f4") for _ in range(3)]
  norm[0][20:30] = 0  # gamma
  norm[1][10:25] = 0  # beta
  norm[2][5:20] = (5 * scale)[5:20]  # a mean that a sum may hit
  var = rng.exponential(size=channels).astype("f4")
  arrays = _pack._Norm(*norm, var).threshold(_pack._Sums(bits, scale, bias))
  sums = np.arange(-inputs, inputs + 1, dtype="f4")[:, None]
  every = jnp.broadcast_to(sums, (len(sums), channels))
  got = _layers.Threshold().apply({"params": arrays}, every)
  y = (sums + bias) * scale
  inverse = 1 / np.sqrt(var + np.float32(1e-5))
  y = (y - norm[2]) * (norm[0] * inverse) + norm[1]
  np.testing.assert_array_equal(got, np.where(y >= 0, 1, -1))
  assert arrays["falling"].any() and not arrays["falling"].all()


def test_what_cannot_be_packed_is_named():
  model = packed_networks.network()
  variables = packed_networks.variables_of(model)

  def refused(message, changed=model, of=variables):
    with pytest.raises(ValueError, match=message):
      deploy.pack(changed, of)

  twin = packed_networks.network(methods.full_precision())
  refused("full-precision", twin, packed_networks.variables_of(twin))
  first = packed_networks.network(methods.real_weights(methods.vanilla()))
  refused("layer1_block0/conv1 has a weight of", first)
  refused("no network of ovsw_jax.models", nn.BinaryConv(4, 3))
  other = functools.partial(
    nn.BinaryConv, activation_quantizer=lambda x, *_: jnp.sign(x - 0.1)
  )
  refused("activation quantizer .* is none", model.clone(conv=other))
  refused(
    "`post` .* is none",
    model.clone(
      conv=functools.partial(nn.BinaryConv, post=lambda y, x, _: y + 1)
    ),
  )
  refused("made by RealConv", model.clone(conv=nn.RealConv))
  refused("`norm` is not", model.clone(norm=lambda **_: None))
  refused("can name", model.clone(activation=lambda **_: jnp.tanh))


def test_a_network_takes_only_its_images():
  model = packed_networks.network()
  packed = deploy.pack(
    model,
    packed_networks.variables_of(model),
    image_shape=packed_networks.IMAGE,
  )
  with pytest.raises(ValueError, match=r"shape \(batch, 8, 8, 3\)"):
    packed(np.zeros((1, 16, 16, 3)))
  for images in (np.zeros((1, 8, 8, 3)), np.zeros((0, 8, 8, 3), "u1")):
    with pytest.raises(ValueError, match="predict takes uint8 images"):
      packed.predict(images)
  for name, value in (
    ("mean", [1.0]),
    ("std", [0.0] * 3),
    ("classes", ["a"]),
    ("resize", 2),
  ):
    with pytest.raises(ValueError, match=f"{name}="):
      deploy.PackedNetwork(
        packed.description, packed.variables, (8, 8, 3), {name: value}
      )
