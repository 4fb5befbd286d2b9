"""`project`: a set that parameters stay in, and what Optax asks of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import optax as transforms

CLIP = lambda w: jnp.clip(w, -1, 1)


def params(dtype=jnp.float32):
  key = jax.random.key(0)
  return {
    "conv": {"latent": jax.random.normal(key, (3, 3, 2, 8), dtype)},
    "bias": jnp.full(8, 3.0, dtype),
  }


def test_latent_weights_stay_in_the_set_and_others_do_not():
  tx = optax.chain(optax.sgd(0.5), transforms.project(CLIP))
  tree = params()
  grads = jax.tree.map(lambda w: -w, tree)
  free = optax.apply_updates(tree, jax.tree.map(lambda g: -0.5 * g, grads))
  updates, _ = jax.jit(tx.update)(grads, tx.init(tree), tree)
  new = optax.apply_updates(tree, updates)
  np.testing.assert_allclose(
    new["conv"]["latent"], CLIP(free["conv"]["latent"]), atol=1e-6
  )
  np.testing.assert_array_equal(new["bias"], free["bias"])
  assert np.abs(free["conv"]["latent"]).max() > 1.5


@pytest.mark.parametrize(
  "dtype", (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
)
def test_dtypes_are_kept_and_a_second_call_does_not_retrace(dtype, x64):
  tx = transforms.project(CLIP)
  tree = params(dtype)
  update = jax.jit(tx.update)
  for _ in range(2):
    updates, state = update(tree, tx.init(tree), tree)
  assert update._cache_size() == 1 and not jax.tree.leaves(state)
  dtypes = lambda tree: jax.tree.map(lambda leaf: leaf.dtype, tree)
  assert dtypes(updates) == dtypes(tree)


def test_it_projects_where_there_is_no_update_and_only_once():
  tx = transforms.project(CLIP)
  tree = params()
  zeros = jax.tree.map(jnp.zeros_like, tree)
  updates, state = tx.update(zeros, tx.init(tree), tree)
  new = optax.apply_updates(tree, updates)
  again, _ = tx.update(zeros, state, new)
  np.testing.assert_allclose(again["conv"]["latent"], 0, atol=1e-6)


def test_it_works_under_scan_and_masked():
  tx = optax.chain(
    optax.sgd(0.1),
    transforms.project(CLIP, mask=transforms.binary_mask("bias")),
  )
  tree = params()

  def step(carry, _):
    tree, state = carry
    updates, state = tx.update(tree, state, tree, unknown=1)
    return (optax.apply_updates(tree, updates), state), None

  (end, _), _ = jax.lax.scan(step, (tree, tx.init(tree)), length=3)
  np.testing.assert_allclose(end["bias"], 0.81, rtol=1e-5)


def test_it_wants_parameters_and_something_to_project():
  tx = transforms.project(CLIP)
  tree = params()
  with pytest.raises(ValueError, match=r"`project`.*`params`"):
    tx.update(tree, tx.init(tree))
  nothing = transforms.project(CLIP, mask=lambda tree: False)
  with pytest.raises(ValueError, match=r"project: `mask` selects none"):
    nothing.update(tree, nothing.init(tree), tree)
