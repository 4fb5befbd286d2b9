"""Stages, partial loading and teachers, from the config to the last bit."""

import json
import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import cifar10_two_step, digits
from ovsw_jax import methods
from ovsw_jax.training import (
  checkpoint,
  experiment,
  loop,
  networks,
  settings,
  stages,
  transfer,
)

pytestmark = pytest.mark.usefixtures("tiny")


def smoke(arg):
  config = digits.get_config(arg)
  config.mesh.data = 1
  return config


def staged(**changes):
  config = smoke("ovsw,smoke")
  config.stages = ConfigDict(
    {
      "a": {"optimizer": {"learning_rate": 0.05}, "seed": 3},
      "b": {"init_from": "a", "loss": {"teacher": "a"}, **changes},
    }
  )
  return config


def same_bits(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_stages_change_fields_and_name_each_other():
  made = stages.configs(staged(train={"epochs": 5}), pathlib.Path("w"))
  assert list(made) == ["a", "b"]
  a, b = made.values()
  assert (a.optimizer.learning_rate, b.optimizer.learning_rate) == (0.05, 0.1)
  assert (a.seed, b.seed, a.train.epochs, b.train.epochs) == (3, 0, 2, 5)
  assert b.init_from == b.loss.teacher == str(pathlib.Path("w/a"))
  assert not b.stages and a.init_from is None


def test_another_method_brings_its_arguments():
  config = staged(method="irnet", method_args={"t_min": 0.5})
  made = stages.configs(config, pathlib.Path("w"))
  assert {*made["b"].method_args} == {*methods.defaults("irnet")}
  assert made["b"].method_args.t_min == 0.5
  assert "delta" in made["a"].method_args


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"trian": {"epochs": 1}}, "stages.b.trian.epochs: there is no config"),
    ({"train": {"epochs": 0}}, "stages.b: train.epochs must be"),
    ({"train": {"epochs": "many"}}, "stages.b.train.epochs: "),
    ({"loss": {"teacher_weight": 2.0}}, "teacher_weight must be a share"),
  ],
)
def test_a_stage_that_cannot_be_is_refused_before_any_runs(
  tmp_path, changes, message
):
  with pytest.raises(ValueError, match=message):
    stages.train(staged(**changes), tmp_path / "w")
  assert not (tmp_path / "w").exists()


def test_stages_resume_inside_and_between(tmp_path, monkeypatch, capsys):
  whole = stages.train(staged(), tmp_path / "whole")
  assert "stage    b, 2 of 2" in capsys.readouterr().out

  save = checkpoint.save
  for stage in ("a", "b"):

    def save_and_die(directory, step, tree, *, stage=stage, **kwargs):
      save(directory, step, tree, **kwargs)
      if directory.parent.name == stage and step == 2:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
      stages.train(staged(), tmp_path / "cut")
  monkeypatch.setattr(checkpoint, "save", save)
  same_bits(stages.train(staged(), tmp_path / "cut"), whole)
  capsys.readouterr()
  same_bits(stages.train(staged(), tmp_path / "cut"), whole)
  assert capsys.readouterr().out.count("is finished") == 2
  values = stages.evaluate_newest(staged(), tmp_path / "cut")
  result = json.loads((tmp_path / "cut" / "b" / "result.json").read_text())
  assert values["accuracy"] == result["accuracy"]


def test_another_config_in_the_workdir_is_refused(tmp_path):
  stages.train(staged(), tmp_path)
  with pytest.raises(ValueError, match=r"stages.b.seed is 9 here and 'absent'"):
    stages.train(staged(seed=9), tmp_path)


def test_the_second_stage_begins_with_the_first_ones_bits(tmp_path):
  first = loop.train_and_evaluate(smoke("smoke"), tmp_path / "a")
  config = smoke("vanilla,smoke")
  config.init_from = str(tmp_path / "a")
  run = experiment.build(config)
  (tmp_path / "b").mkdir()
  state, told = transfer.begin(run, run.initial_state(), tmp_path / "b")
  assert told == f"begins   with step 4 of {tmp_path / 'a'}: 13 arrays loaded"
  same_bits(state.params, first.params)
  same_bits(state.batch_stats, first.batch_stats)
  assert int(state.step) == 0
  report = json.loads((tmp_path / "b" / transfer.REPORT_FILE).read_text())
  assert report["new"] == report["unused"] == []
  assert "params/conv/latent" in report["loaded"]


def test_what_does_not_fit_is_told_apart():
  here = {"params": {"a": np.zeros(2), "b": np.zeros(3), "c": np.zeros(1)}}
  there = {"params": {"a": np.ones(2), "b": np.ones(4), "d": np.ones(1)}}
  variables, report = transfer.into(here | {"batch_stats": {}}, there)
  assert variables["params"]["a"].tolist() == [1, 1]
  assert variables["params"]["b"].tolist() == [0, 0, 0]
  assert variables["batch_stats"] == {}
  assert report == (["params/a"], ["params/c"], ["params/b"], ["params/d"])
  text = transfer.text(report)
  assert text == (
    "1 arrays loaded; new here: c x 1; of another shape: b x 1; not taken: "
    "d x 1"
  )
  with pytest.raises(ValueError, match="no parameter fits: those here are"):
    transfer.into(here, {"params": {"x": np.ones(1)}})


def test_replicas_begin_with_as_many(tmp_path):
  config = smoke("smoke")
  config.replicas = 2
  first = loop.train_and_evaluate(config, tmp_path / "a")
  config.init_from = str(tmp_path / "a")
  run = experiment.build(config)
  (tmp_path / "b").mkdir()
  same_bits(
    transfer.begin(run, run.initial_state(), tmp_path / "b")[0].params,
    first.params,
  )
  config.replicas = 1
  with pytest.raises(ValueError, match="holds 2 replicas and this run has"):
    loop.train_and_evaluate(config, tmp_path / "c")


@pytest.mark.parametrize("field", ["init_from", "loss.teacher"])
def test_a_network_that_is_not_there_is_named(tmp_path, field):
  config = smoke("smoke")
  config.update_from_flattened_dict({field: str(tmp_path / "none")})
  with pytest.raises(FileNotFoundError, match=f"{field}=.*none holds no run"):
    loop.train_and_evaluate(config, tmp_path / "w")
  assert not (tmp_path / "w").exists()


def test_a_teacher_of_other_classes_is_refused(tmp_path):
  loop.train_and_evaluate(smoke("smoke"), tmp_path)
  with pytest.raises(ValueError, match=r"tells 10 classes apart .* has 7"):
    networks.teacher(tmp_path, 7, (16, 16, 1))
  with pytest.raises(ValueError, match="does not take images of"):
    networks.teacher(tmp_path, 10, (16, 16, 3))


def test_evaluation_needs_no_teacher(tmp_path):
  teacher, workdir = tmp_path / "teacher", tmp_path / "student"
  loop.train_and_evaluate(smoke("smoke"), teacher)
  config = smoke("vanilla,smoke")
  config.loss.teacher = str(teacher)
  loop.train_and_evaluate(config, workdir)
  teacher.rename(tmp_path / "elsewhere")
  assert "accuracy" in stages.evaluate_newest(config, workdir)


def test_two_step_config_has_the_published_order():
  config = cifar10_two_step.get_config()
  settings.check(config)
  made = stages.configs(config, pathlib.Path("w"))
  a, b, c = made.values()
  assert (a.method, b.method, c.method) == (
    "full_precision",
    "reactnet",
    "reactnet",
  )
  assert (b.binary_weights, c.binary_weights) == (False, True)
  assert c.init_from == str(pathlib.Path("w/b_real_weights"))
  assert b.loss.teacher == c.loss.teacher == str(pathlib.Path("w/a_teacher"))
  assert cifar10_two_step.get_config("rbonn,ovsw").method == "rbonn+ovsw"
