"""Statistics of silent weights, read from checkpoints."""

import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ovsw_jax as ovsw
from ovsw_jax import analysis
from ovsw_jax.analysis import layers as layers_lib
from ovsw_jax.analysis.groups import Member
from ovsw_jax.analysis.run import Run
from ovsw_jax.training import checkpoint

NAMES = ["block0/conv/latent", "block1/conv/latent"]


def params_of(seed):
  key = jax.random.key(seed)
  shapes = [(3, 3, 2, 4), (3, 3, 4, 5)]
  return {
    f"block{i}": {"conv": {"latent": jax.random.normal(key, shape)}}
    for i, shape in enumerate(shapes)
  } | {"head": {"kernel": jnp.ones((4, 2))}}


def transform(method, state="full"):
  flips = ovsw.optax.sign_flips(state=state)
  if method == "vanilla":
    return optax.chain(flips, optax.sgd(0.5))
  own = ovsw.optax.ovsw(state=state)
  return optax.chain(own, flips, optax.sgd(0.5))


def train(tx, steps=12, seed=0):
  """Random gradients: parameters, optimizer state, and signs at each update."""
  params, signs = params_of(seed), []
  state, update = tx.init(params), jax.jit(tx.update)
  for step in range(steps):
    signs.append(jax.tree.map(lambda p: np.where(p >= 0, 1, -1), params))
    gradients = jax.tree.map(
      lambda p, step=step: (
        0.5 * jax.random.normal(jax.random.key(step), p.shape)
      ),
      params,
    )
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params, state, signs


def save(workdir, params, opt_state, step=12):
  tree = {"step": jnp.int32(step), "params": params, "opt_state": opt_state}
  checkpoint.save(workdir / "checkpoints", step, tree, keep=5)


def latent(tree, place):
  return np.asarray(tree[f"block{place}"]["conv"]["latent"])


@pytest.mark.parametrize("state", ("full", "compact"))
@pytest.mark.parametrize("method", ("ovsw", "vanilla"))
def test_weights_are_those_of_the_state(tmp_path, method, state):
  params, opt_state, signs = train(transform(method, state))
  save(tmp_path, params, opt_state)
  assert analysis.checkpoint_steps(tmp_path) == [12]
  found = dict(analysis.read_weights(tmp_path, 12))
  assert list(found) == NAMES
  for place, weights in enumerate(found.values()):
    np.testing.assert_array_equal(weights.latent, latent(params, place))
    counts = sum(
      latent(a, place) != latent(b, place) for a, b in itertools.pairwise(signs)
    )
    np.testing.assert_array_equal(weights.flips, counts)
    if method == "vanilla":
      assert weights.flip_ema is None and weights.ags_ratio is None
    else:
      wanted = ovsw.optax.flip_ema(opt_state)
      np.testing.assert_array_equal(weights.flip_ema, latent(wanted, place))
      wanted = optax.tree.get(opt_state, "ags_filter_ratio")
      np.testing.assert_array_equal(weights.ags_ratio, latent(wanted, place))
      assert weights.ags_ratio.shape == weights.latent.shape[-1:]


def test_a_checkpoint_from_before_ratios_of_filters(tmp_path):
  params, opt_state, _ = train(transform("ovsw"))
  old = optax.tree.set(opt_state, ags_filter_ratio=None)
  save(tmp_path, params, old)
  for _, weights in analysis.read_weights(tmp_path, 12):
    assert weights.ags_ratio is None and weights.flips is not None
  tree = {"step": jnp.int32(0), "params": params, "opt_state": opt_state}
  with pytest.raises(
    ValueError, match=r"ags_filter_ratio.*the version of ovsw"
  ):
    checkpoint.restore(tmp_path / "checkpoints", 12, tree)


def test_statistics_follow_from_the_signs_alone(tmp_path):
  """Correlation with signs at init, from flip counts, is what it is."""
  params, opt_state, signs = train(transform("ovsw"))
  save(tmp_path, params, opt_state)
  found = []
  for place, (_, weights) in enumerate(analysis.read_weights(tmp_path, 12)):
    one = analysis.layer_statistics(weights, latent(params_of(0), place))
    found.append(one)
    history = np.stack([latent(s, place) for s in signs])
    changes = (history[1:] != history[:-1]).sum(axis=0)
    assert one.size == history[0].size
    assert one.never_flipped == pytest.approx((changes == 0).mean())
    assert one.oscillating == pytest.approx((changes >= 2).mean())
    assert one.flips_per_weight == pytest.approx(changes.mean())
    agree = (history[0] * history[-1]).mean()
    assert one.sign_correlation == pytest.approx(agree)
    pearson = np.corrcoef(
      latent(params, place).ravel(), latent(params_of(0), place).ravel()
    )[0, 1]
    assert one.latent_correlation == pytest.approx(pearson, abs=1e-6)
    share = (latent(params, place) >= 0).mean(axis=(0, 1, 2))
    entropy = [-sum(p * np.log2(p) for p in (s, 1 - s) if p > 0) for s in share]
    assert one.bit_entropy == pytest.approx(np.mean(entropy))
    assert one.silent == pytest.approx(
      one.never_flipped
    )  # 12 steps forget none
  total = analysis.total_statistics(found)
  assert total.never_flipped == pytest.approx(
    float(optax.tree.get(opt_state, "never_flipped_fraction"))
  )
  assert total.silent == pytest.approx(
    float(optax.tree.get(opt_state, "silent_fraction"))
  )
  assert total.size == sum(one.size for one in found)


def test_entropy_is_of_each_output_channel():
  """One channel all +1, the other half: 0 and 1 bit. Together: not 0.81."""
  weights = analysis.LayerWeights(
    np.array([[1.0, 1.0], [2.0, -1.0]]), None, None
  )
  one = analysis.layer_statistics(weights)
  assert one.bit_entropy == pytest.approx(0.5)
  assert one.never_flipped is one.silent is one.oscillating is None
  assert analysis.total_statistics([one]).never_flipped is None


def test_silence_by_threshold_is_strict():
  ema = np.array([[0.0, 1e-4, 9e-5, 1e-3]])
  weights = analysis.LayerWeights(np.ones((1, 4)), None, ema)
  assert analysis.layer_statistics(weights).silent == 0.5
  assert analysis.layer_statistics(weights, threshold=1e-2).silent == 1


def test_constant_and_never_flipping_layers_have_no_nan():
  weights = analysis.LayerWeights(
    np.zeros((3, 2)), np.zeros((3, 2), int), np.zeros((3, 2))
  )
  one = analysis.layer_statistics(weights, np.zeros((3, 2)))
  numbers = [value for value in one if value is not None]
  assert np.isfinite(numbers).all()
  assert one.flipped_magnitude is None and one.never_flipped == 1


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (
      lambda w: analysis.layer_statistics(w, np.ones(3)),
      r"initial has shape \(3,\)",
    ),
    (
      lambda w: analysis.layer_statistics(
        analysis.LayerWeights(np.ones((0, 2)), None, None)
      ),
      "has no weights",
    ),
    (lambda w: analysis.total_statistics([]), "no layers"),
  ],
)
def test_wrong_layers_are_refused(call, words):
  with pytest.raises(ValueError, match=words):
    call(analysis.LayerWeights(np.ones((2, 2)), None, None))


def test_the_first_of_several_replicas(tmp_path):
  tx = transform("ovsw", "compact")
  runs = [train(tx, seed=seed)[:2] for seed in (0, 1)]
  params, opt_state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
  tree = {"step": jnp.array([12, 12]), "params": params}
  tree["opt_state"] = opt_state
  checkpoint.save(tmp_path / "checkpoints", 12, tree)
  found = dict(analysis.read_weights(tmp_path, 12))
  for place, name in enumerate(NAMES):
    np.testing.assert_array_equal(found[name].latent, latent(runs[0][0], place))
    np.testing.assert_array_equal(
      found[name].flips, latent(ovsw.optax.flips(runs[0][1]), place)
    )


def test_layers_at_init_are_read_from_step_0(tmp_path):
  tx = transform("ovsw")
  save(tmp_path, params_of(0), tx.init(params_of(0)), step=0)
  params, opt_state, _ = train(tx)
  save(tmp_path, params, opt_state)
  found = layers_lib.read_layers(Member(tmp_path, Run([], {}), {}, None))
  assert found is not None and "step 12" in found.source
  for name, one in found.statistics.items():
    assert 0 < one.latent_correlation < 1
    counts = found.histograms[name]
    assert counts.initial.sum() == counts.everything.sum() == one.size
    never = counts.never_flipped
    assert never.sum() == round(one.never_flipped * one.size)
    assert (never <= counts.everything).all()


def test_damage_is_one_sentence(tmp_path):
  params, opt_state, _ = train(transform("ovsw"))
  save(tmp_path, params, opt_state)
  place = tmp_path / "checkpoints" / "12"
  with pytest.raises(FileNotFoundError, match="there are those of steps 12"):
    dict(analysis.read_weights(tmp_path, 7))
  manifest = json.loads((place / "manifest.json").read_text())
  largest = max(manifest["files"], key=lambda name: manifest["files"][name][0])
  whole = (place / largest).read_bytes()
  for broken, words in (
    (whole[:-1], "is not of"),
    (whole[:-1] + bytes([whole[-1] ^ 1]), "other bits"),
  ):
    (place / largest).write_bytes(broken)
    with pytest.raises(ValueError, match=words) as caught:
      dict(analysis.read_weights(tmp_path, 12))
    assert "remove that directory" in str(caught.value)
    assert "\n" not in str(caught.value)
  (place / largest).unlink()
  with pytest.raises(ValueError, match="cannot be read"):
    dict(analysis.read_weights(tmp_path, 12))


def test_a_checkpoint_that_vanishes_while_it_is_read(tmp_path, monkeypatch):
  """A run that goes on drops old checkpoints; the newer one is read then."""
  tx = transform("ovsw")
  params, opt_state, _ = train(tx)
  save(tmp_path, params, opt_state, step=12)
  save(tmp_path, params, opt_state, step=24)
  real, calls = layers_lib.checkpoint_steps, []

  def steps(workdir):
    calls.append(workdir)
    if len(calls) == 1:
      shutil.rmtree(tmp_path / "checkpoints" / "12")
      return [12]
    return real(workdir)

  monkeypatch.setattr(layers_lib, "checkpoint_steps", steps)
  member = Member(tmp_path, Run([], {}), {}, None)
  found = layers_lib.read_layers(member)
  assert found is not None and "step 24" in found.source
