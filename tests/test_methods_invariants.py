"""What holds for every method, whatever its equations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import methods, models, nn, sign
from tests.two_layers import Network

# Under which a network of six channels can be built.
SMALL = {"reduction": 3}
BINARY = sorted(set(methods.METHODS) - {"full_precision"})
# OvSW and its halves have vanilla's layer, and no other.
LAYERS = sorted(set(BINARY) - {"ovsw", "ags", "sad"})
every_layer = pytest.mark.parametrize("name", LAYERS)

IMAGES = jax.random.normal(jax.random.key(10), (16, 6, 6, 6))
LABELS = jnp.arange(16) % 4


def make(name, **arguments):
  small = {k: v for k, v in SMALL.items() if k in methods.defaults(name)}
  return methods.make(name, **small, **arguments)


@functools.cache
def initial(name, seed=0, **arguments):
  """The two-layer network of a method, and its variables."""
  network = Network(make(name, **arguments))
  return network, network.init(jax.random.key(seed), IMAGES)


def quantized(network, variables):
  """What the weights of the layers become, by the name of the layer."""
  _, state = network.apply(
    variables, IMAGES, False, 0.5, mutable=["intermediates"]
  )
  return {
    layer: found["quantized"][0]
    for layer, found in state["intermediates"].items()
  }


def gradients(network, variables, params, progress):
  """Of the loss, by the parameters and by progress."""

  def loss(params, progress):
    logits, _ = network.apply(
      {**variables, "params": params},
      IMAGES,
      True,
      progress,
      mutable=["batch_stats"],
    )
    return -jax.nn.log_softmax(logits)[jnp.arange(16), LABELS].mean()

  return jax.grad(loss, argnums=(0, 1))(params, progress)


def test_ovsw_and_its_halves_have_the_layer_of_vanilla():
  for name in ("ovsw", "ags", "sad"):
    assert make(name).conv is make("vanilla").conv


@every_layer
def test_value_is_bits_times_scale(name):
  network, variables = initial(name)
  found = quantized(network, variables)
  assert sorted(found) == ["conv1", "conv2"]
  for layer, (bits, scale) in found.items():
    latent = variables["params"][layer]["latent"]
    assert bits.shape == latent.shape and scale.shape == latent.shape[-1:]
    np.testing.assert_array_equal(jnp.abs(bits), 1)
    assert np.all(np.isfinite(scale))


@every_layer
def test_the_layer_is_a_sum_of_bits_and_one_scale_a_channel(name):
  """So a popcount and an affine map of each channel compute it exactly."""
  layer = make(name).conv(6, 3)
  variables = layer.init(jax.random.key(1), IMAGES)
  y, state = layer.apply(
    variables, IMAGES, False, 0.5, mutable=["intermediates"]
  )
  _, scale = state["intermediates"]["quantized"][0]
  sums = y / scale
  np.testing.assert_allclose(sums, jnp.round(sums), atol=1e-3)
  inside = jnp.round(sums)[:, 1:-1, 1:-1]  # windows without padding: 54 bits
  np.testing.assert_array_equal(inside % 2, 0)
  assert jnp.abs(inside).max() <= 54


# Leaves whose gradient is zero, or as good as, in the first step.
SILENT = {
  # s = |sin(pi/2)| = 1: only weight decay moves the angle off it.
  "rbnn": {"latent", "angle"},
  "rbonn": {"u"},  # there is no step before the first one
}


@every_layer
def test_gradients_are_finite_and_no_leaf_is_without(name):
  """And one compilation serves every `progress`, which has no gradient."""
  network, variables = initial(name)
  compiled = jax.jit(functools.partial(gradients, network, variables))
  for progress in (0.3, 0.0, 1.0):
    of_params, of_progress = compiled(variables["params"], progress)
    assert of_progress == 0
    leaves = jax.tree_util.tree_leaves_with_path(of_params)
    assert all(np.isfinite(leaf).all() for _, leaf in leaves)
    if progress == 0.3:
      silent = {p[-1].key for p, leaf in leaves if np.abs(leaf).max() < 1e-7}
      assert silent == SILENT.get(name, set())
  assert compiled._cache_size() == 1


def test_rbnn_learns_from_an_eighth_of_a_turn():
  network, variables = initial("rbnn", beta_init=math.pi / 4)
  of_params, _ = gradients(network, variables, variables["params"], 0.3)
  assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(of_params))


@every_layer
def test_bits_do_not_see_the_magnitude_of_latent_weights(name):
  network, variables = initial(name)

  def scaled(path, w):
    return 4 * w if path[-1].key == "latent" else w

  other = jax.tree_util.tree_map_with_path(scaled, variables)
  ours, theirs = quantized(network, variables), quantized(network, other)
  for layer in ours:
    np.testing.assert_array_equal(ours[layer].bits, theirs[layer].bits)


@every_layer
def test_evaluation_does_not_depend_on_progress_or_on_the_batch(name):
  network, variables = initial(name)
  whole = network.apply(variables, IMAGES, False, 0.0)
  np.testing.assert_array_equal(
    whole, network.apply(variables, IMAGES, False, 1.0)
  )
  one_by_one = jax.vmap(lambda x: network.apply(variables, x[None])[0])
  np.testing.assert_allclose(one_by_one(IMAGES), whole, rtol=1e-4, atol=1e-5)


MOVED = ("rbnn", "sdbnn", "sdbnn_imagenet")  # x does not meet the sign as it is


@pytest.mark.parametrize("name", sorted(set(LAYERS) - set(MOVED)))
def test_zero_is_positive(name):
  layer = make(name).conv(5, 3)
  zeros = jnp.zeros((1, 4, 4, 6))
  variables = layer.init(jax.random.key(2), zeros)
  np.testing.assert_array_equal(
    layer.apply(variables, zeros), layer.apply(variables, zeros + 1e-6)
  )


def first_stage(name, seed=0):
  network = Network(methods.real_weights(make(name)))
  return network, network.init(jax.random.key(seed), IMAGES)


@every_layer
def test_the_first_stage_has_real_weights_under_the_same_names(name):
  method = methods.real_weights(make(name))
  assert method.name == f"{name}_step1" and not method.binary
  _, binary = initial(name)
  network, real = first_stage(name)
  shapes = {
    path: leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(binary["params"])
  }
  for path, leaf in jax.tree_util.tree_leaves_with_path(real["params"]):
    assert shapes[path] == leaf.shape
  for layer, found in quantized(network, real).items():
    np.testing.assert_array_equal(found.value, real["params"][layer]["latent"])


def merged(params, loaded):
  """`params` with the leaves that `loaded` has."""
  if not isinstance(params, dict):
    return loaded
  return {
    key: merged(value, loaded[key]) if key in loaded else value
    for key, value in params.items()
  }


# The bits of these are the signs of the latent weights as they are.
PLAIN = ("vanilla", "bireal", "reactnet", "rbonn", "xnor_net")


@pytest.mark.parametrize("name", PLAIN)
def test_the_second_stage_starts_from_the_signs_of_the_first(name):
  network, variables = initial(name)
  _, before = first_stage(name, seed=5)
  params = merged(variables["params"], before["params"])
  found = quantized(network, {**variables, "params": params})
  for layer, (bits, _) in found.items():
    latent = before["params"][layer]["latent"]
    np.testing.assert_array_equal(bits, sign.hard_sign(latent))


@every_layer
def test_bits_of_a_published_network_can_be_read(name):
  method = methods.make(name)
  model = models.cifar_resnet20(conv=method.conv, activation=method.activation)
  collections = ["params", "batch_stats", nn.ROTATIONS, "intermediates"]
  _, shapes = jax.eval_shape(
    lambda: model.init_with_output(
      jax.random.key(0), jnp.zeros((1, 8, 8, 3)), mutable=collections
    )
  )
  names = [
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(shapes["intermediates"])
  ]
  assert sum(name.endswith(".bits") for name in names) == 18
