"""Every transformation on several devices."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.transforms import (
  TRANSFORMS,
  assert_close,
  every_transform,
  make_grads,
  make_params,
  types_of,
)

every_mesh = pytest.mark.parametrize("kind", ["Explicit", "Auto"])


@every_transform
@every_mesh
def test_state_is_sharded_like_the_parameters(name, kind):
  axis_types = (getattr(jax.sharding.AxisType, kind),)
  mesh = jax.make_mesh((8,), ("x",), axis_types=axis_types)
  sharding = jax.NamedSharding(mesh, jax.P(None, None, None, "x"))
  tx = TRANSFORMS[name]()
  host = make_params()["conv"]["latent"]
  updates, expected = tx.update(host * 1e-3, tx.init(host), host)
  with jax.set_mesh(mesh):
    params = jax.device_put(host, sharding)
    grads = params * 1e-3
    eager, jitted = tx.init(params), jax.jit(tx.init)(params)
    sharded_updates, after = jax.jit(tx.update)(grads, jitted, params)
    _, after_eager = tx.update(grads, eager, params)
    assert types_of(eager) == types_of(jitted) == types_of(after)
    assert types_of(after) == types_of(after_eager)
    for state in (eager, jitted, after, after_eager):
      for leaf in jax.tree.leaves(state):
        of_weights, of_filters = leaf.ndim == 4, leaf.ndim == 1
        assert of_weights or of_filters or not leaf.ndim
        if leaf.ndim:
          like = sharding if of_weights else jax.NamedSharding(mesh, jax.P("x"))
          assert leaf.sharding.is_equivalent_to(like, leaf.ndim)
    assert sharded_updates.sharding.is_equivalent_to(sharding, 4)
  assert_close(sharded_updates, updates)
  assert_close(after, expected)


@every_transform
@every_mesh
@pytest.mark.parametrize(
  ("shape", "spec"),
  [
    ((64,), ("x",)),
    ((64, 4), ("x", None)),
    ((3, 3, 64, 4), (None, None, "x", None)),
  ],
)
def test_what_is_summed_over_may_be_sharded(name, kind, shape, spec):
  axis_types = (getattr(jax.sharding.AxisType, kind),)
  mesh = jax.make_mesh((8,), ("x",), axis_types=axis_types)
  tx = TRANSFORMS[name]()
  host = jax.random.normal(jax.random.key(0), shape)
  expected = tx.update(host * 1e-3, tx.init(host), host)
  with jax.set_mesh(mesh):
    params = jax.device_put(host, jax.NamedSharding(mesh, jax.P(*spec)))
    found = jax.jit(tx.update)(params * 1e-3, tx.init(params), params)
  assert_close(found, expected)


@every_transform
def test_state_types_are_stable_without_a_mesh_in_context(name):
  mesh = jax.make_mesh((8,), ("x",))
  sharding = jax.NamedSharding(mesh, jax.P(None, "x"))
  tx = TRANSFORMS[name]()
  params = jax.device_put(jnp.ones((2, 8, 4), jnp.float16), sharding)
  state = tx.init(params)
  _, eager = tx.update(params, state, params)
  _, jitted = jax.jit(tx.update)(params, state, params)
  assert types_of(state) == types_of(eager) == types_of(jitted)


@every_transform
@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_replicas_with_averaged_gradients_give_the_jit_result(name, how):
  params = make_params()
  tx = optax.chain(TRANSFORMS[name](), optax.sgd(0.5, momentum=0.9))
  scales = jnp.linspace(0.0, 2.0, 8)

  def step(params, state, scale, axis):
    grads = jax.tree.map(lambda g: g * scale.reshape(()), make_grads(params))
    if axis:
      grads = jax.lax.pmean(grads, axis)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  def steps(params, scale, axis):
    state = tx.init(params)
    for _ in range(3):
      params, state = step(params, state, scale, axis)
    return params, state

  expected = jax.jit(lambda p: steps(p, scales.mean(), None))(params)
  if how == "pmap":
    run = jax.pmap(
      lambda p, s: steps(p, s, "i"), axis_name="i", in_axes=(None, 0)
    )
    replicas = run(params, scales)
    for pick in (lambda x: x[0], lambda x: x[7]):
      assert_close(jax.tree.map(pick, replicas), expected, rtol=1e-5)
  else:
    mesh = jax.make_mesh((8,), ("i",))
    run = jax.shard_map(
      lambda p, s: steps(p, s, "i"),
      mesh=mesh,
      in_specs=(jax.P(), jax.P("i")),
      out_specs=jax.P(),
    )
    scales = jax.device_put(scales, jax.NamedSharding(mesh, jax.P("i")))
    assert_close(jax.jit(run)(params, scales), expected, rtol=1e-5)
