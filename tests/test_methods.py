"""Methods: what each adds to the gradient, and wrong names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import methods, nn
from ovsw_jax import optax as transforms

PARAMS = {
  "conv": {"latent": jax.random.normal(jax.random.key(0), (3, 3, 4, 5))},
  "norm": {"scale": jnp.ones(5)},
}
GRADIENT = jax.tree.map(lambda w: 1e-3 * jnp.ones_like(w), PARAMS)


def transformed(transform):
  updates, _ = transform.update(GRADIENT, transform.init(PARAMS), PARAMS)
  return updates


@pytest.mark.parametrize(
  ("name", "arguments", "transform"),
  [
    ("ags", {"delta": 0.1}, transforms.ags(0.1)),
    ("sad", {"weight": 0.2}, transforms.sad(0.2)),
    (
      "ovsw",
      {"delta": 0.1, "weight": 0.2, "momentum": 0.9, "threshold": 1e-3},
      transforms.ovsw(0.1, 0.2, 0.9, 1e-3),
    ),
  ],
)
def test_methods_hand_their_arguments_to_the_transform(
  name, arguments, transform
):
  method = methods.make(name, **arguments)
  ours, expected = transformed(method.transform), transformed(transform)
  jax.tree.map(np.testing.assert_array_equal, ours, expected)
  assert np.any(ours["conv"]["latent"] != GRADIENT["conv"]["latent"])
  np.testing.assert_array_equal(
    ours["norm"]["scale"], GRADIENT["norm"]["scale"]
  )


def test_baselines_transform_nothing():
  assert methods.make("vanilla").transform is None
  assert methods.make("vanilla").conv is nn.BinaryConv
  twin = methods.make("full_precision")
  assert twin.transform is None and not twin.binary


def test_a_method_wants_latent_weights():
  with pytest.raises(ValueError, match="kernel"):
    methods.make("ovsw").transform.init({"kernel": jnp.ones((3, 2))})


def test_wrong_names_and_values():
  with pytest.raises(ValueError, match=r"'ovws'.*ovsw"):
    methods.make("ovws")
  with pytest.raises(ValueError, match=r"'ags'.*'lambda'.*delta"):
    methods.make("ags", **{"lambda": 1.0})
  with pytest.raises(ValueError, match="no arguments"):
    methods.make("vanilla", delta=0.1)
  with pytest.raises(ValueError, match=r"delta.*-0\.1"):
    methods.make("ovsw", delta=-0.1)
