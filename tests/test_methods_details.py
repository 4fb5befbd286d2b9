"""What single methods do outside their layers: tails, views, refreshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import methods, nn, quantizers
from ovsw_jax.methods import _rbonn
from tests import numpy_methods as by_hand
from tests.two_layers import Network

IMAGES = jax.random.normal(jax.random.key(0), (4, 5, 5, 6))


def latents(params):
  return {name: params[name]["latent"] for name in ("conv1", "conv2")}


@functools.cache
def initial(name, **arguments):
  method = methods.make(name, **arguments)
  return method, Network(method).init(jax.random.key(1), IMAGES)


# XNOR-Net


def centred(w):
  return np.clip(w - np.mean(w, axis=2, keepdims=True), -1, 1)


def test_xnor_net_centres_over_input_channels_and_clips():
  method, variables = initial("xnor_net")
  params = jax.tree.map(lambda w: 3 * w, variables["params"])
  tx = optax.chain(optax.sgd(0.1), method.tail)
  updates, _ = tx.update(params, tx.init(params), params)
  new = optax.apply_updates(params, updates)
  for name, w in latents(params).items():
    expected = centred(0.9 * np.asarray(w))
    assert np.abs(expected).max() == 1  # some are clipped
    np.testing.assert_allclose(new[name]["latent"], expected, atol=1e-6)
  np.testing.assert_allclose(
    new["head"]["kernel"], 0.9 * params["head"]["kernel"], rtol=1e-6
  )


def test_xnor_net_starts_from_centred_weights_and_refreshes_no_more():
  method, variables = initial("xnor_net")
  first = method.refresh(variables, 0.0)
  later = method.refresh(variables, 0.25)
  for name, w in latents(variables["params"]).items():
    np.testing.assert_allclose(
      first["params"][name]["latent"], centred(np.asarray(w)), atol=1e-6
    )
    np.testing.assert_array_equal(later["params"][name]["latent"], w)
  assert jax.tree.structure(first) == jax.tree.structure(variables)


# Bi-Real Net and ReActNet


@pytest.mark.parametrize("name", ("bireal", "reactnet"))
def test_the_published_init_is_small_and_positive(name):
  _, variables = initial(name, positive_init=True)
  for w in latents(variables["params"]).values():
    assert 0 <= w.min() < 1e-4 and 9e-4 < w.max() < 1e-3
  _, variables = initial(name)
  for w in latents(variables["params"]).values():
    assert w.min() < -0.1


# RBNN


def test_rbnn_turns_the_rotations_of_every_layer_towards_the_bits():
  method, variables = initial("rbnn")
  fresh = jax.jit(method.refresh)(variables, 0.0)
  assert jax.tree.structure(fresh) == jax.tree.structure(variables)
  jax.tree.map(
    np.testing.assert_array_equal, fresh["params"], variables["params"]
  )
  for name, w in latents(variables["params"]).items():
    z = quantizers.standardized(w, 0.0)

    def angle(variables, name=name, z=z):
      """Mean angle between a filter and its bits, in degrees."""
      own = variables[nn.ROTATIONS][name]["weight_quantizer"]
      turned = by_hand.rotated(np.asarray(z), **jax.tree.map(np.asarray, own))
      length = np.sqrt((turned**2).sum((0, 1, 2)))
      cosine = np.abs(turned).sum((0, 1, 2)) / length / np.sqrt(54)
      return np.degrees(np.arccos(cosine)).mean()

    assert angle(fresh) < angle(variables) - 3


def test_rbnn_needs_its_rotations():
  method, variables = initial("rbnn")
  with pytest.raises(Exception, match=nn.ROTATIONS):
    Network(method).apply(
      {k: v for k, v in variables.items() if k != nn.ROTATIONS}, IMAGES
    )


# RBONN


@pytest.mark.parametrize(
  ("outputs", "count"), [(64, 25), (128, 51), (256, 102), (512, 204)]
)
def test_rbonn_looks_back_at_two_fifths_of_the_channels(outputs, count):
  scale = jax.random.uniform(jax.random.key(outputs), (outputs,))
  latent = jax.random.normal(jax.random.key(1), (3, 3, 2, outputs))
  assert _rbonn.sparse_channels(outputs) == count
  code = _rbonn.code_mask(scale)
  assert code.sum() == count
  order = np.argsort(scale)
  np.testing.assert_array_equal(
    code, [order[j] < count for j in range(outputs)]
  )
  smallest = np.zeros(outputs, bool)
  smallest[order[:count]] = True
  assert np.any(code != smallest)  # it is not what the paper says
  paper = np.asarray(_rbonn.paper_mask(scale, latent))
  np.testing.assert_array_equal(
    paper, by_hand.paper_choice(np.asarray(latent), np.asarray(scale)) > 0
  )
  assert not np.any(paper & ~smallest) and 0 < paper.sum() < count


def test_rbonn_code_remembers_the_gradient_and_steps_along_it():
  method, variables = initial("rbonn")
  params, view = variables["params"], method.view
  seen = view.apply(params, view.init(params), 0.5)
  jax.tree.map(np.testing.assert_array_equal, seen, params)  # nothing yet
  gradient = jax.tree.map(lambda w: w + 1, params)
  memory = view.remember(params, gradient)
  assert jax.tree.structure(memory) == jax.tree.structure(view.init(params))
  assert len(jax.tree.leaves(memory)) == 2  # of the latent weights alone
  seen = view.apply(params, memory, 0.5)
  for name, w in latents(params).items():
    own = params[name]["weight_quantizer"]
    mask = _rbonn.code_mask(jnp.abs(own["gamma"]))
    np.testing.assert_allclose(
      seen[name]["latent"], w - 0.2 * mask * (w + 1), rtol=1e-6
    )
  assert not view.overwrite


def test_rbonn_paper_remembers_the_weights_and_goes_on_from_the_view():
  method, variables = initial("rbonn", variant="paper")
  params, view = variables["params"], method.view
  memory = view.remember(params, jax.tree.map(jnp.zeros_like, params))
  moved = jax.tree.map(lambda w: w + 1, params)
  seen = view.apply(moved, memory, 0.5)
  chosen = 0
  for name, w in latents(params).items():
    mask = by_hand.paper_choice(
      np.asarray(w), np.asarray(params[name]["weight_quantizer"]["gamma"])
    )
    chosen += mask.sum()
    u = moved[name]["weight_quantizer"]["u"]
    np.testing.assert_allclose(
      seen[name]["latent"], w + 1 + u * mask * w, rtol=1e-5, atol=1e-6
    )
  assert view.overwrite and chosen > 0


@pytest.mark.parametrize("variant", ("code", "paper"))
def test_rbonn_learns_u_at_a_tenth_and_the_paper_keeps_it_positive(variant):
  method, variables = initial("rbonn", variant=variant)
  params = variables["params"]
  updates = jax.tree.map(lambda w: -jnp.ones_like(w), params)
  updates["conv1"]["weight_quantizer"]["u"] *= 5
  ours, _ = method.tail.update(updates, method.tail.init(params), params)
  new = optax.apply_updates(params, ours)
  own, old = (tree["conv1"]["weight_quantizer"] for tree in (new, params))
  u, gamma = 0.2 - 0.5, old["gamma"] - 1
  if variant == "paper":
    u, gamma = abs(u), abs(gamma)
  np.testing.assert_allclose(own["u"], u, rtol=1e-5)
  np.testing.assert_allclose(own["gamma"], gamma, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    new["conv1"]["latent"], params["conv1"]["latent"] - 1, atol=1e-6
  )
