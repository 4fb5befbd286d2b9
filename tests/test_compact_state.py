"""Two bytes of flip history per weight, against the float64 average."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import optax as ovsw_optax
from ovsw_jax.optax import _flip_average

compact_sad = functools.partial(ovsw_optax.sad, state="compact")
compact_flips = functools.partial(ovsw_optax.sign_flips, state="compact")
# Momenta and thresholds, and the spacings of numbers, at least, that the decay
# of an update without a flip amounts to.
SCALES = [
  (0.999, 1e-4, 2),
  (0.999, 1e-2, 2),
  (0.9995, 1e-4, 1),
  (0.99, 1e-3, 20),
  (0.9, 1e-2, 431),
]
every_scale = pytest.mark.parametrize(("momentum", "threshold", "d"), SCALES)


def _bytes(state):
  return sum(x.nbytes for x in jax.tree.leaves(state))


def _run(tx, flips):
  """Averages and silence after each of `flips`, shape (updates, weights)."""
  updates = jnp.zeros(flips.shape[1])

  def step(carry, flip):
    params, state = carry
    params = jnp.where(flip, -params, params)
    penalised, state = tx.update(updates, state, params)
    return (params, state), (ovsw_optax.flip_ema(state), penalised != 0)

  params = jnp.ones(flips.shape[1])
  _, outputs = jax.lax.scan(step, (params, tx.init(params)), flips)
  return map(np.asarray, outputs)


def _average(flips, momentum, init_value=0.0):
  """The exact average, to float64."""
  average, averages = np.full(flips.shape[1], init_value), []
  for flip in flips:
    average = momentum * average + (1 - momentum) * flip
    averages.append(average)
  return np.stack(averages)


def _streams(updates=12000, weights=32):
  """Flips at random, at rates from one in 10,000 updates to every update."""
  rng = np.random.default_rng(0)
  rates = np.repeat([1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.8, 1.0], weights)
  flips = rng.random((updates, rates.size)) < rates
  # Towards the end none, so that all weights fall silent.
  flips[updates // 3 :] &= rng.random(rates.size) < 0.5
  flips[updates // 2 :] = False
  return flips


@every_scale
def test_silence_is_that_of_the_float64_average_to_a_few_updates(
  momentum, threshold, d
):
  flips = _streams()
  average, silent = _run(compact_sad(1.0, momentum, threshold), flips)
  exact = _average(flips, momentum)
  # Deviations, in updates of decay. What is far below both the threshold and
  # the average after one flip may be forgotten.
  kept = exact > min(threshold, 1 - momentum)
  assert kept.mean() > 0.2
  fall = -np.log(momentum)
  error = np.log(np.where(kept, average, 1) / np.where(kept, exact, 1)) / fall
  rate = np.maximum.accumulate(exact, axis=0)
  sigma = np.sqrt(rate / (12 * (1 - momentum))) / d
  assert np.all(np.abs(error) < 1 + 6 * sigma)
  assert np.std(error[kept]) < 0.5 + sigma.max()
  # Silence is decided differently only that close to the threshold.
  wrong = silent != (exact < threshold)
  distance = np.abs(np.log(np.maximum(exact, 1e-30) / threshold)) / fall
  assert np.all(distance[wrong] < 1 + 6 * sigma[wrong])
  # It is decided both ways, and hardly ever differently.
  assert 0.02 < silent.mean() < 0.98
  assert wrong.mean() < 2e-3


@pytest.mark.parametrize("period", [1, 2, 3, 5, 7, 21, 100])
def test_regular_flips_drive_the_average_to_their_rate(period):
  # Rounded to the nearest, those of periods 1 and 2 would be further off.
  flips = (np.arange(8000) % period == 0)[:, None]
  average, _ = _run(compact_sad(), flips)
  exact = _average(flips, 0.999)
  np.testing.assert_allclose(average[2000:], exact[2000:], rtol=6e-3)


@every_scale
def test_flips_in_step_with_the_rounding_keep_the_bound(momentum, threshold, d):
  # The rounding follows the multiples of the golden ratio: these weights flip
  # only where it rounds up, or only where it rounds down.
  phase = np.arange(8000) * 0x9E3779B9 % 2**32 / 2**32
  flips = np.stack([phase > 0.5, phase < 0.5, phase > 0.9, phase < 0.1], 1)
  average, _ = _run(compact_sad(1.0, momentum, threshold), flips)
  exact = _average(flips, momentum)
  bound = np.maximum.accumulate(exact, axis=0) / d + 2e-3
  error = np.abs(average / np.maximum(exact, 1e-30) - 1)[exact > 0]
  assert np.all(error < bound[exact > 0])


@every_scale
@pytest.mark.parametrize("init_value", [0.0, 0.1, 1.0])
def test_the_first_silence_is_timed_to_an_update(
  momentum, threshold, d, init_value
):
  del d
  # Of two weights one flips at first, unless an average is there already.
  flips = np.zeros((19000, 2), bool)
  flips[0, 0] = init_value == 0
  _, silent = _run(
    compact_sad(1.0, momentum, threshold, init_value=init_value), flips
  )
  exact = _average(flips, momentum, init_value) < threshold
  apart = (~silent).sum(axis=0) - (~exact).sum(axis=0)
  assert np.all(np.abs(apart) <= 1)
  # Once silent, silent for good.
  assert silent[-1].all() and np.all(np.diff(silent[1:], axis=0) >= 0)


@pytest.mark.parametrize("seed", range(6))
def test_no_momentum_and_no_phase_move_the_first_silence_by_more(seed):
  rng = np.random.default_rng(seed)
  momentum, threshold = 0.999, 1e-4
  if seed:
    momentum = 1 - 10 ** rng.uniform(-3.2, -1.0)
    threshold = (1 - momentum) * 10 ** rng.uniform(-1.5, -0.2)
  kept = np.log((1 - momentum) / threshold) / -np.log(momentum)
  # Each weight flips in an update of its own, in all phases of a halving.
  weights = min(int(np.log(2) / -np.log(momentum)) + 2, 800)
  flips = np.eye(weights + int(kept) + 3, weights, dtype=bool)
  _, silent = _run(compact_sad(1.0, momentum, threshold), flips)
  apart = (~silent).sum(axis=0) - (np.floor(kept) + 1)
  assert np.all(np.abs(apart) <= 1)
  assert np.mean(apart == 0) > 0.25


def test_defaults_are_timed_as_the_full_state():
  flips = np.zeros((9300, 1), bool)
  _, silent = _run(compact_sad(init_value=1.0), flips)
  assert abs((~silent).sum() - 9205) <= 1
  flips[0] = True
  _, silent = _run(compact_sad(), flips)
  assert (~silent).sum() == 2302
  state = compact_sad().init(jnp.ones((3, 2)))
  assert optax.tree.get(state, "silent_fraction") == 1.0
  np.testing.assert_array_equal(ovsw_optax.flip_ema(state), 0.0)


def test_without_a_flip_codes_change_only_when_they_are_halved():
  tx = compact_sad(init_value=0.3)
  params = jnp.ones(3)

  def step(state, _):
    state = tx.update(params, state, params)[1]
    return state, optax.tree.get(state, "sad_code")[0]

  _, codes = jax.lax.scan(step, tx.init(params), length=5000)
  (halved,) = np.nonzero(np.diff(np.asarray(codes).astype(int)))
  octave = np.log(2) / -np.log(0.999)
  np.testing.assert_allclose(halved + 1, octave * np.arange(1, 8), atol=1)


@pytest.mark.parametrize("momentum", [0.999, 0.9, 0.3])
def test_the_phase_is_right_after_billions_of_updates(momentum):
  numbers = _flip_average.make(momentum, 1e-4)
  for count in (0, 1, 692, 10**6, 2**31 - 2):
    turns = (count + 1) * numbers.octaves
    moment = numbers.moment(jnp.int32(count))
    expected = 2.0 ** (turns % 2**32 / 2**32)
    np.testing.assert_allclose(
      1 / (numbers.scale * moment.unit), expected, rtol=1e-6
    )
    halvings = turns // 2**32 - (turns - numbers.octaves) // 2**32
    assert moment.kept == 2.0**-halvings


@pytest.mark.parametrize(
  ("momentum", "threshold", "silent"),
  [
    (0.999, 0.0, [False, False]),
    (0.999, 1.0, [True, True]),
    (0.999, 7.0, [True, True]),
    (0.0, 0.5, [True, False]),
    (0.5, 0.5, [True, False]),
  ],
)
def test_extreme_hyperparameters(momentum, threshold, silent):
  flips = np.array([[False, True]])
  _, first = _run(compact_sad(1.0, momentum, threshold), flips)
  np.testing.assert_array_equal(first, [silent])
  _, after = _run(
    compact_sad(1.0, momentum, threshold), np.repeat(flips, 50, axis=0)
  )
  np.testing.assert_array_equal(after[-1], silent)


def test_updates_are_those_of_the_full_state():
  # Weights that flip once in a while, none of them at the edge of silence.
  keys = jax.random.split(jax.random.key(0))
  weights = jax.random.normal(keys[0], (50, 4, 4))
  walk = jnp.where(jax.random.uniform(keys[1], weights.shape) < 0.3, -1, 1)
  weights = jnp.abs(weights) * jnp.cumprod(walk, axis=0)

  def run(tx):
    def step(state, params):
      updates, state = tx.update(0.1 * params, state, params)
      fraction = optax.tree.get(state, "silent_fraction")
      return state, (updates, fraction, ovsw_optax.positive(state))

    return jax.lax.scan(step, tx.init(weights[0]), weights)[1]

  for a, b in zip(run(compact_sad()), run(ovsw_optax.sad()), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"momentum": lambda count: 0.9}, r"`momentum` is a schedule.*\"full\""),
    ({"threshold": lambda count: 1e-4}, r"`threshold` is a schedule.*\"full\""),
    ({"momentum": 0.9999}, r"`momentum` 0.9999 with `threshold` 0.0001"),
    ({"threshold": 1e-9}, r"`threshold` 1e-09.*a larger threshold"),
    ({"accumulator_dtype": "float64"}, r"`accumulator_dtype`.*\"full\""),
    ({"state": "small"}, r"`state` is 'small'; pass \"full\" or \"compact\""),
  ],
)
def test_what_a_compact_state_cannot_do_is_one_clear_error(arguments, message):
  with pytest.raises(ValueError, match=message):
    ovsw_optax.sad(**{"state": "compact"} | arguments)


def test_traced_momentum_is_refused_with_both_remedies():
  tx = optax.inject_hyperparams(compact_sad)()
  params = jnp.ones((2, 2))
  with pytest.raises(ValueError, match=r"traced.*\"full\".*static_args"):
    jax.jit(tx.init)(params)


@pytest.mark.parametrize("make", [compact_sad, compact_flips])
def test_two_bytes_per_weight(make):
  params = {"a": jnp.ones((3, 3, 16, 32)), "b": jnp.ones((64, 10))}
  tx = make()
  state = tx.init(params)
  _, state = tx.update(params, state, params)
  scalars = [x for x in jax.tree.leaves(state) if x.ndim == 0]
  size = sum(x.size for x in jax.tree.leaves(params))
  assert _bytes(state) - _bytes(scalars) == 2 * size
  assert len(scalars) <= 6


def test_compact_flip_counts_equal_the_full_ones():
  trajectory = jax.random.normal(jax.random.key(0), (40, 3, 7, 5))
  trajectory = trajectory.at[:, :, 0].set(jnp.abs(trajectory[:, :, 0]))

  def run(tx):
    def step(state, params):
      _, state = tx.update(params, state, params)
      return state, (
        ovsw_optax.flips(state),
        ovsw_optax.positive(state),
        *(
          optax.tree.get(state, name + suffix)
          for name in ("flip_rate", "never_flipped_fraction")
          for suffix in ("", "_per_leaf")
        ),
      )

    return jax.lax.scan(step, tx.init(trajectory[0]), trajectory)[1]

  ours, expected = run(compact_flips()), run(ovsw_optax.sign_flips())
  assert expected[0].max() > 10
  for a, b in zip(ours, expected, strict=True):
    np.testing.assert_array_equal(a, b)
    assert a.dtype == b.dtype


def test_compact_flip_counts_stop_at_16383():
  tx = compact_flips()

  def step(carry, _):
    params, state = -carry[0], carry[1]
    _, state = tx.update(params, state, params)
    return (params, state), ovsw_optax.flips(state)

  params = jnp.ones((1, 1))
  (_, state), flips = jax.lax.scan(
    step, (params, tx.init(params)), length=16390
  )
  expected = np.minimum(np.arange(1, 16391), 16383)
  np.testing.assert_array_equal(flips[:, 0, 0], expected)
  assert optax.tree.get(state, "flip_rate") == 1.0
  assert optax.tree.get(state, "never_flipped_fraction") == 0.0


@pytest.mark.parametrize("state", ["full", "compact"])
def test_readers_find_a_state_anywhere_and_skip_masked_leaves(state):
  old = {"a": {"latent": jnp.array([[1.0, -1.0]])}, "b": jnp.ones(2)}
  new = {"a": {"latent": jnp.array([[1.0, 1.0]])}, "b": -jnp.ones(2)}
  tx = optax.chain(
    ovsw_optax.ovsw(state=state),
    ovsw_optax.sign_flips(state=state),
    optax.adam(0.1),
  )
  _, opt_state = tx.update(old, tx.init(old), new)
  for read, expected in (
    (ovsw_optax.flip_ema, [[0.0, 1e-3]]),
    (ovsw_optax.flips, [[0, 1]]),
    (ovsw_optax.positive, [[True, True]]),
  ):
    (leaf,) = jax.tree.leaves(read(opt_state))
    np.testing.assert_allclose(leaf, expected, rtol=1e-3)


def test_positive_is_read_from_flip_counts_alone():
  params = jnp.array([[1.0, -1.0, -0.0]])
  for make in (ovsw_optax.sign_flips, compact_flips):
    state = make().init(params)
    np.testing.assert_array_equal(
      ovsw_optax.positive(state), [[True, False, True]]
    )


@pytest.mark.parametrize("name", ["flip_ema", "flips", "positive"])
def test_a_state_without_history_is_one_clear_error(name):
  state = optax.sgd(0.1).init(jnp.ones(2))
  with pytest.raises(ValueError, match=rf"{name}: there is no state of `s"):
    getattr(ovsw_optax, name)(state)


def test_unknown_state_of_flip_counts():
  with pytest.raises(ValueError, match=r"sign_flips: `state` is 'tiny'"):
    ovsw_optax.sign_flips(state="tiny")


@pytest.mark.parametrize(
  "shape",
  [(), (1,), (37,), (64,), (37, 3), (5, 7), (3, 3, 32, 8), (1, 1, 48, 5)],
)
def test_fractions_are_exact_in_every_shape(shape):
  rng = np.random.default_rng(0)
  new = jnp.asarray(rng.choice([-1.0, 1.0], shape), jnp.float32)
  for make in (ovsw_optax.sign_flips, compact_flips):
    tx = make(mask=lambda p: True)
    _, state = jax.jit(tx.update)(new, tx.init(jnp.ones(shape)), new)
    share = np.mean(np.asarray(new) < 0)
    for name, expected in (
      ("flip_rate", share),
      ("never_flipped_fraction", 1 - share),
    ):
      actual = optax.tree.get(state, name)
      np.testing.assert_allclose(actual, expected, rtol=1e-6)
