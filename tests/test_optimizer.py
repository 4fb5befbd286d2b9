"""The chain's order, its decay groups, and its arithmetic against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax.optax import ovsw
from ovsw_jax.training import optimizer

PARAMS = {
  "conv": {"latent": np.array([[0.5, -2.0], [0.25, 1.0]], np.float32)},
  "norm": {"scale": np.array([1.0, 3.0], np.float32)},
}
GRADS = {
  "conv": {"latent": np.array([[1e-3, 1.0], [2e-3, -1.0]], np.float32)},
  "norm": {"scale": np.array([0.5, -0.5], np.float32)},
}


def run(tx, steps=1, params=PARAMS, grads=GRADS):
  params = jax.tree.map(jnp.asarray, params)
  state = tx.init(params)
  for _ in range(steps):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def close(actual, expected, **kwargs):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, **kwargs), actual, expected
  )


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torch_sgd(nesterov):
  lr, mu, decay = 0.1, 0.9, 0.01
  tx = optimizer.make(
    "sgd", lr, momentum=mu, nesterov=nesterov, weight_decay=decay
  )
  actual, _ = run(tx, steps=3)

  def torch(w, g):
    v = np.zeros_like(w)
    for _ in range(3):
      d = g + decay * w
      v = mu * v + d
      w = w - lr * (d + mu * v if nesterov else v)
    return w

  close(actual, jax.tree.map(torch, PARAMS, GRADS), rtol=1e-6)


def test_decay_spares_vectors_when_told_to():
  zeros = jax.tree.map(np.zeros_like, GRADS)
  make = lambda **kwargs: optimizer.make("sgd", 1.0, weight_decay=0.1, **kwargs)
  everything, _ = run(make(), grads=zeros)
  spared, _ = run(make(decay_1d=False), grads=zeros)
  close(everything, jax.tree.map(lambda w: 0.9 * w, PARAMS), rtol=1e-6)
  close(spared["conv"], everything["conv"])
  np.testing.assert_array_equal(spared["norm"]["scale"], [1.0, 3.0])


def test_decay_takes_the_paths_it_is_told():
  zeros = jax.tree.map(np.zeros_like, GRADS)
  make = lambda **kwargs: optimizer.make("sgd", 1.0, weight_decay=0.1, **kwargs)
  decayed = jax.tree.map(lambda w: 0.9 * w, PARAMS)
  scales, _ = run(make(decay_paths="scale$"), grads=zeros)
  close(scales["norm"]["scale"], decayed["norm"]["scale"], rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, scales["conv"], PARAMS["conv"])
  both, _ = run(make(decay_paths="conv|scale", decay_1d=False), grads=zeros)
  close(both["conv"], decayed["conv"], rtol=1e-6)
  np.testing.assert_array_equal(both["norm"]["scale"], [1.0, 3.0])
  with pytest.raises(ValueError, match="matches none"):
    run(make(decay_paths="nothing"))


def test_ovsw_sees_neither_decay_nor_momentum():
  """AGS scales the loss's gradient; decay joins what SAD hands on."""
  transform = ovsw(0.04, 9e-4)
  tx = optimizer.make(
    "sgd", 1.0, momentum=0.0, weight_decay=0.5, transform=transform
  )
  after, _ = run(tx)
  params = jax.tree.map(jnp.asarray, PARAMS)
  scaled, _ = transform.update(GRADS, transform.init(params), params)
  close(
    after,
    jax.tree.map(lambda w, g: w - (g + 0.5 * w), PARAMS, scaled),
    rtol=1e-6,
  )
  # The test means something only if the method changed the gradient.
  changed = scaled["conv"]["latent"] - GRADS["conv"]["latent"]
  assert np.abs(changed).max() > 1e-4


def test_clipping_comes_before_the_method():
  """Clipped first, a gradient is lifted back by AGS: the last word is AGS's."""
  large = jax.tree.map(lambda g: 1e6 * g, GRADS)
  tx = optimizer.make(
    "sgd", 1.0, momentum=0.0, clip_norm=1e-3, transform=ovsw(0.04, 0.0)
  )
  after, _ = run(tx, grads=large)
  step = PARAMS["conv"]["latent"] - after["conv"]["latent"]
  ratio = np.linalg.norm(step, axis=0) / np.linalg.norm(
    PARAMS["conv"]["latent"], axis=0
  )
  np.testing.assert_allclose(ratio, 0.04, rtol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_couples_decay_and_adamw_does_not(name):
  tx = optimizer.make(name, 0.1, weight_decay=0.2)
  actual, _ = run(tx, steps=3)
  if name == "adamw":
    expected, _ = run(optax.adamw(0.1, weight_decay=0.2), steps=3)
  else:
    coupled = optax.chain(optax.add_decayed_weights(0.2), optax.adam(0.1))
    expected, _ = run(coupled, steps=3)
  close(actual, expected, rtol=1e-6)


def test_statistics_are_read_by_name():
  _, state = run(optimizer.make("sgd", 100.0, transform=ovsw()), steps=2)
  for name in ("flip_rate", "silent_fraction", "never_flipped_fraction"):
    assert 0.0 <= float(optax.tree.get(state, name)) <= 1.0
  # Such a rate turns the first column over, whose signs the gradient opposes.
  assert float(optax.tree.get(state, "flip_rate")) == 0.5
  assert jax.tree.leaves(optax.tree.get(state, "ags_ratio"))


def test_full_precision_has_no_flip_statistics():
  real = {"conv": {"kernel": jnp.ones((2, 2))}}
  _, state = run(
    optimizer.make("sgd", 0.1, binary=False), params=real, grads=real
  )
  assert optax.tree.get(state, "flip_rate") is None


def test_unknown_name_lists_the_known():
  with pytest.raises(ValueError, match=r"'sdg'.*sgd, adam, adamw"):
    optimizer.make("sdg", 0.1)


def test_binary_without_latent_weights_is_an_error():
  tx = optimizer.make("sgd", 0.1)
  with pytest.raises(ValueError, match="kernel"):
    tx.init({"conv": {"kernel": jnp.ones((2, 2))}})
