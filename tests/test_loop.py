"""Runs of a tiny network: resume to the bit, records, evaluation."""

import json
import math

import jax
import numpy as np
import pytest

from configs import digits
from ovsw_jax import analysis, data
from ovsw_jax.training import (
  checkpoint,
  evaluate,
  experiment,
  figure,
  loop,
  settings,
)
from ovsw_jax.training import state as train_state

pytestmark = pytest.mark.usefixtures("tiny")

TIMES = ("seconds", "images_per_second")


def smoke(method="ovsw", **fields):
  config = digits.get_config(f"{method},smoke")
  config.mesh.data = 1
  for name, value in fields.items():
    config.update_from_flattened_dict({name.replace("__", "."): value})
  return config


def lines(workdir, kind=None):
  records = [
    json.loads(line)
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  return [r for r in records if kind in (None, r["kind"])]


def timeless(records):
  return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


def assert_same_bits(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("steps", [1, 2, 22, 97, 195])
@pytest.mark.parametrize("chunk", [1, 3, 50, 1000])
def test_chunks_fill_the_epoch_in_at_most_two_lengths(steps, chunk):
  lengths = loop.chunk_lengths(steps, chunk)
  assert sum(lengths) == steps
  assert max(lengths) <= chunk
  assert len(set(lengths)) <= 2


def test_chunks_of_one_length_where_that_costs_little():
  assert loop.chunk_lengths(195, 50) == [39] * 5
  assert loop.chunk_lengths(97, 50) == [50, 47]


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
  config = smoke(train__epochs=4, train__keep=5)
  whole = loop.train_and_evaluate(config, tmp_path / "whole")

  save = checkpoint.save

  def save_and_die(directory, step, tree, **kwargs):
    save(directory, step, tree, **kwargs)
    if step == 4:
      raise KeyboardInterrupt

  monkeypatch.setattr(checkpoint, "save", save_and_die)
  with pytest.raises(KeyboardInterrupt):
    loop.train_and_evaluate(config, tmp_path / "cut")
  assert not (tmp_path / "cut" / "result.json").exists()
  # What a kill in the third epoch would leave behind the checkpoint.
  with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
    file.write('{"kind": "train", "step": 5, "epoch": 3, "loss": 0.0}\n{"ki')

  monkeypatch.setattr(checkpoint, "save", save)
  resumed = loop.train_and_evaluate(config, tmp_path / "cut")
  assert_same_bits(resumed, whole)
  assert int(whole.step) == 8
  assert timeless(lines(tmp_path / "cut")) == timeless(
    lines(tmp_path / "whole")
  )


def test_seed_decides_everything(tmp_path):
  first = loop.train_and_evaluate(smoke(), tmp_path / "a")
  again = loop.train_and_evaluate(smoke(), tmp_path / "b")
  other = loop.train_and_evaluate(smoke(seed=1), tmp_path / "c")
  assert_same_bits(first, again)
  kernel = lambda s: np.asarray(s.params["conv"]["latent"])
  assert np.abs(kernel(first) - kernel(other)).max() > 0.01


def test_chunk_changes_nothing_but_rounding(tmp_path):
  one = loop.train_and_evaluate(smoke(train__chunk=1), tmp_path / "one")
  two = loop.train_and_evaluate(smoke(train__chunk=2), tmp_path / "two")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    one.params,
    two.params,
  )


def test_one_compilation_for_all_epochs(tmp_path):
  before = loop.train_chunk._cache_size()
  loop.train_and_evaluate(smoke(train__epochs=3), tmp_path)
  assert loop.train_chunk._cache_size() == before + 1


def test_gaps_are_set_aside_when_all_is_compiled(tmp_path, monkeypatch):
  """After the first step, and after the first evaluation."""
  known = []

  def compiled():
    known.append(sum(f._cache_size() for f in (loop.train_chunk, tested)))

  tested = evaluate._batch
  monkeypatch.setattr(loop.host_memory, "set_gaps_aside", compiled)
  before = loop.train_chunk._cache_size() + tested._cache_size()
  loop.train_and_evaluate(smoke(train__epochs=3), tmp_path)
  assert known == [before + 1, before + 2]


def test_records_of_a_run(tmp_path, capsys):
  state = loop.train_and_evaluate(smoke(), tmp_path)
  train, ends = lines(tmp_path, "train"), lines(tmp_path, "eval")
  assert [r["step"] for r in train] == [1, 2, 3, 4]
  assert [r["epoch"] for r in train] == [1, 1, 2, 2]
  assert [r["step"] for r in ends] == [2, 4]
  for record in train:
    assert {
      "loss",
      "accuracy",
      "learning_rate",
      "gradient_norm",
      "flip_rate",
      "silent_fraction",
      "never_flipped_fraction",
      "images_per_second",
    } <= record.keys()
  np.testing.assert_allclose(
    ends[0]["train_loss"], np.mean([r["loss"] for r in train[:2]]), rtol=1e-6
  )
  for layer, end in zip(lines(tmp_path, "layers"), ends, strict=True):
    assert layer["ags_ratio"].keys() == {"conv/latent"}
    # Of one binary layer the epoch's mean is that of the network.
    assert layer["flip_rate_mean"].keys() == {"conv/latent"}
    np.testing.assert_allclose(
      layer["flip_rate_mean"]["conv/latent"], end["flip_rate"], rtol=1e-6
    )
  assert json.loads(
    (tmp_path / "config.json").read_text()
  ) == settings.resolved(smoke())

  result = json.loads((tmp_path / "result.json").read_text())
  assert result["accuracy"] == ends[-1]["accuracy"]
  assert result["top5"] == ends[-1]["top5"]
  assert result["epochs"] == 2
  assert result["seed"] == 0
  assert result["seconds"] > 0
  assert 0 < result["seconds_to_first_step"] < result["seconds"] + 60
  assert "seeds" not in result
  assert 0 < result["never_flipped_fraction"] <= 1
  assert result["versions"]["jax"] == jax.__version__
  assert state.step.shape == ()
  text = capsys.readouterr().out
  assert text.count("first step after ") == 1
  total, binary = train_state.parameter_counts(state.params)
  assert f"{total:,} parameters, {binary:,} binary" in text
  assert f"final test accuracy    {result['accuracy']:.2%}" in text
  assert (tmp_path / "figure.png").stat().st_size < 300_000


def test_figure_data_is_the_latent_weights_and_their_silence(tmp_path):
  state = loop.train_and_evaluate(smoke(), tmp_path)
  ((layer, (saved, flips)),) = analysis.read_run(tmp_path).weights.items()
  assert layer == "conv/latent"
  latent = np.asarray(state.params["conv"]["latent"]).ravel()
  np.testing.assert_allclose(saved, latent / latent.std(), rtol=2e-3, atol=1e-6)
  never = flips == 0
  result = json.loads((tmp_path / "result.json").read_text())
  np.testing.assert_allclose(
    never.mean(), result["never_flipped_fraction"], rtol=1e-6
  )


def test_a_sibling_is_the_same_run_with_another_method(tmp_path):
  def finished(method, seed, **fields):
    workdir = tmp_path / "digits" / method / f"seed{seed}"
    settings.write(smoke(method, seed=seed, **fields), workdir)
    (workdir / analysis.run.WEIGHTS_FILE).write_bytes(b"")
    return workdir

  ovsw, vanilla = (
    finished("ovsw", 0),
    finished("vanilla", 0, train__log_every=3),
  )
  finished("vanilla", 1)
  finished("ags", 0)
  both = {"vanilla": vanilla, "ovsw": ovsw}
  assert figure.siblings(smoke("ovsw"), ovsw) == both
  assert list(figure.siblings(smoke("ovsw"), ovsw)) == ["vanilla", "ovsw"]
  assert figure.siblings(smoke("vanilla"), vanilla) == both
  assert list(
    figure.siblings(smoke("ags"), tmp_path / "digits" / "ags" / "seed0")
  ) == ["vanilla", "ovsw", "ags"]

  # Not if it was trained for longer, or stopped, or lies elsewhere.
  finished("vanilla", 0, train__epochs=9)
  assert figure.siblings(smoke("ovsw"), ovsw) == {"ovsw": ovsw}
  finished("vanilla", 0)
  (vanilla / analysis.run.WEIGHTS_FILE).unlink()
  assert figure.siblings(smoke("ovsw"), ovsw) == {"ovsw": ovsw}
  assert figure.siblings(smoke("ovsw"), tmp_path / "x") == {
    "ovsw": tmp_path / "x"
  }


def test_methods_leave_out_what_they_do_not_know(tmp_path):
  loop.train_and_evaluate(smoke("vanilla", train__epochs=1), tmp_path)
  (end,) = lines(tmp_path, "eval")
  assert "silent_fraction" not in end
  assert "flip_rate" in end
  assert "ags_ratio" not in lines(tmp_path, "layers")[0]


def test_a_finished_run_says_so_and_changes_nothing(tmp_path, capsys):
  first = loop.train_and_evaluate(smoke(), tmp_path)
  content = {
    path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
  }
  capsys.readouterr()
  again = loop.train_and_evaluate(smoke(), tmp_path)
  assert_same_bits(again, first)
  text = capsys.readouterr().out
  assert "is finished" in text
  assert "final test accuracy" in text
  assert content == {
    path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
  }


def test_a_result_that_was_lost_is_made_again(tmp_path):
  loop.train_and_evaluate(smoke(), tmp_path)
  path = tmp_path / "result.json"
  before = json.loads(path.read_text())
  path.unlink()
  loop.train_and_evaluate(smoke(), tmp_path)
  after = json.loads(path.read_text())
  for name in ("accuracy", "top5", "loss", "never_flipped_fraction"):
    assert after[name] == before[name]


def test_divergence_stops_with_step_and_last_good_checkpoint(tmp_path):
  config = smoke(train__epochs=6, optimizer__momentum=0.0)
  config.optimizer.learning_rate = 3e18
  with pytest.raises(FloatingPointError) as error:
    loop.train_and_evaluate(config, tmp_path)
  bad = int(str(error.value).split("at step ")[1].split(";")[0].split()[0])
  saved = checkpoint.steps(tmp_path / "checkpoints")
  assert all(step < bad for step in saved)
  last = (
    tmp_path / "checkpoints" / str(saved[-1]) if saved else "does not exist"
  )
  assert str(last) in str(error.value)
  assert "learning_rate" in str(error.value)
  assert not (tmp_path / "result.json").exists()
  assert all(math.isfinite(r["loss"]) for r in lines(tmp_path, "train"))


def test_evaluate_takes_every_test_example_once(tmp_path, capsys):
  config = smoke(data__limit=37, eval__batch_size=16)
  state = loop.train_and_evaluate(config, tmp_path)
  capsys.readouterr()
  values = evaluate.evaluate(config, tmp_path)
  run = experiment.build(config)
  images, labels = run.dataset.test
  logits = run.recipe.model.apply(
    {"params": state.params, "batch_stats": state.batch_stats},
    data.normalize(images, run.recipe.mean, run.recipe.std),
  )
  order = np.argsort(-np.asarray(logits), axis=-1)
  np.testing.assert_allclose(
    values["accuracy"], np.mean(order[:, 0] == labels), rtol=1e-6
  )
  np.testing.assert_allclose(
    values["top5"],
    np.mean((order[:, :5] == labels[:, None]).any(-1)),
    rtol=1e-6,
  )
  assert values["step"] == int(state.step)
  assert f"top-1 {values['accuracy']:.2%}" in capsys.readouterr().out


def test_a_limit_keeps_every_class():
  """Image folders are sorted by class: the first examples are one class."""
  labels = np.arange(1000, dtype=np.int32) // 100
  split = data.Split(np.zeros((1000, 1, 1, 1), np.uint8), labels)
  limited = experiment._limited(split, 40)
  np.testing.assert_array_equal(np.bincount(limited.labels), np.full(10, 4))
  assert experiment._limited(split, 1000) is split
