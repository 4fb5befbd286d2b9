"""Several seeds in one program: each must be the run it would be alone."""

import contextlib
import io
import json
import shutil
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import analysis
from ovsw_jax.training import (
  checkpoint,
  evaluate,
  experiment,
  loop,
  records,
  replicas,
  settings,
)
from ovsw_jax.training import state as train_state
from tests.test_loop import assert_same_bits, lines, smoke, timeless

pytestmark = pytest.mark.usefixtures("tiny")

SEEDS = [3, 4]


def several(**fields):
  return smoke(seed=SEEDS[0], replicas=len(SEEDS), **fields)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
  """Where the runs are, the single ones' states, that of all, what it said."""
  where = tmp_path_factory.mktemp("runs")
  states = [
    loop.train_and_evaluate(smoke(seed=seed), where / str(seed))
    for seed in SEEDS
  ]
  with contextlib.redirect_stdout(io.StringIO()) as text:
    together = loop.train_and_evaluate(several(), where / "together")
  return where, states, together, text.getvalue()


def test_keys_start_and_data_order_are_those_of_the_single_runs():
  together = experiment.build(several())
  state = together.initial_state()
  n = len(together.dataset.train.labels)
  for i, seed in enumerate(SEEDS):
    single = experiment.build(smoke(seed=seed))
    assert together.augment_key[i] == single.augment_key
    assert_same_bits(
      jax.tree.map(lambda leaf, i=i: leaf[i], state), single.initial_state()
    )
    for epoch in (0, 1, 7):
      np.testing.assert_array_equal(
        loop.epoch_order(together.order_key, epoch, n=n)[i],
        loop.epoch_order(single.order_key, epoch, n=n),
      )


def assert_replicas_are(states, together, rtol=1e-3):
  assert together.step.shape == (len(states),)
  for i, single in enumerate(states):
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(
        a[i], b, rtol=rtol, atol=1e-5
      ),
      together,
      single,
    )


def test_every_replica_is_the_run_of_its_seed(finished):
  _, states, together, _ = finished
  assert_replicas_are(states, together)
  kernels = np.asarray(together.params["conv"]["latent"])
  assert np.abs(kernels[0] - kernels[1]).max() > 0.01


@pytest.mark.parametrize("chunk", [1, 2])
def test_mapped_as_on_an_accelerator_too(
  finished, tmp_path, monkeypatch, chunk
):
  monkeypatch.setattr(replicas, "_one_after_the_other", lambda: False)
  config = several(train__chunk=chunk)
  assert_replicas_are(
    finished[1], loop.train_and_evaluate(config, tmp_path / "mapped")
  )
  assert len(lines(tmp_path / "mapped", "train")) == 4


def test_records_are_means_and_sample_deviations(finished):
  where, *_ = finished
  singles = [lines(where / str(seed)) for seed in SEEDS]
  together = lines(where / "together")
  assert len(together) == len(singles[0])
  for record, *alone in zip(together, *singles, strict=True):
    if record["kind"] == "layers":
      names = ("ags_ratio", "flip_rate_mean")
      assert {*record["ags_ratio"], *record["flip_rate_mean"]} == {
        "conv/latent"
      }
      alone = [{n: r[n]["conv/latent"] for n in names} for r in alone]
      record = {n: record[n]["conv/latent"] for n in names} | {"kind": "layers"}
      compared = set(names)
    else:
      compared = {"loss", "accuracy", "flip_rate", "train_loss"}
    for name in record.keys() & compared:
      values = [r[name] for r in alone]
      np.testing.assert_allclose(
        record[name], statistics.mean(values), rtol=1e-4
      )
      assert (f"{name}_std" in record) == (record.get("kind") == "eval")
      if f"{name}_std" in record:
        np.testing.assert_allclose(
          record[f"{name}_std"], statistics.stdev(values), rtol=1e-3, atol=1e-6
        )
  assert {r["kind"] for r in together} == {"train", "eval", "layers"}


def test_result_has_every_seed(finished):
  where, *_ = finished
  result = json.loads((where / "together" / "result.json").read_text())
  singles = [
    json.loads((where / str(seed) / "result.json").read_text())
    for seed in SEEDS
  ]
  assert result["seeds"] == SEEDS
  assert result["replicas"] == len(SEEDS)
  for name in ("accuracy", "top5", "loss", "never_flipped_fraction"):
    values = [single[name] for single in singles]
    np.testing.assert_allclose(result[f"{name}_per_seed"], values, rtol=1e-4)
    np.testing.assert_allclose(
      [result[name], result[f"{name}_std"]],
      [statistics.mean(values), statistics.stdev(values)],
      rtol=1e-3,
    )
  extra = {name for name in result if name not in singles[0]}
  assert all(
    name in ("replicas", "seeds") or name.endswith(("_std", "_per_seed"))
    for name in extra
  )


def test_the_figure_shows_the_first_seeds_weights(finished):
  where, *_ = finished
  ((_, (together, _)),) = analysis.read_run(where / "together").weights.items()
  ((_, (single, _)),) = analysis.read_run(where / str(SEEDS[0])).weights.items()
  np.testing.assert_allclose(together, single, rtol=1e-2, atol=1e-3)
  assert (where / "together" / "figure.png").exists()


def test_a_killed_run_goes_on_to_the_same_bits(finished, tmp_path):
  where, _, together, _ = finished
  workdir = tmp_path / "run"
  # As if killed in the second epoch, with records that no checkpoint knows.
  shutil.copytree(where / "together", workdir)
  shutil.rmtree(workdir / "checkpoints" / "4")
  (workdir / "result.json").unlink()
  assert checkpoint.steps(workdir / "checkpoints") == [2]
  assert_same_bits(loop.train_and_evaluate(several(), workdir), together)
  assert checkpoint.steps(workdir / "checkpoints") == [2, 4]
  assert timeless(lines(workdir)) == timeless(lines(where / "together"))


def test_evaluate_tells_mean_and_deviation(finished, capsys):
  where, *_ = finished
  values = evaluate.evaluate(several(), where / "together")
  result = json.loads((where / "together" / "result.json").read_text())
  for name in ("accuracy", "accuracy_std", "top5", "loss_std"):
    assert values[name] == result[name]
  text = capsys.readouterr().out
  spread = f"{result['accuracy']:.1%} ± {100 * result['accuracy_std']:.1f}"
  assert f"top-1 {spread}, top-5 " in text
  assert "2 seeds" in text


def test_what_is_printed(finished):
  where, _, _, text = finished
  run = experiment.build(smoke())
  total, binary = train_state.parameter_counts(run.abstract_state().params)
  assert "seeds 3 to 4 in one program" in text
  assert f"{total:,} parameters, {binary:,} binary" in text
  *_, end = lines(where / "together", "eval")
  spread = f"{end['accuracy']:.1%} ± {100 * end['accuracy_std']:.1f}"
  assert f"  test {spread}  " in text
  assert f"final test accuracy    {spread} (top-5 " in text


def test_another_number_of_replicas_is_another_run(finished):
  where, *_ = finished
  message = r"replicas is 3 here and 2 there"
  with pytest.raises(ValueError, match=message):
    settings.check_workdir(smoke(seed=SEEDS[0], replicas=3), where / "together")


def test_a_workdir_from_before_replicas_is_one_replica(tmp_path):
  config = smoke()
  settings.write(config, tmp_path)
  path = tmp_path / settings.CONFIG_FILE
  saved = json.loads(path.read_text())
  del saved["replicas"]
  path.write_text(json.dumps(saved))
  settings.check_workdir(config, tmp_path)
  with pytest.raises(ValueError, match="replicas is 2 here and 1 there"):
    settings.check_workdir(smoke(replicas=2), tmp_path)


def test_replicas_share_a_workdir_named_by_their_seeds():
  assert settings.default_workdir(smoke(seed=2)).name == "seed2"
  assert settings.default_workdir(several()).name == "seed3-4"


def test_a_seed_that_diverges_is_named(tmp_path):
  loss = np.ones((2, 4))
  loss[1, 2] = np.inf
  with pytest.raises(
    FloatingPointError, match=r"loss of seed 8 is inf at step 13;"
  ):
    records.check_finite({"loss": loss}, 10, tmp_path, [7, 8])
  with pytest.raises(FloatingPointError, match=r"loss is inf at step 13;"):
    records.check_finite({"loss": loss[1]}, 10, tmp_path, [8])


def test_too_little_memory_is_an_error_with_a_remedy(tmp_path, monkeypatch):
  def too_large(*_, **__):
    return jax.jit(lambda: jnp.zeros((1 << 50,)))()

  monkeypatch.setattr(loop, "train_chunk", too_large)
  with pytest.raises(
    MemoryError, match=r"cpu.*lower replicas=2 or train\.batch_size=16"
  ):
    loop.train_and_evaluate(several(), tmp_path)


def test_other_errors_of_the_device_stay_as_they_are():
  with (
    pytest.raises(jax.errors.JaxRuntimeError, match="something else"),
    loop._memory_error_with_remedy(several()),
  ):
    raise jax.errors.JaxRuntimeError("INTERNAL: something else")
