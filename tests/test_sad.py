"""Silence-aware decaying: its invariants, the order, then golden vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import optax as ovsw_optax


def test_first_update_is_all_silent_and_penalises_all():
  params = jnp.array([[1.0, -2.0], [0.0, 3.0]])
  grads = jnp.ones_like(params)
  tx = ovsw_optax.sad(0.5)
  updates, state = tx.update(grads, tx.init(params), params)
  np.testing.assert_array_equal(updates, grads + 0.5 * params)
  assert optax.tree.get(state, "silent_fraction") == 1.0
  np.testing.assert_array_equal(optax.tree.get(state, "flip_ema"), 0.0)


def test_signs_start_as_those_given_to_init():
  params = jnp.array([1.0, -2.0, 3.0])
  tx = ovsw_optax.sad(mask=lambda p: True)
  _, state = tx.update(params, tx.init(-params), params)
  assert optax.tree.get(state, "silent_fraction") == 0.0


def test_zero_has_the_sign_of_a_positive_weight():
  tx = ovsw_optax.sad()
  state = tx.init(jnp.array([[1.0, -1.0]]))
  zero = jnp.zeros((1, 2))
  _, state = tx.update(zero, state, zero)
  np.testing.assert_array_equal(
    optax.tree.get(state, "flip_ema") > 0, [[False, True]]
  )
  np.testing.assert_array_equal(optax.tree.get(state, "positive"), True)


def _silent_after(tx, signs_of_first_step, steps):
  """The silent fraction of one weight over `steps` updates, in a scan."""
  params = jnp.ones((1, 1))
  state = tx.init(params)
  _, state = tx.update(params, state, signs_of_first_step * params)

  def step(state, _):
    _, state = tx.update(params, state, signs_of_first_step * params)
    return state, optax.tree.get(state, "silent_fraction")

  first = optax.tree.get(state, "silent_fraction")
  _, rest = jax.lax.scan(step, state, length=steps - 1)
  return np.concatenate([np.asarray(first)[None], rest])


def test_one_flip_keeps_a_weight_from_silence_for_2302_updates():
  silent = _silent_after(ovsw_optax.sad(), -1.0, 2400)
  np.testing.assert_array_equal(silent[:2302], 0.0)
  np.testing.assert_array_equal(silent[2302:], 1.0)


def test_init_value_one_delays_silence_to_update_9206():
  silent = _silent_after(ovsw_optax.sad(init_value=1.0), 1.0, 9300)
  np.testing.assert_array_equal(silent[:9205], 0.0)
  np.testing.assert_array_equal(silent[9205:], 1.0)


def test_silence_is_strictly_below_the_threshold():
  # The second weight flips once: average 0.5, which is not below 0.5.
  tx = ovsw_optax.sad(1.0, momentum=0.5, threshold=0.5)
  state = tx.init(jnp.array([[1.0, 1.0]]))
  params = jnp.array([[1.0, -1.0]])
  updates, _ = tx.update(jnp.zeros_like(params), state, params)
  np.testing.assert_array_equal(updates, [[1.0, 0.0]])


def test_zero_threshold_silences_nothing():
  params = jnp.ones((2, 2))
  tx = ovsw_optax.sad(threshold=0.0)
  updates, state = tx.update(params, tx.init(params), params)
  np.testing.assert_array_equal(updates, params)
  assert optax.tree.get(state, "silent_fraction") == 0.0


def test_total_weighs_leaves_by_size_and_counts_exactly():
  # 2**24 + 3 weights of which three flip: float32 sums of ones stop at 2**24.
  old = {"a": jnp.ones((2**22, 4)), "b": jnp.ones((1, 3))}
  new = {"a": old["a"], "b": -old["b"]}
  tx = ovsw_optax.sad()
  _, state = jax.jit(tx.update)(old, tx.init(old), new)
  silent = optax.tree.get(state, "silent_fraction")
  assert silent == np.float32(2**24) / np.float32(2**24 + 3)
  each = optax.tree.get(state, "silent_fraction_per_leaf")
  assert (each["a"], each["b"]) == (1.0, 0.0)


@pytest.mark.parametrize("size", [41, 47, 83])
def test_all_silent_is_exactly_one_under_jit(size):
  # In float32, n * (1 / n) < 1 for these.
  params = jnp.ones((size, 1))
  tx = ovsw_optax.sad()
  _, state = jax.jit(tx.update)(params, tx.init(params), params)
  assert optax.tree.get(state, "silent_fraction") == 1.0
  assert optax.tree.get(state, "silent_fraction_per_leaf") == 1.0


def test_average_is_float32_for_half_precision_weights():
  params = jnp.ones((1, 1), jnp.bfloat16)
  tx = ovsw_optax.sad(momentum=0.999)
  state = tx.init(params)

  def step(carry, _):
    params, state = carry
    _, state = tx.update(params, state, params)
    return (-params, state), None

  (_, state), _ = jax.lax.scan(step, (-params, state), length=5000)
  # In bfloat16 an average of ones stalls at 0.5.
  np.testing.assert_allclose(
    optax.tree.get(state, "flip_ema"), 1 - 0.999**5000, rtol=1e-3
  )


def test_hyperparameters_may_be_schedules():
  params = jnp.ones((1, 1))
  tx = ovsw_optax.sad(
    weight=lambda count: 1.0 + count,
    momentum=lambda count: 0.9,
    threshold=lambda count: jnp.where(count < 2, 1e-4, 0.0),
  )
  state, seen = tx.init(params), []
  for _ in range(3):
    updates, state = jax.jit(tx.update)(jnp.zeros((1, 1)), state, params)
    seen.append(updates.item())
  assert seen == [1.0, 2.0, 0.0]
  assert optax.tree.get(state, "sad_count") == 3


def test_ags_does_not_see_the_penalty_and_momentum_does():
  params, grads = jnp.full((4, 1), 2.0), jnp.full((4, 1), 1e-3)
  tx = optax.chain(
    ovsw_optax.ovsw(delta=0.1, weight=0.5), optax.trace(decay=0.9)
  )
  state = tx.init(params)
  # Lifted to 0.1 * |w|, then the penalty on top.
  expected = 0.1 * 2.0 + 0.5 * 2.0
  updates, state = tx.update(grads, state, params)
  np.testing.assert_allclose(updates, expected, rtol=1e-6)
  updates, state = tx.update(grads, state, params)
  np.testing.assert_allclose(updates, 1.9 * expected, rtol=1e-6)
  # The other order: the penalty is large enough that nothing is lifted.
  swapped = optax.chain(ovsw_optax.sad(0.5), ovsw_optax.ags(0.1))
  updates, _ = swapped.update(grads, swapped.init(params), params)
  np.testing.assert_allclose(updates, 1e-3 + 0.5 * 2.0, rtol=1e-6)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("weight", -1e-4),
    ("weight", np.inf),
    ("momentum", 1.0),
    ("momentum", -0.1),
    ("momentum", np.nan),
    ("threshold", -1e-4),
    ("init_value", 1.5),
  ],
)
def test_wrong_value_is_one_clear_error(name, value):
  with pytest.raises(ValueError, match=rf"sad: `{name}` is .*; pass a number"):
    ovsw_optax.sad(**{name: value})
  if name != "init_value":
    with pytest.raises(ValueError, match=rf"sad: `{name}`"):
      ovsw_optax.ovsw(**{name: value})


def test_accumulator_must_be_floating_point():
  with pytest.raises(ValueError, match=r"`accumulator_dtype`.*jnp.float32"):
    ovsw_optax.sad(accumulator_dtype=jnp.int32)


def test_momentum_in_bfloat16_is_refused():
  tx = optax.inject_hyperparams(ovsw_optax.sad)(9e-4)
  params = jnp.ones((2, 2), jnp.bfloat16)
  with pytest.raises(ValueError, match=r"hyperparam_dtype=jnp.float32"):
    jax.jit(tx.init)(params)
  tx = optax.inject_hyperparams(ovsw_optax.sad, hyperparam_dtype=jnp.float32)(
    9e-4
  )
  assert optax.tree.get(tx.init(params), "silent_fraction") == 1.0


def _affected(weights):
  """Where the reference's third sign, of exact zeros, changes the history.

  From the first step at which the flips differ between sign(0) = 0 and
  sign(0) = +1, the moving averages differ.
  """
  three, two = np.sign(weights), np.where(weights >= 0, 1, -1)
  # The first call compares the weights with themselves.
  flips = [np.diff(s, axis=0, prepend=s[:1]) != 0 for s in (three, two)]
  return np.logical_or.accumulate(flips[0] != flips[1], axis=0)


def _golden_run(vectors, row, dtype, kept=np.s_[:]):
  momentum, threshold, weight, track_ones = row
  params = jnp.asarray(vectors["weights"][:, kept], dtype)
  grads = jnp.asarray(vectors["grads_in"][:, kept], dtype)
  tx = ovsw_optax.sad(
    weight, momentum, threshold, init_value=track_ones, accumulator_dtype=dtype
  )

  def step(state, inputs):
    updates, state = tx.update(inputs[0], state, inputs[1])
    fraction = optax.tree.get(state, "silent_fraction")
    return state, (updates, optax.tree.get(state, "flip_ema"), fraction)

  _, outputs = jax.lax.scan(step, tx.init(params[0]), (grads, params))
  return [np.asarray(x) for x in outputs]


def _check_golden(golden, dtype, name, rtol, atol):
  ulp = 2 * np.finfo(dtype).eps
  vectors = golden("sad")
  shape = vectors["weights"].shape
  affected = _affected(vectors["weights"])
  kept = ~affected.any(axis=0)
  # Left out: 205 of 6480 entries, of the 4 of 108 weights that rest on an exact
  # zero for a while.
  assert (affected.sum(), affected.size) == (205, 6480)
  assert ((~kept).sum(), kept.size) == (4, 108)
  for i, row in enumerate(vectors["cfg"]):
    expected = {
      key: vectors[f"cfg{i}/{name}/{key}"]
      for key in ("grads_out", "tracker", "silent_mask", "silent_fraction")
    }
    silent = np.unpackbits(expected["silent_mask"], axis=1, count=kept.size)
    silent = silent.reshape(shape).astype(bool)
    updates, ema, fraction = _golden_run(vectors, row, dtype)
    for ours, theirs in [(updates, "grads_out"), (ema, "tracker")]:
      np.testing.assert_allclose(
        ours[~affected], expected[theirs][~affected], rtol=rtol, atol=atol
      )
    threshold = row[1].astype(ema.dtype)
    np.testing.assert_array_equal(
      (ema < threshold)[~affected], silent[~affected]
    )
    before = ~affected.reshape(len(affected), -1).any(axis=1)
    np.testing.assert_allclose(
      fraction[before], expected["silent_fraction"][before], rtol=ulp
    )
    _, _, fraction = _golden_run(vectors, row, dtype, kept)
    share = silent[:, kept].sum(axis=1).astype(dtype) / dtype(kept.sum())
    np.testing.assert_allclose(fraction, share, rtol=ulp)


def test_golden_float64(golden, x64):
  _check_golden(golden, np.float64, "f64", 1e-12, 0.0)


def test_golden_float32(golden):
  _check_golden(golden, np.float32, "f32", 2e-6, 1e-9)
