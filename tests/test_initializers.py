"""Initializers: flax's numbers, drawn as vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.extend import core

from ovsw_jax import methods, models, nn
from ovsw_jax.models import _options
from ovsw_jax.nn import _initializers

FLAX = linen.initializers.variance_scaling
OURS = {
  "fan_out_normal": (_options.fan_out_normal, FLAX(2.0, "fan_out", "normal")),
  "he_normal": (nn.he_normal, FLAX(2.0, "fan_in", "normal")),
  "normal": (
    _initializers.as_vector(linen.initializers.normal(0.01)),
    linen.initializers.normal(0.01),
  ),
  "torch_uniform": (nn.torch_uniform, FLAX(1 / 3, "fan_in", "uniform")),
}


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (1, 1, 4, 2), (6, 5)])
@pytest.mark.parametrize("name", OURS)
def test_the_numbers_are_those_of_flax(name, shape, impl):
  ours, flax = OURS[name]
  for dtype in (jnp.float32, jnp.bfloat16):
    key = jax.random.key(11, impl=impl)
    found = ours(key, shape, dtype)
    assert (found.shape, found.dtype) == (shape, dtype)
    np.testing.assert_array_equal(found, flax(key, shape, dtype))


def test_float64_draws_in_float64(x64):
  found = nn.he_normal(jax.random.key(0), (3, 3, 4, 8), jnp.float64)
  assert found.dtype == jnp.float64
  assert np.any(found != found.astype(jnp.float32))


def test_fans_need_two_axes():
  with pytest.raises(ValueError, match=r"shape \(4,\).*inputs and outputs"):
    nn.he_normal(jax.random.key(0), (4,))


def draws(jaxpr):
  """The shapes of all random bits in a program."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "random_bits":
      yield eqn.params["shape"]
    for inner in core.jaxprs_in_params(eqn.params):
      yield from draws(inner)


NETWORKS = {
  "resnet": lambda: models.cifar_resnet20(num_classes=10, shortcut="real"),
  "vgg": models.vgg_small,
  "reactnet": lambda: models.make(
    "cifar_resnet20", num_classes=10, conv=methods.make("reactnet").conv
  ),
  "sdbnn": lambda: models.make(
    "cifar_resnet20", num_classes=10, conv=methods.make("sdbnn").conv
  ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_drawn_as_vectors(name):
  model, image = NETWORKS[name](), jnp.zeros((1, 32, 32, 3))
  init = jax.make_jaxpr(lambda key: model.init(key, image, train=False))
  shapes = list(draws(init(jax.random.key(0)).jaxpr))
  assert len(shapes) > 5
  assert {len(shape) for shape in shapes} == {1}
