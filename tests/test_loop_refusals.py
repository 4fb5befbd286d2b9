"""Configs and workdirs that are refused, by what they have wrong."""

import math

import pytest

from ovsw_jax import models
from ovsw_jax.training import evaluate, loop, settings
from tests.test_loop import smoke

pytestmark = pytest.mark.usefixtures("tiny")

MAKE = models.make  # as it is without `tiny`


def test_the_workdir_of_another_config_is_refused(tmp_path):
  loop.train_and_evaluate(smoke(train__epochs=1), tmp_path)
  before = (tmp_path / "config.json").read_bytes()
  other = smoke(optimizer__learning_rate=0.05, train__epochs=1)
  with pytest.raises(
    ValueError, match=r"optimizer.learning_rate is 0.05 here and 0.1 there.*--w"
  ):
    loop.train_and_evaluate(other, tmp_path)
  assert (tmp_path / "config.json").read_bytes() == before
  # What changes no result may change; `seconds` of it shows the run is known.
  free = smoke(train__epochs=1, train__log_every=7, train__keep=9)
  settings.check_workdir(free, tmp_path)


def test_a_run_without_its_config_is_refused(tmp_path):
  (tmp_path / "metrics.jsonl").write_text("")
  with pytest.raises(ValueError, match=r"no config\.json"):
    loop.train_and_evaluate(smoke(), tmp_path)


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
  path = tmp_path / "file"
  path.write_text("mine")
  with pytest.raises(ValueError, match=r"file is a file"):
    loop.train_and_evaluate(smoke(), path)
  assert path.read_text() == "mine"


def test_evaluate_without_a_checkpoint_is_one_clear_error(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no checkpoint; train first"):
    evaluate.evaluate(smoke(), tmp_path / "none")
  assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("train.epochs", 0, r"train.epochs must be .*>= 1, got 0"),
    ("train.batch_size", 0, r"train.batch_size must be .*got 0"),
    ("train.batch_size", 33, r"train.batch_size=33 is larger .*32 images"),
    ("model.dtype", "float16", r"model.dtype .*float32, bfloat16.*'float16'"),
    ("optimizer.name", "lion", r"optimizer.name .*sgd, adam, adamw.*'lion'"),
    ("optimizer.learning_rate", -0.1, r"learning_rate .*>= 0, got -0.1"),
    ("optimizer.learning_rate", math.nan, r"learning_rate .*got nan"),
    ("optimizer.momentum", 1.0, r"optimizer.momentum .*\[0, 1\), got 1.0"),
    ("loss.label_smoothing", 1.5, r"label_smoothing .*got 1.5"),
    ("schedule.name", "line", r"'line'.*cosine_epoch"),
    ("schedule.warmup_epochs", 2, r"warmup_epochs=2 must be below epochs=2"),
    ("method", "ovws", r"'ovws'.*full_precision"),
    ("method", "vanilla", r"'vanilla' has no argument 'delta'"),
    ("method_args.delta", -1.0, r"delta"),
    ("method_args.momentum", 1.5, r"momentum"),
    ("data.name", "mnist", r"'mnist'.*digits"),
    ("data.name", "folder:/nowhere/at/all", r"/nowhere/at/all"),
    ("data.pad", -1, r"data.pad must be .*>= 0, got -1"),
    ("train.chunk", -1, r"train.chunk"),
    ("seed", -1, r"seed must be"),
    ("replicas", 0, r"replicas must be .*>= 1, got 0"),
  ],
)
def test_wrong_values_are_named_and_nothing_is_written(
  tmp_path, field, value, message
):
  config = smoke()
  config.update_from_flattened_dict({field: value})
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    loop.train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_unknown_model_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(models, "make", MAKE)
  config = smoke()
  config.model.name = "resnet19"
  with pytest.raises(ValueError, match=r"'resnet19'.*cifar_resnet20"):
    loop.train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("edit", ["unknown", "missing", "type"])
def test_a_config_of_another_shape_is_refused(tmp_path, edit):
  config = smoke()
  with config.unlocked():
    if edit == "unknown":
      config.train.epoch = 3
      message = r"unknown config field 'train.epoch'.*train.epochs"
    elif edit == "missing":
      del config.train["epochs"]
      message = r"lacks train.epochs"
    else:
      config.train = config.train.copy_and_resolve_references()
      with config.train.ignore_type():
        config.train.epochs = True
      message = r"train.epochs must be .*got True"
  with pytest.raises(ValueError, match=message):
    loop.train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
