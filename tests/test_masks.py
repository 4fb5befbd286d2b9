"""Which leaves are binary: patterns, the default, and loud failures."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ovsw_jax import optax as ovsw_optax
from ovsw_jax.optax import _masks

TRANSFORMS = {
  "ags": ovsw_optax.ags,
  "sad": ovsw_optax.sad,
  "sign_flips": ovsw_optax.sign_flips,
}


class Net(nnx.Module):
  """A binary weight and a full-precision layer."""

  def __init__(self, rngs):
    self.latent = nnx.Param(jax.random.normal(rngs.params(), (4, 4)))
    self.head = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, x):
    return self.head(x @ self.latent[...])


def _params():
  return {
    "conv": {"latent": jnp.ones((3, 3, 2, 4)), "scale": jnp.ones(4)},
    "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
    "latents": jnp.ones((2, 2)),
  }


def _chosen(mask):
  flat = jax.tree_util.tree_leaves_with_path(mask)
  return [_masks.path_name(path) for path, leaf in flat if leaf]


def test_default_pattern_is_the_whole_last_name():
  assert _chosen(ovsw_optax.binary_mask()(_params())) == ["conv/latent"]


def test_pattern_is_searched_over_joined_paths():
  mask = ovsw_optax.binary_mask(r"^conv/|kernel$")
  assert _chosen(mask(_params())) == [
    "conv/latent",
    "conv/scale",
    "head/kernel",
  ]


def test_default_prefers_latent_then_matrices_then_everything():
  params = _params()
  assert _chosen(ovsw_optax.default_mask(params)) == ["conv/latent"]
  del params["conv"]["latent"]
  params["steps"] = jnp.zeros((2, 2), jnp.int32)
  assert _chosen(ovsw_optax.default_mask(params)) == ["head/kernel", "latents"]
  vectors = {"a": jnp.ones(3), "b": jnp.ones(())}
  assert _chosen(ovsw_optax.default_mask(vectors)) == ["a", "b"]


def test_nnx_paths_read_like_linen_paths():
  state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
  assert _chosen(ovsw_optax.default_mask(state)) == ["latent"]
  mask = ovsw_optax.binary_mask("kernel$")
  assert _chosen(mask(state)) == ["head/kernel"]


def test_no_match_lists_the_paths_it_saw():
  with pytest.raises(
    ValueError,
    match=r"'weight\$' matches none of the 5 "
    r"leaves `conv/latent`, `conv/scale`, .*`latents`; pass",
  ):
    ovsw_optax.binary_mask("weight$")(_params())


def test_long_lists_are_cut_and_counted():
  params = {f"layer{i:02}": jnp.ones((2, 2)) for i in range(50)}
  with pytest.raises(ValueError, match=r"`layer19` and 30 more;") as error:
    ovsw_optax.binary_mask("weight$")(params)
  assert "layer20" not in str(error.value)


@pytest.mark.parametrize("pattern", ["(latent", 3])
def test_pattern_must_be_a_regular_expression(pattern):
  with pytest.raises(ValueError, match=r"`pattern` is .* not a regular"):
    ovsw_optax.binary_mask(pattern)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_unselected_leaves_pass_unchanged_and_without_state(name):
  params = _params()
  grads = jax.tree.map(lambda p: 1e-6 * p, params)
  tx = TRANSFORMS[name]()
  updates, state = tx.update(grads, tx.init(params), params)
  for layer, leaf in [("conv", "scale"), ("head", "kernel"), ("head", "bias")]:
    assert updates[layer][leaf] is grads[layer][leaf]
  shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
  assert shapes <= {(), (4,), (3, 3, 2, 4)}  # of a leaf, a filter, a weight


@pytest.mark.parametrize("name", TRANSFORMS)
def test_mask_may_be_a_tree_a_prefix_or_a_function(name):
  params = _params()
  tree = jax.tree.map(lambda _: False, params) | {"conv": True}
  states = [
    TRANSFORMS[name](mask=mask).init(params)
    for mask in (tree, lambda _: tree, ovsw_optax.binary_mask("^conv/"))
  ]
  for state in states[1:]:
    assert jax.tree.structure(state) == jax.tree.structure(states[0])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_mask_that_selects_nothing_is_an_error(name):
  mask = lambda params: jax.tree.map(lambda _: False, params)
  tx = TRANSFORMS[name](mask=mask)
  with pytest.raises(
    ValueError, match=rf"{name}: `mask` selects none of the 5"
  ):
    tx.init(_params())


def test_mask_of_another_tree_is_an_error():
  tx = ovsw_optax.ags(mask={"conv": True})
  with pytest.raises(ValueError, match=r"tree of `mask` does not fit.*`head/"):
    tx.init(_params())


def test_mask_must_hold_booleans():
  mask = jax.tree.map(lambda _: True, _params()) | {"latents": "yes"}
  with pytest.raises(ValueError, match=r"`mask` is 'yes' at `latents`"):
    ovsw_optax.sad(mask=mask).init(_params())


def test_selection_is_logged_once(caplog):
  params = {"only_here": {"latent": jnp.ones((2, 2))}, "bias": jnp.ones(2)}
  with caplog.at_level(logging.INFO, logger="ovsw_jax"):
    tx = ovsw_optax.ags()
    state = tx.init(params)
    tx.update(params, state, params)
    tx.init(params)
  messages = [r.getMessage() for r in caplog.records if r.name == "ovsw_jax"]
  assert messages == ["ags acts on 1 of 2 leaves: `only_here/latent`"]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_missing_params_are_one_clear_error(name):
  tx = TRANSFORMS[name]()
  params = jnp.ones((2, 2))
  with pytest.raises(ValueError, match=rf"`{name}`, a transformation that req"):
    tx.update(params, tx.init(params))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_trees_that_differ_name_the_leaf(name):
  tx, params = TRANSFORMS[name](), _params()
  state = tx.init(params)
  lacking = {k: v for k, v in params.items() if k != "head"}
  with pytest.raises(ValueError, match=r"`head/bias` is only in the parameter"):
    tx.update(lacking, state, params)
  with pytest.raises(ValueError, match=r"`head/bias` is only in the updates"):
    tx.update(params, state, lacking)
  with pytest.raises(
    ValueError, match=rf"{name}: at `latents` the updates hol"
  ):
    tx.update(params | {"latents": {"a": jnp.ones(2)}}, state, params)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_shapes_that_differ_name_the_leaf_and_both_shapes(name):
  tx, params = TRANSFORMS[name](), _params()
  updates = params | {"latents": jnp.ones((2, 3))}
  with pytest.raises(
    ValueError, match=r"`latents` .* shape \(2, 3\) .* parameter \(2, 2\)"
  ):
    tx.update(updates, tx.init(params), params)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_none_and_masked_nodes_in_trees(name):
  params = {"latent": jnp.ones((2, 2)), "none": None, "frozen": jnp.ones(2)}
  grads = {"latent": jnp.ones((2, 2)), "none": None, "frozen": None}
  tx = TRANSFORMS[name]()
  updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  assert updates["none"] is None
  assert updates["frozen"] is None
  outer = optax.masked(tx, {"latent": True, "none": None, "frozen": False})
  outer.update(params, outer.init(params), params)
  with pytest.raises(ValueError, match=r"at `latent` the updates hold None"):
    tx.update(grads | {"latent": None}, tx.init(params), params)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_nnx_state_and_optimizer_agree_with_a_plain_dict(name):
  net = Net(nnx.Rngs(0))
  x = jnp.ones((3, 4))
  loss = lambda net: jnp.mean(jnp.square(net(x) - 1.0))
  tx = optax.chain(TRANSFORMS[name](), optax.sgd(0.1))
  params = nnx.to_pure_dict(nnx.state(net, nnx.Param))
  state = tx.init(params)
  optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)
  for _ in range(3):
    grads = nnx.grad(loss)(net)
    pure = nnx.to_pure_dict(grads)
    updates, state = tx.update(pure, state, params)
    params = optax.apply_updates(params, updates)
    optimizer.update(net, grads)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    nnx.to_pure_dict(nnx.state(net, nnx.Param)),
    params,
  )
  tree = nnx.state(net, nnx.Param)
  updates, _ = tx.update(tree, tx.init(tree), tree)
  assert jax.tree.structure(updates) == jax.tree.structure(tree)
