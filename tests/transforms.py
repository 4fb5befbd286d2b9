"""Our transformations by name, small trees, and how to compare them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import optax as ovsw_optax

TRANSFORMS = {
  "ags": ovsw_optax.ags,
  "sad": ovsw_optax.sad,
  "ovsw": ovsw_optax.ovsw,
  "sign_flips": ovsw_optax.sign_flips,
}
TRANSFORMS |= {
  f"{name} compact": functools.partial(TRANSFORMS[name], state="compact")
  for name in ("sad", "ovsw", "sign_flips")
}
# What a compact state has to know beforehand.
STATIC = {
  "sad compact": ("momentum", "threshold", "init_value"),
  "ovsw compact": ("momentum", "threshold"),
}
every_transform = pytest.mark.parametrize("name", TRANSFORMS)


def inject(name, static=(), **kwargs):
  return optax.inject_hyperparams(
    TRANSFORMS[name], static_args=(*static, *STATIC.get(name, ())), **kwargs
  )


def make_params(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(1))
  return {
    "conv": {"latent": jax.random.normal(keys[0], (3, 3, 2, 8), dtype)},
    "fc": {"latent": jax.random.normal(keys[1], (16, 8), dtype)},
    "bias": jnp.zeros(8, dtype),
  }


def make_grads(params, step=0):
  # Small, so that ags acts on some filters and leaves others.
  return jax.tree.map(
    lambda p: (
      0.04 * p * jnp.cos(step + jnp.arange(p.shape[-1])).astype(p.dtype)
    ),
    params,
  )


def types_of(tree):
  return jax.tree.map(jax.typeof, tree)


def assert_close(a, b, rtol=1e-6, atol=1e-7):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      np.asarray(x, float), np.asarray(y, float), rtol=rtol, atol=atol
    ),
    a,
    b,
  )


def train(tx, params, grads):
  """Parameters and state after SGD along a list of gradients."""
  tx = optax.chain(tx, optax.sgd(0.5, momentum=0.9))
  state = tx.init(params)
  for g in grads:
    updates, state = tx.update(g, state, params)
    params = optax.apply_updates(params, updates)
  return params, state
