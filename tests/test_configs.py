"""Every config file: complete, documented, and what it says it is."""

import importlib
import inspect
import pathlib

import pytest

from configs import base
from ovsw_jax import methods, models
from ovsw_jax.training import schedules, settings

SHARED = {"base", "__init__"}
NAMES = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py")
  if path.stem not in SHARED
)
CIFAR = [name for name in NAMES if name.startswith("cifar")]


def module(name):
  return importlib.import_module(f"configs.{name}")


def test_the_files_are_those_promised():
  networks = ("resnet18", "resnet20", "resnet34", "vgg_small")
  cifar = [f"cifar{n}_{net}" for n in (10, 100) for net in networks]
  assert sorted([*cifar, "digits"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_docstring_is_the_experiments_document(name):
  text = inspect.getdoc(module(name))
  for part in ("Paper:", "Command:", "Expected:", "Cost:", ":smoke"):
    assert part in text
  assert f"python main.py --config=configs/{name}.py" in text


@pytest.mark.parametrize("smoke", ["", "smoke"])
@pytest.mark.parametrize("method", methods.METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_config_is_complete_and_valid(name, method, smoke):
  config = module(name).get_config(f"{method},{smoke}")
  config.lock()
  settings.check(config)
  assert config.name == (f"{name}_smoke" if smoke else name)
  assert config.method == method
  assert methods.make(config.method, **config.method_args).name == method
  assert config.model.name in models.ARCHITECTURES
  assert config.schedule.name in schedules.SCHEDULES


def test_ovsw_is_the_default():
  assert module("digits").get_config() == module("digits").get_config("ovsw")


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_is_the_authors_recipe(name):
  config = module(name).get_config()
  data, net = name.split("_", 1)
  assert config.data.name == f"tfds:{data}"
  assert config.model.name.removeprefix("cifar_") == net
  assert config.method_args.to_dict() == {
    "delta": 0.04,
    "weight": 9e-4,
    "momentum": 0.999,
    "threshold": 1e-4,
    "state": "full",
  }
  recipe = {
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 5e-4,
    "optimizer.decay_1d": True,
    "optimizer.clip_norm": None,
    "loss.label_smoothing": 0.0,
    "schedule.name": "cosine_epoch",
    "schedule.warmup_epochs": 5,
    "schedule.floor": 1e-5,
    "train.epochs": 600,
    "train.batch_size": 256,
    "data.pad": 4,
    "data.flip": True,
  }
  flat = settings.flatten(config.to_dict())
  assert {field: flat[field] for field in recipe} == recipe


@pytest.mark.parametrize("name", NAMES)
def test_only_the_published_setting_goes_without_a_warning(name):
  published = "authors' published" in inspect.getdoc(module(name))
  assert published == (name == "cifar10_resnet20")


def test_digits_are_never_mirrored():
  assert not module("digits").get_config().data.flip


@pytest.mark.parametrize("name", NAMES)
def test_smoke_is_small_and_needs_no_download(name):
  config = module(name).get_config("vanilla, smoke")
  assert config.data.name == "digits"
  assert config.train.epochs * config.data.limit <= 64
  assert config.model == module(name).get_config().model


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("ovws", r"'ovws'; known: ovsw, ags, .*smoke"),
    ("ovsw,ags", "one method, got ovsw, ags"),
  ],
)
def test_wrong_argument_is_one_clear_error(arg, message):
  with pytest.raises(ValueError, match=message):
    base.parse(arg)
