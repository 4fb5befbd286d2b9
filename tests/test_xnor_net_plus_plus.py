"""XNOR-Net++ in float64 against its equations, written by hand in NumPy."""

import jax
import numpy as np
import pytest

from ovsw_jax import methods
from tests import numpy_methods as by_hand
from tests.test_methods_parity import FORMS, check_layer, check_network


def equations(params, x, stride, progress):
  """See `numpy_methods`: a layer's output, and its gradients backwards."""
  w, gamma = params["latent"], params["output_scale"]
  centred = w - w.mean(2, keepdims=True)
  alpha = np.abs(centred).mean(by_hand.FILTER)
  sums, product = by_hand.conv(
    by_hand.sign(x), by_hand.sign(centred) * alpha, stride
  )

  def back(dy):
    da, of_weight = product(dy * gamma)
    of_centred = of_weight * alpha * (np.abs(centred) < 1)
    return {
      "latent": of_centred - of_centred.mean(2, keepdims=True),
      "output_scale": (dy * sums).sum((0, 1, 2)),
    }, da * (np.abs(x) < 1)

  return sums * gamma, back


@pytest.mark.parametrize(("size", "stride", "progress"), FORMS)
def test_layer(size, stride, progress, x64):
  method = methods.make("xnor_net_plus_plus")
  check_layer(method, equations, size, stride, progress)


def test_network(x64):
  method = methods.make("xnor_net_plus_plus")
  check_network(method, equations, by_hand.hardtanh)


def test_the_scale_starts_at_one_and_a_shift_of_a_position_changes_nothing():
  layer = methods.make("xnor_net_plus_plus").conv(5, 3)
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
  params = layer.init(jax.random.key(1), x)["params"]
  np.testing.assert_array_equal(params["output_scale"], np.ones(5))
  shift = jax.random.normal(jax.random.key(2), (3, 3, 1, 5))
  moved = {**params, "latent": params["latent"] + shift}
  np.testing.assert_allclose(
    layer.apply({"params": moved}, x),
    layer.apply({"params": params}, x),
    rtol=1e-4,
  )
  # One input channel is its own mean: there is nothing left but rounding.
  one = layer.init(jax.random.key(1), x[..., :1])
  np.testing.assert_array_equal(layer.apply(one, x[..., :1]), 0)
