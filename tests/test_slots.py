"""Slots of the binary layers: functions, modules, and wrong things in them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from ovsw_jax import nn, quantizers, sign


def normal(seed, shape):
  return jax.random.normal(jax.random.key(seed), shape)


class Gain(linen.Module):
  """A `post` with a parameter, of the shape that its input has."""

  start: float = 2.0

  @linen.compact
  def __call__(self, y, x, window_mean):
    del x, window_mean
    init = linen.initializers.constant(self.start)
    return y * self.param("gain", init, y.shape[-1:])


class Threshold(linen.Module):
  """A weight quantizer with a parameter."""

  @linen.compact
  def __call__(self, latent, progress):
    del progress
    shift = self.param("shift", linen.initializers.zeros, latent.shape[-1:])
    return quantizers.sign_weights()(latent - shift)


LAYERS = {
  "conv": (functools.partial(nn.BinaryConv, 4, 3), (2, 5, 5, 6)),
  "dense": (functools.partial(nn.BinaryDense, 4), (2, 6)),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


@every_layer
def test_modules_in_slots_hold_their_parameters_under_the_slots_name(kind):
  layer, shape = LAYERS[kind]
  made = layer(
    weight_quantizer=Threshold,
    activation_quantizer=nn.RSign,
    post=functools.partial(Gain, start=3.0),
  )
  x = normal(0, shape)
  params = made.init(jax.random.key(1), x)["params"]
  assert sorted(params) == [
    "activation_quantizer",
    "latent",
    "post",
    "weight_quantizer",
  ]
  assert params["activation_quantizer"]["shift"].shape == (6,)
  plain = layer(
    activation_quantizer=quantizers.sign_activations(normalize=False)
  ).apply({"params": {"latent": params["latent"]}}, x)
  np.testing.assert_allclose(made.apply({"params": params}, x), 3 * plain)
  weights = normal(2, plain.shape)
  gradient = jax.grad(lambda p: (made.apply({"params": p}, x) * weights).sum())(
    params
  )
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def test_two_layers_do_not_share_a_slots_parameters():
  class Pair(linen.Module):
    @linen.compact
    def __call__(self, x):
      layer = functools.partial(
        nn.BinaryDense, 6, activation_quantizer=nn.RSign
      )
      return layer(name="second")(layer(name="first")(x))

  params = Pair().init(jax.random.key(0), normal(1, (2, 6)))["params"]
  for name in ("first", "second"):
    assert params[name]["activation_quantizer"]["shift"].shape == (6,)


@every_layer
@pytest.mark.parametrize(
  ("slot", "instance"),
  [
    ("weight_quantizer", Threshold()),
    ("activation_quantizer", nn.RSign()),
    ("post", Gain()),
  ],
)
def test_instances_are_refused(kind, slot, instance):
  layer, shape = LAYERS[kind]
  message = f"{slot} is an instance of {type(instance).__name__}.*pass the cl"
  with pytest.raises(TypeError, match=message):
    layer(**{slot: instance}).init(jax.random.key(0), normal(2, shape))


def test_output_scale_starts_as_its_initializer_says():
  layer = nn.BinaryConv(
    4,
    3,
    output_scale="learned",
    output_scale_init=lambda key, latent: jax.random.uniform(
      key, latent.shape[-1:]
    ),
  )
  variables = layer.init(jax.random.key(3), normal(3, (1, 4, 4, 2)))
  scale = variables["params"]["output_scale"]
  assert scale.shape == (4,) and len(set(scale.tolist())) == 4
  assert np.all((scale >= 0) & (scale < 1))


@every_layer
def test_what_the_weight_became_can_be_read(kind):
  layer, shape = LAYERS[kind]
  made = layer(output_scale="learned")
  x = normal(4, shape)
  variables = made.init(jax.random.key(5), x)
  assert list(variables) == ["params"]
  y, state = made.apply(variables, x, mutable=["intermediates"])
  ((bits, scale),) = state["intermediates"]["quantized"]
  latent = variables["params"]["latent"]
  np.testing.assert_array_equal(bits, sign.hard_sign(latent))
  np.testing.assert_array_equal(scale, variables["params"]["output_scale"])
  np.testing.assert_array_equal(y, made.apply(variables, x))


@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("dilation", (1, 2))
def test_window_mean_is_over_the_windows_of_the_convolution(stride, dilation):
  x = normal(6, (2, 7, 6, 3))
  means = []

  def post(y, x, window_mean):
    means.append(window_mean(x))
    return y

  layer = nn.BinaryConv(
    4, 3, strides=stride, kernel_dilation=dilation, post=post
  )
  y, _ = layer.init_with_output(jax.random.key(7), x)
  expected = jax.lax.conv_general_dilated(
    x,
    jnp.full((3, 3, 1, 3), 1 / 9),
    (stride, stride),
    ((dilation, dilation),) * 2,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=3,
  )
  assert means[0].shape[:3] == y.shape[:3]
  np.testing.assert_allclose(means[0], expected, atol=1e-6)


def test_a_shift_is_a_shift():
  x = normal(8, (3, 4, 4, 5))
  shift = normal(9, (5,))
  variables = {"params": {"shift": shift}}
  np.testing.assert_array_equal(
    nn.RSign().apply(variables, x), sign.hard_sign(x + shift)
  )
  bits = nn.RSign().apply(variables, x.astype(jnp.bfloat16))
  assert bits.dtype == jnp.bfloat16


def test_self_distribution_shifts_lie_between_zero_and_one():
  x = normal(10, (3, 4, 4, 16))
  module = nn.SelfDistributionActivations()
  variables = module.init(jax.random.key(11), x)
  assert variables["params"]["squeeze"].shape == (16, 1)
  bits = module.apply(variables, x)
  np.testing.assert_array_equal(bits[x >= 0], 1)
  np.testing.assert_array_equal(bits[x < -1], -1)
  assert 0.6 < (bits > 0).mean() < 0.75  # P(x > -0.5) = 0.69
  dense = module.apply(variables, x[:, 0, 0])
  assert dense.shape == (3, 16)
  with pytest.raises(ValueError, match=r"reduction=16.*8 input channels"):
    module.init(jax.random.key(0), x[..., :8])


def test_self_distribution_weights_move_away_from_zero_mean():
  latent = 0.5 + normal(12, (3, 3, 4, 2))
  module = nn.SelfDistributionWeights(coefficient=1.0)
  variables = module.init(jax.random.key(0), latent)
  np.testing.assert_array_equal(variables["params"]["alpha"], 0)
  bits, _ = module.apply(variables, latent)
  np.testing.assert_array_equal(
    bits, sign.hard_sign(latent + 0.5 * latent.mean((0, 1, 2)))
  )


def test_rotations_are_variables_without_gradient():
  latent = normal(13, (3, 3, 8, 5))
  module = nn.RotatedWeights()
  variables = module.init(jax.random.key(14), latent)
  r1, r2 = (variables[nn.ROTATIONS][name] for name in ("r1", "r2"))
  assert r1.shape == (8, 8) and r2.shape == (9, 9)
  np.testing.assert_allclose(r1 @ r1.T, jnp.eye(8), atol=1e-5)
  assert list(variables["params"]) == ["angle"]
  bits, _ = module.apply(variables, latent, 0.5)
  rotated = quantizers.rotate(quantizers.standardized(latent, 0.0), r1, r2)
  np.testing.assert_array_equal(bits, sign.hard_sign(rotated))


@pytest.mark.parametrize("variant", ("code", "paper"))
def test_bilinear_weights_without_a_scale_stay_finite(variant):
  latent = normal(15, (3, 3, 2, 3))
  module = nn.BilinearWeights(variant=variant)
  params = module.init(jax.random.key(16), latent)["params"]
  np.testing.assert_allclose(params["u"], 0.2)
  params["gamma"] = jnp.array([0.0, -0.5, 2.0])

  def value(params, latent):
    return module.apply({"params": params}, latent).value

  np.testing.assert_allclose(
    jnp.abs(value(params, latent)).mean((0, 1, 2)), [0, 0.01, 0.04], rtol=1e-6
  )
  gradients = jax.grad(lambda *a: value(*a).sum(), (0, 1))(params, latent)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
  assert gradients[0]["gamma"][0] == 0
