"""Counting of sign flips beside any optimizer."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import optax as ovsw_optax


def _walk(tx, trajectory):
  """The states after updates at each of the parameters of a trajectory."""
  state, states = tx.init(trajectory[0]), []
  for params in trajectory:
    _, state = tx.update(params, state, params)
    states.append(state)
  return states


def test_passes_updates_through_untouched():
  params = {"latent": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}
  tx = ovsw_optax.sign_flips()
  updates, _ = tx.update(params, tx.init(params), params)
  assert updates["latent"] is params["latent"]
  assert updates["bias"] is params["bias"]


def test_fresh_state_has_no_flips():
  state = ovsw_optax.sign_flips().init(jnp.ones((2, 3)))
  assert optax.tree.get(state, "flip_rate") == 0.0
  assert optax.tree.get(state, "never_flipped_fraction") == 1.0
  assert optax.tree.get(state, "flips").dtype == jnp.int32


def test_matches_a_count_by_hand():
  rng = np.random.default_rng(0)
  trajectory = rng.normal(size=(20, 7, 5)).astype(np.float32)
  trajectory[:, 0] = np.abs(trajectory[:, 0])
  states = _walk(ovsw_optax.sign_flips(), list(map(jnp.asarray, trajectory)))
  signs = trajectory >= 0
  flipped = signs != np.concatenate([signs[:1], signs[:-1]])
  for step, state in enumerate(states):
    flips = flipped[: step + 1].sum(axis=0)
    np.testing.assert_array_equal(optax.tree.get(state, "flips"), flips)
    np.testing.assert_allclose(
      optax.tree.get(state, "flip_rate"), flipped[step].mean(), rtol=1e-6
    )
    np.testing.assert_allclose(
      optax.tree.get(state, "never_flipped_fraction"),
      (flips == 0).mean(),
      rtol=1e-6,
    )
  # The first row never changed sign.
  assert optax.tree.get(states[-1], "never_flipped_fraction") >= 1 / 7


def test_per_leaf_and_total_weighted_by_size():
  old = {"a": jnp.ones((3, 3)), "b": jnp.ones((1, 1))}
  new = {"a": old["a"], "b": -old["b"]}
  state = _walk(ovsw_optax.sign_flips(), [old, new])[-1]
  np.testing.assert_allclose(optax.tree.get(state, "flip_rate"), 0.1)
  np.testing.assert_allclose(
    optax.tree.get(state, "never_flipped_fraction"), 0.9
  )
  rates = optax.tree.get(state, "flip_rate_per_leaf")
  never = optax.tree.get(state, "never_flipped_fraction_per_leaf")
  assert (rates["a"], rates["b"]) == (0.0, 1.0)
  assert (never["a"], never["b"]) == (1.0, 0.0)


def test_negative_zero_and_zero_are_positive():
  start = jnp.array([[1.0, 1.0, -1.0]])
  new = jnp.array([[0.0, -0.0, -0.0]])
  state = _walk(ovsw_optax.sign_flips(), [start, new])[-1]
  np.testing.assert_array_equal(optax.tree.get(state, "flips"), [[0, 0, 1]])


@pytest.mark.parametrize("optimizer", [optax.sgd(0.5), optax.adam(0.5)])
def test_sees_what_the_optimizer_did_one_step_before(optimizer):
  params = jnp.array([[0.3, 2.0]])
  tx = optax.chain(optimizer, ovsw_optax.sign_flips())
  state, rates = tx.init(params), []
  for _ in range(3):
    updates, state = jax.jit(tx.update)(jnp.ones((1, 2)), state, params)
    params = optax.apply_updates(params, updates)
    rates.append(optax.tree.get(state, "flip_rate").item())
  assert rates == [0.0, 0.5, 0.0]


@pytest.mark.parametrize("state", ["full", "compact"])
def test_leaves_without_weights_count_as_none(state):
  shapes = [(4, 0), (0, 4), (0,), (4, 2)]
  params = [jnp.ones(shape) for shape in shapes]
  tx = ovsw_optax.sign_flips(state=state, mask=[True] * len(shapes))
  _, opt_state = tx.update(params, tx.init(params), [-p for p in params])
  assert optax.tree.get(opt_state, "flip_rate") == 1.0
  assert optax.tree.get(opt_state, "never_flipped_fraction") == 0.0


def test_all_statistics_of_a_full_chain_have_names_of_their_own():
  params = {"latent": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
  tx = optax.chain(
    ovsw_optax.ovsw(lambda count: 0.04, lambda count: 1e-3),
    ovsw_optax.sign_flips(),
    optax.adamw(optax.cosine_decay_schedule(0.1, 10)),
  )
  state = tx.init(params)
  names = [
    name
    for cls in (
      ovsw_optax.AGSState,
      ovsw_optax.SADState,
      ovsw_optax.SignFlipsState,
    )
    for name in cls._fields
  ]
  assert len(names) == len(set(names)) == 15
  missing = object()
  for name in names:
    # tree.get raises KeyError where a name occurs twice.
    assert optax.tree.get(state, name, missing) is not missing


@pytest.mark.parametrize("shape", [(70_000,), (70_000, 2), (3, 3, 64, 8)])
@pytest.mark.parametrize("state", ["full", "compact"])
def test_fractions_of_long_leaves_are_exact(shape, state):
  """More than 2**16 weights of a channel, and layers that fill whole words."""
  signs = jax.random.rademacher(jax.random.key(0), (3, *shape), jnp.float32)
  tx = ovsw_optax.sign_flips(state=state)
  opt_state = tx.init(signs[0])
  ever, update = np.zeros(shape, bool), jax.jit(tx.update)
  _, opt_state = update(signs[0], opt_state, signs[0])
  assert optax.tree.get(opt_state, "never_flipped_fraction") == 1
  for before, now in itertools.pairwise(signs):
    _, opt_state = update(now, opt_state, now)
    flipped = np.asarray(before != now)
    ever |= flipped
    for name, expected in (
      ("flip_rate", flipped),
      ("never_flipped_fraction", ~ever),
    ):
      share = optax.tree.get(opt_state, name)
      assert round(float(share) * ever.size) == expected.sum()
