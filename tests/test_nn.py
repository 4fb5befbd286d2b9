"""Layers: invariances and wrong input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import nn


def normal(seed, shape, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def conv_loss(layer, variables, x, weights):
  return (layer.apply(variables, x, train=True) * weights).sum()


LAYERS = {
  "conv": (nn.BinaryConv(features=6, kernel_size=3), (4, 7, 7, 5)),
  "dense": (nn.BinaryDense(features=6), (4, 30)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_loss_and_latent_gradient_do_not_see_the_latent_magnitude(name, x64):
  layer, shape = LAYERS[name]
  layer = layer.clone(dtype=jnp.float64, param_dtype=jnp.float64)
  x = normal(0, shape, jnp.float64)
  variables = layer.init(jax.random.key(1), x)
  y = layer.apply(variables, x)
  weights = normal(2, y.shape, jnp.float64)
  # Large weights: the 1e-5 under the root is the one thing that sees scale.
  variables = jax.tree.map(lambda w: 1e4 * w, variables)
  loss, gradient = jax.value_and_grad(
    lambda v: conv_loss(layer, v, x, weights)
  )(variables)
  for k in (0.5, 3.0):
    scaled = jax.tree.map(lambda w, k=k: k * w, variables)
    other, other_gradient = jax.value_and_grad(
      lambda v: conv_loss(layer, v, x, weights)
    )(scaled)
    np.testing.assert_allclose(other, loss, rtol=1e-10)
    np.testing.assert_allclose(
      other_gradient["params"]["latent"],
      gradient["params"]["latent"],
      rtol=1e-10,
    )


@pytest.mark.parametrize("name", LAYERS)
def test_bits_are_the_same_in_training_and_evaluation(name):
  layer, shape = LAYERS[name]
  x = normal(3, shape)
  variables = layer.init(jax.random.key(4), x)
  np.testing.assert_array_equal(
    layer.apply(variables, x, train=True), layer.apply(variables, x)
  )


def test_padding_is_zero_after_binarization():
  layer = nn.BinaryConv(features=1, kernel_size=3, output_scale=None)
  variables = {"params": {"latent": jnp.ones((3, 3, 1, 1))}}
  y = layer.apply(variables, jnp.full((1, 3, 3, 1), -2.0))
  np.testing.assert_array_equal(
    y[0, :, :, 0], [[-4, -6, -4], [-6, -9, -6], [-4, -6, -4]]
  )


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float32))
def test_output_is_float32_whatever_the_compute_dtype(name, dtype):
  layer, shape = LAYERS[name]
  x = normal(5, shape, dtype)
  variables = layer.init(jax.random.key(6), x)
  assert variables["params"]["latent"].dtype == jnp.float32
  y = layer.clone(dtype=dtype).apply(variables, x, train=True)
  assert y.dtype == jnp.float32
  np.testing.assert_array_equal(y, layer.apply(variables, x, train=True))


def test_groups_are_separate_convolutions():
  x = normal(7, (2, 6, 6, 4))
  layer = nn.BinaryConv(features=6, kernel_size=3, feature_group_count=2)
  variables = layer.init(jax.random.key(8), x)
  latent = variables["params"]["latent"]
  assert latent.shape == (3, 3, 2, 6)
  half = nn.BinaryConv(features=3, kernel_size=3)
  parts = [
    half.apply({"params": {"latent": latent[..., o]}}, x[..., i])
    for i, o in (
      (slice(0, 2), slice(0, 3)),
      (slice(2, 4), slice(3, 6)),
    )
  ]
  np.testing.assert_allclose(
    layer.apply(variables, x), jnp.concatenate(parts, -1), rtol=1e-6
  )


def test_dense_is_a_one_by_one_convolution():
  x = normal(9, (4, 5))
  latent = normal(10, (5, 3))
  dense = nn.BinaryDense(features=3)
  conv = nn.BinaryConv(features=3, kernel_size=1)
  np.testing.assert_allclose(
    dense.apply({"params": {"latent": latent}}, x, train=True),
    conv.apply(
      {"params": {"latent": latent[None, None]}}, x[:, None, None], train=True
    )[:, 0, 0],
    rtol=1e-6,
  )


def test_learned_scale_starts_at_the_mean_magnitude_and_learns():
  x = normal(11, (2, 5, 5, 3))
  layer = nn.BinaryConv(features=4, kernel_size=3, output_scale="learned")
  variables = layer.init(jax.random.key(12), x)
  latent, scale = (variables["params"][k] for k in ("latent", "output_scale"))
  np.testing.assert_allclose(scale, jnp.abs(latent).mean((0, 1, 2)), rtol=1e-6)
  gradient = jax.grad(lambda v: layer.apply(v, x).sum())(variables)
  assert np.all(gradient["params"]["output_scale"] != 0)


@pytest.mark.parametrize(
  ("attributes", "x", "message"),
  [
    ({"padding": "SAME"}, (1, 4, 4, 3), "'SAME'.*explicit"),
    ({"padding": -1}, (1, 4, 4, 3), "padding=-1|padding"),
    ({"kernel_size": 2}, (1, 4, 4, 3), r"\(2, 2\) is even"),
    ({"strides": 0}, (1, 4, 4, 3), "strides.*0"),
    ({"strides": (1, 2, 3)}, (1, 4, 4, 3), "strides.*pair"),
    ({"feature_group_count": 2}, (1, 4, 4, 3), "feature_group_count=2.*3"),
    ({}, (4, 4, 3), r"BinaryConv.*\(4, 4, 3\)"),
  ],
)
def test_wrong_geometry_is_named(attributes, x, message):
  layer = nn.BinaryConv(**{"features": 4, "kernel_size": 3, **attributes})
  with pytest.raises(ValueError, match=message):
    layer.init(jax.random.key(0), jnp.ones(x))


def test_dense_wants_a_batch():
  with pytest.raises(ValueError, match=r"BinaryDense.*\(3,\)"):
    nn.BinaryDense(features=2).init(jax.random.key(0), jnp.ones(3))


def test_batch_norm_statistics_are_unbiased():
  x = 2 + 3 * normal(13, (4, 3, 3, 2))
  layer = nn.BatchNorm()
  variables = layer.init(jax.random.key(0), x)
  y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)
  stats = updates["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(
    stats["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5
  )


def test_batch_norm_over_a_mapped_axis_is_over_the_whole_batch():
  x = normal(14, (8, 2, 3)) + jnp.arange(8.0)[:, None, None]
  layer = nn.BatchNorm(axis_name="batch")
  whole = nn.BatchNorm()
  variables = whole.init(jax.random.key(0), x.reshape(-1, 3))
  expected, expected_stats = whole.apply(
    variables, x.reshape(-1, 3), train=True, mutable=["batch_stats"]
  )
  y, stats = jax.vmap(
    lambda x: layer.apply(variables, x, train=True, mutable=["batch_stats"]),
    axis_name="batch",
  )(x)
  np.testing.assert_allclose(y.reshape(-1, 3), expected, atol=1e-5)
  for ours, theirs in zip(
    jax.tree.leaves(stats), jax.tree.leaves(expected_stats), strict=True
  ):
    np.testing.assert_allclose(ours[0], theirs, rtol=1e-5)


def test_batch_norm_refuses_a_single_value():
  layer = nn.BatchNorm()
  variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
  with pytest.raises(ValueError, match=r"\(1, 3\).*at least 2"):
    layer.apply(variables, jnp.ones((1, 3)), True, mutable=["batch_stats"])


def test_hardtanh_gradient_is_zero_at_the_corners():
  x = jnp.array([-2.0, -1.0, -0.5, 0.0, 1.0, 3.0])
  np.testing.assert_array_equal(nn.hardtanh(x), [-1, -1, -0.5, 0, 1, 1])
  gradient = jax.grad(lambda x: nn.hardtanh(x).sum())(x)
  np.testing.assert_array_equal(gradient, [0, 0, 1, 1, 0, 0])


def test_hardtanh_in_forward_mode_and_twice():
  x = jnp.array([-2.0, -1.0, 0.5, jnp.nan])
  y, tangent = jax.jvp(nn.hardtanh, (x,), (jnp.full(4, 3.0),))
  np.testing.assert_array_equal(y, [-1, -1, 0.5, jnp.nan])
  np.testing.assert_array_equal(tangent, [0, 0, 3, 0])
  square = jax.grad(jax.grad(lambda x: nn.hardtanh(x) ** 2))
  assert [float(square(x)) for x in (0.5, 2.0)] == [2.0, 0.0]


def test_hardtanh_keeps_its_result_alone():
  """The result is in memory anyway, as what the next layer reads."""

  def kept(x):
    y, pullback = jax.vjp(nn.hardtanh, x)
    return y, pullback(jnp.ones(3))

  jaxpr = jax.make_jaxpr(kept)(jnp.arange(3.0)).jaxpr
  (x,) = jaxpr.invars
  readers = [e for e in jaxpr.eqns if x in e.invars]
  assert len(readers) == 1


def test_prelu_has_a_slope_per_channel():
  layer = nn.PReLU()
  x = jnp.array([[-2.0, -2.0], [3.0, 3.0]])
  variables = layer.init(jax.random.key(0), x)
  variables["params"]["slope"] = jnp.array([0.5, 0.1])
  np.testing.assert_allclose(layer.apply(variables, x), [[-1, -0.2], [3, 3]])
