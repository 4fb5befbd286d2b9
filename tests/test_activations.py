"""Non-linearities: RPReLU, and those that are modules without parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import nn


def test_rprelu_starts_as_prelu():
  x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
  variables = nn.RPReLU().init(jax.random.key(1), x)
  assert {k: v.shape for k, v in variables["params"].items()} == {
    "input_shift": (4,),
    "slope": (4,),
    "output_shift": (4,),
  }
  plain = nn.PReLU().init(jax.random.key(1), x)
  np.testing.assert_array_equal(
    nn.RPReLU().apply(variables, x), nn.PReLU().apply(plain, x)
  )


def test_rprelu_gradients(x64):
  """By hand: the slope sees what is below the shifted zero, and so on."""
  x = np.array([[-2.0, 0.5], [1.5, -0.75]])
  params = {
    "input_shift": jnp.array([1.0, -1.0]),
    "slope": jnp.array([0.5, 0.125]),
    "output_shift": jnp.array([3.0, 0.0]),
  }
  apply = lambda params, x: nn.RPReLU().apply({"params": params}, x)
  shifted = x + np.array([1.0, -1.0])
  slope = np.where(shifted > 0, 1, params["slope"])
  np.testing.assert_array_equal(
    apply(params, x), shifted * slope + np.array([3.0, 0.0])
  )
  upstream = np.array([[1.0, 2.0], [4.0, 8.0]])
  _, vjp = jax.vjp(apply, params, x)
  to_params, to_x = vjp(jnp.asarray(upstream))
  np.testing.assert_array_equal(to_x, upstream * slope)
  np.testing.assert_array_equal(to_params["output_shift"], upstream.sum(0))
  np.testing.assert_array_equal(
    to_params["input_shift"], (upstream * slope).sum(0)
  )
  np.testing.assert_array_equal(
    to_params["slope"], (upstream * np.minimum(shifted, 0)).sum(0)
  )


@pytest.mark.parametrize(
  ("layer", "expected"),
  [
    (nn.Hardtanh, [-1.0, -0.5, 0.0, 1.0]),
    (nn.Identity, [-2.0, -0.5, 0.0, 3.0]),
    (nn.ReLU, [0.0, 0.0, 0.0, 3.0]),
  ],
)
def test_modules_without_parameters(layer, expected):
  x = jnp.array([-2.0, -0.5, 0.0, 3.0])
  assert layer().init(jax.random.key(0), x) == {}
  np.testing.assert_array_equal(
    layer(name="activation1").apply({}, x), expected
  )
