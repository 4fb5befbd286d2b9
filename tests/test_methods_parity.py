"""Every method in float64 against its equations, written by hand in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from ovsw_jax import methods, nn
from tests import numpy_methods as by_hand

# Method, its arguments, its equations, and the non-linearity beside it.
CASES = {
  "xnor_net": ({}, by_hand.xnor_net, by_hand.hardtanh),
  "xnor_net adam": (
    {"rule": "adam"},
    functools.partial(by_hand.xnor_net, sgd=False),
    by_hand.hardtanh,
  ),
  "xnor_net K": (
    {"input_scale": True},
    functools.partial(by_hand.xnor_net, input_scale=True),
    by_hand.hardtanh,
  ),
  "bireal": ({}, by_hand.bireal, by_hand.identity),
  "irnet": ({}, by_hand.irnet, by_hand.hardtanh),
  "irnet vgg": (
    {"t_min": 0.1},
    functools.partial(by_hand.irnet, t_min=0.1),
    by_hand.hardtanh,
  ),
  "recu": ({}, by_hand.recu, by_hand.hardtanh),
  "rbnn": ({}, by_hand.rbnn, by_hand.hardtanh),
  "sdbnn": ({"reduction": 3}, by_hand.sdbnn, by_hand.hardtanh),
  "sdbnn_imagenet": (
    {"reduction": 3},
    by_hand.sdbnn_imagenet,
    by_hand.prelu,
  ),
  "reactnet": ({}, by_hand.reactnet, by_hand.rprelu),
  "rbonn": ({}, by_hand.rbonn, by_hand.rprelu),
  "rbonn paper": (
    {"variant": "paper"},
    functools.partial(by_hand.rbonn, variant="paper"),
    by_hand.rprelu,
  ),
}
every_case = pytest.mark.parametrize("case", CASES)


def build(case):
  arguments, layer, activation = CASES[case]
  return methods.make(case.split()[0], **arguments), layer, activation


def arbitrary(tree, seed):
  """Float64 values of the tree's shapes; latents on both sides of +-1."""
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    structure,
    [
      0.7 * jax.random.normal(key, leaf.shape, jnp.float64)
      for key, leaf in zip(keys, leaves, strict=True)
    ],
  )


def numpy(tree):
  return jax.tree.map(np.asarray, tree)


def rotations_of(variables):
  """Keyword arguments of the equations of a layer with rotations."""
  if nn.ROTATIONS not in variables:
    return {}
  return {"rotations": numpy(variables[nn.ROTATIONS])}


def assert_close(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
    ours,
    theirs,
  )


# Of a layer: kernel size, stride and progress.
FORMS = [(3, 1, 0.0), (3, 2, 0.4), (1, 2, 0.9)]


def check_layer(method, by_equations, size, stride, progress):
  """Output and all gradients of one layer of a method."""
  layer = method.conv(
    5, size, strides=stride, dtype=jnp.float64, param_dtype=jnp.float64
  )
  x = 1.2 * jax.random.normal(jax.random.key(0), (3, 7, 5, 6))
  variables = layer.init(jax.random.key(1), x)
  variables = {**variables, "params": arbitrary(variables["params"], 2)}

  def apply(params, x):
    return layer.apply({**variables, "params": params}, x, True, progress)

  y, vjp = jax.vjp(apply, variables["params"], x)
  expected, back = by_equations(
    numpy(variables["params"]),
    np.asarray(x),
    stride,
    progress,
    **rotations_of(variables),
  )
  np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)
  dy = jax.random.normal(jax.random.key(3), y.shape)
  grads, dx = vjp(dy)
  expected_grads, expected_dx = back(np.asarray(dy))
  assert_close(grads, expected_grads)
  np.testing.assert_allclose(dx, expected_dx, rtol=1e-9, atol=1e-12)


@every_case
@pytest.mark.parametrize(("size", "stride", "progress"), FORMS)
def test_layer(case, size, stride, progress, x64):
  method, by_equations, _ = build(case)
  check_layer(method, by_equations, size, stride, progress)


class Network(linen.Module):
  """Two binary layers with all that comes around them."""

  method: methods.Method

  @linen.compact
  def __call__(self, x, train=True, progress=0.0):
    activation = self.method.activation or nn.Hardtanh
    for place, stride in ((1, 1), (2, 2)):
      x = self.method.conv(
        6,
        3,
        strides=stride,
        dtype=jnp.float64,
        param_dtype=jnp.float64,
        name=f"conv{place}",
      )(x, train, progress)
      x = nn.BatchNorm(name=f"norm{place}")(x, train)
      x = activation(name=f"activation{place}")(x)
    return linen.Dense(4, use_bias=False, param_dtype=jnp.float64, name="head")(
      x.mean((1, 2))
    )


def check_network(method, by_equations, activation):
  """Loss and all gradients of two layers, through the view if there is one."""
  network, progress = Network(method), 0.3
  x = jax.random.normal(jax.random.key(0), (4, 6, 6, 6))
  labels = np.array([0, 3, 1, 1])
  variables = network.init(jax.random.key(1), x)
  params = arbitrary(variables["params"], 2)
  memory = None
  if method.view is not None:
    shapes = method.view.init(params)
    memory = method.view.remember(params, arbitrary(params, 3))
    assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, shapes)

  def loss(params):
    seen = params
    if method.view is not None:
      seen = method.view.apply(params, memory, progress)
    logits, _ = network.apply(
      {**variables, "params": seen},
      x,
      True,
      progress,
      mutable=["batch_stats"],
    )
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, labels
    ).mean()

  value, grads = jax.value_and_grad(loss)(params)

  def layer(place):
    name = f"conv{place}"
    more = {}
    if nn.ROTATIONS in variables:
      more["rotations"] = numpy(variables[nn.ROTATIONS][name])
    if memory is not None:
      more["before"] = np.asarray(memory[name]["latent"])
    return lambda p, v, s: by_equations(p, v, s, progress, **more)

  expected, expected_grads = by_hand.network(
    numpy(params), np.asarray(x), labels, layer, activation
  )
  np.testing.assert_allclose(value, expected, rtol=1e-10)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-12),
    grads,
    expected_grads,
  )


@pytest.mark.parametrize(
  "case", sorted(set(CASES) - {"xnor_net adam", "irnet vgg"})
)
def test_network(case, x64):
  check_network(*build(case))
