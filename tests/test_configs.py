"""Every config file: complete, documented, and what it says it is."""

import importlib
import inspect
import pathlib

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from configs import base
from ovsw_jax import methods, models
from ovsw_jax import optax as ovsw_optax
from ovsw_jax.training import networks, schedules, settings, stages

SHARED = {"base", "__init__"}
NAMES = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py")
  if path.stem not in SHARED
)
STAGED = "cifar10_two_step"
RUNS = pathlib.Path("runs")
IMAGENET = ["imagenet_resnet18", "imagenet_resnet34"]


def module(name):
  return importlib.import_module(f"configs.{name}")


# Recipes that methods were published with, for the networks that they name.
PUBLISHED = [name for name in NAMES if hasattr(module(name), "NETWORKS")]
SINGLE = [name for name in NAMES if name not in PUBLISHED]
CIFAR = [name for name in SINGLE if name.startswith("cifar") and name != STAGED]


def shapes(config, shallow=False):
  """The parameters of a config's network, for a thousand classes.

  Shallow, a stage has one block, which takes less time and has every kind of
  parameter.
  """
  model = networks.network(config, networks.method(config), 1000)
  if shallow:
    model = model.clone(stage_sizes=(1,) * len(model.widths))
  return jax.eval_shape(
    lambda: model.init(
      jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False
    )
  )["params"]


def decaying(config):
  """The paths of the parameters that decay, without the block's name."""
  mask = ovsw_optax.binary_mask(config.optimizer.decay_paths)(
    shapes(config, shallow=True)
  )
  flat = traverse_util.flatten_dict(mask, sep="/")
  kinds = {"/".join(path.split("/")[-2:]): on for path, on in flat.items()}
  return {kind for kind, on in kinds.items() if on}


def test_the_files_are_those_promised():
  networks = ("resnet18", "resnet20", "resnet34", "vgg_small")
  cifar = [f"cifar{n}_{net}" for n in (10, 100) for net in networks]
  assert sorted([*cifar, STAGED, "digits", *IMAGENET]) == sorted(SINGLE)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_is_the_experiments_document(name):
  text = inspect.getdoc(module(name))
  for part in ("Paper:", "Command:", "Expected:", "Cost:", ":smoke"):
    assert part in text
  assert f"python main.py --config=configs/{name}.py" in text


@pytest.mark.parametrize("smoke", ["", "smoke"])
@pytest.mark.parametrize("method", methods.METHODS)
@pytest.mark.parametrize("name", SINGLE)
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


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_is_the_authors_recipe(name):
  config = module(name).get_config()
  assert config.model.name == name.removeprefix("imagenet_")
  flat = settings.flatten(settings.resolved(config))
  recipe = {
    "method_args.delta": 0.01,
    "method_args.weight": 2e-5,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decay_1d": False,
    "loss.label_smoothing": 0.0,
    "schedule.name": "cosine_epoch",
    "schedule.warmup_epochs": 5,
    "schedule.floor": 1e-5,
    "train.epochs": 200,
    "train.batch_size": 512,
    "data.name": "tfds:imagenet2012",
    "data.image_size": 224,
    "data.resize": 256,
    "data.crop": [0.08, 1.25],
    "data.lighting": "ovsw",
    "data.flip": True,
    "data.pad": 0,
  }
  assert {field: flat[field] for field in recipe} == recipe
  # A method without these arguments keeps its own.
  assert not module(name).get_config("vanilla").method_args


@pytest.mark.parametrize("name", SINGLE)
def test_only_the_published_setting_goes_without_a_warning(name):
  published = "authors' published" in inspect.getdoc(module(name))
  assert published == (name in ["cifar10_resnet20", *IMAGENET])


def test_digits_are_never_mirrored():
  assert not module("digits").get_config().data.flip


@pytest.mark.parametrize("name", NAMES)
def test_smoke_is_small_and_needs_no_download(name):
  config = module(name).get_config("ags, smoke")
  assert config.data.name in ("digits", "digits:32")
  assert config.train.epochs * config.data.limit <= 64
  assert config.model == module(name).get_config().model
  for stage in stages.configs(config, RUNS).values():
    assert stage.data == config.data
    assert stage.train == config.train


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_is_complete_for_every_network(name):
  for network in module(name).NETWORKS:
    for arg, added in (("", ""), (",ovsw", "+ovsw")):
      config = module(name).get_config(network + arg)
      config.lock()
      settings.check(config)
      assert config.name == f"{name}_{network}"
      base_method, *_ = config.method.split("+")
      assert base_method.startswith(name.split("_", 1)[1])
      assert config.method == base_method + added
      assert config.model.name.removeprefix("cifar_") == network
      for stage in [config, *stages.configs(config, RUNS).values()]:
        networks.network(stage, networks.method(stage), 10)
        assert stage.schedule.name in schedules.SCHEDULES
  with pytest.raises(ValueError, match="one network, got resnet20, vgg_small"):
    module("cifar10_irnet").get_config("resnet20,vgg_small")


def test_published_recipes_are_those_of_the_papers_code():
  def fields(name, arg, *names):
    flat = settings.flatten(module(name).get_config(arg).to_dict())
    return tuple(flat[field] for field in names)

  common = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "train.epochs",
    "train.batch_size",
  )
  t_min = "method_args.t_min"
  assert fields("cifar10_irnet", "", *common, t_min) == (
    *(0.1, 1e-4, 400, 128),
    1e-3,
  )
  assert fields("cifar10_irnet", "vgg_small", *common, t_min) == (
    *(0.007, 1e-4, 300, 128),
    1e-1,
  )
  assert fields("cifar10_sdbnn", "", *common, t_min) == (
    *(0.11, 1e-4, 500, 128),
    1e-3,
  )
  assert fields("cifar10_sdbnn", "resnet18", *common, t_min) == (
    *(0.08, 1e-4, 600, 128),
    1e-3,
  )
  assert fields("cifar10_sdbnn", "vgg_small", *common, t_min) == (
    *(0.08, 1e-4, 400, 128),
    1e-1,
  )
  assert fields("cifar10_recu", "resnet18", *common) == (0.1, 5e-4, 600, 256)
  assert fields("cifar10_rbnn", "vgg_small", *common) == (0.1, 1e-4, 1000, 256)


def test_two_steps_decay_what_the_authors_code_decays():
  made = stages.configs(module(STAGED).get_config(), RUNS)
  decays = {name: stage.optimizer.weight_decay for name, stage in made.items()}
  assert decays == {"a_teacher": 1e-4, "b_real_weights": 1e-5, "c_binary": 0.0}
  assert decaying(made["c_binary"]) == {
    "activation1/input_shift",
    "activation1/output_shift",
    "activation_quantizer/shift",
    "conv1/latent",
    "shortcut_conv/kernel",
    "stem_conv/kernel",
  }


def test_published_imagenet_recipes_are_those_of_the_papers_code():
  fields = (
    *("optimizer.name", "optimizer.learning_rate", "optimizer.weight_decay"),
    *("schedule.name", "train.epochs", "train.batch_size"),
  )

  def recipe(config):
    flat = settings.flatten(config.to_dict())
    return tuple(flat[field] for field in fields)

  def of(name, network=""):
    return recipe(module(f"imagenet_{name}").get_config(network))

  sgd = ("sgd", 0.1, 1e-4, "cosine_epoch")
  assert of("recu") == of("recu", "resnet34") == (*sgd, 200, 512)
  assert of("rbnn") == of("rbnn", "resnet34") == (*sgd, 150, 512)
  stepped = ("multistep_warmup", 100, 2048)
  assert of("irnet") == ("sgd", 0.8, 1e-5, *stepped)
  assert of("irnet", "resnet34") == ("sgd", 0.8, 1e-4, *stepped)
  early = ("linear_early", 256, 512)
  assert (
    of("bireal") == of("bireal", "birealnet34") == ("adam", 1e-3, 0, *early)
  )

  teacher = ("sgd", 0.1, 1e-4, "multistep", 90, 256)
  for name, network, first, second in (
    ("reactnet", "birealnet18", (2.5e-3, "linear_early", 128, 512), None),
    ("reactnet", "reactnet_a", (1.25e-3, "linear_early", 128, 256), None),
    (
      "rbonn",
      "birealnet18",
      (2.5e-3, "linear_early", 128, 512),
      (1e-3, "linear", 256, 512),
    ),
    ("sdbnn", "birealnet18", (1e-3, "linear", 256, 512), None),
  ):
    config = module(f"imagenet_{name}").get_config(network)
    a, b, c = stages.configs(config, RUNS).values()
    assert recipe(a) == teacher
    assert recipe(b) == ("adam", first[0], 1e-5, *first[1:])
    rate, *rest = second or first
    assert recipe(c) == ("adam", rate, 0.0, *rest)
    assert (a.method, a.model.name) == ("full_precision", "resnet34")
    assert (b.binary_weights, c.binary_weights) == (False, True)
    assert c.init_from == str(RUNS / "b_real_weights")
    assert b.loss.teacher == c.loss.teacher == str(RUNS / "a_teacher")


def test_the_teacher_is_torchvisions_resnet34():
  config = module("imagenet_reactnet").get_config()
  teacher = stages.configs(config, RUNS)["a_teacher"]
  params = shapes(teacher)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 21_797_672
  assert "head_norm" not in params
  # It decays whole, as torchvision's does.
  assert all(
    jax.tree.leaves(
      ovsw_optax.binary_mask(teacher.optimizer.decay_paths)(params)
    )
  )


@pytest.mark.parametrize("network", ["birealnet18", "reactnet_a"])
def test_the_smoke_images_are_large_enough(network):
  config = module("imagenet_reactnet").get_config(f"{network},smoke")
  assert config.data.name == "digits:32"
  shapes(config, shallow=True)  # a side of one is not halved


def test_recu_decays_what_its_code_decays_by_name():
  assert decaying(module("imagenet_recu").get_config()) == {
    *("conv1/latent", "conv2/latent"),
    *("conv1/output_scale", "conv2/output_scale"),
    *("head/bias", "head/kernel", "stem_conv/kernel"),
  }


def test_a_methods_file_and_combinations_are_arguments(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "from ovsw_jax import methods, nn\n"
    "def method(strength=0.5):\n"
    "  return methods.Method('mine', nn.BinaryConv)\n"
  )
  config = module("digits").get_config(f"{file},ovsw,smoke")
  assert config.method == f"{file}+ovsw"
  assert config.method_args.strength == 0.5
  assert config.method_args.delta == 0.04
  directory = settings.default_workdir(config)
  assert directory == pathlib.Path("runs/digits_smoke/mine+ovsw/seed0")


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("ovws", r"'ovws'; known: smoke, .* ags, .* ovsw,"),
    ("irnet,recu", "'recu' has no gradient transformation to add to 'irnet'"),
    ("full_precision,ovsw", "'full_precision' has no binary weights"),
  ],
)
def test_wrong_argument_is_one_clear_error(arg, message):
  with pytest.raises(ValueError, match=message):
    base.parse(arg)
