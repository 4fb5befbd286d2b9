"""What the configs share: their arguments, all fields, and whole recipes.

A config file is named on the command line with arguments after a colon, such as
`--config=configs/digits.py:irnet`. An argument names a method, by a name of
`ovsw_jax.methods.METHODS`, a module or a file (`ovsw` if none does); further
ones add their gradient transformation to it, as in `:irnet,ovsw`. `smoke` makes
a run of seconds that shows that everything works on this machine, and whose
accuracy means nothing.
"""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict, config_dict

from ovsw_jax import methods
from ovsw_jax.training.settings import MODEL_OPTIONS

Fields = Mapping[str, Any]  # dotted names of config fields, and their values

# The weight decay group of ReActNet's code and its relatives. By PyTorch's
# names and shapes, their shifts are in it, and classifier, normalization and
# slopes are not.
REACTNET_DECAY = r"(latent|conv/kernel|conv\d/kernel|shift|gamma)$"

# The teacher of ReActNet and its relatives, torchvision's ResNet-34, as
# torchvision trains it but for the images, which are the pupil's.
RESNET34: Fields = {
  "model.name": "resnet34",
  "model.activation": "relu",
  "model.block": "basic",
  "model.conv_init": "fan_out_normal",
  "model.last_norm": False,
  "model.norm_scale": 1.0,
  "model.stem_activation": "relu",
  "optimizer.name": "sgd",
  "optimizer.learning_rate": 0.1,
  "optimizer.weight_decay": 1e-4,
  "optimizer.decay_paths": ".",
  "schedule.name": "multistep",
  "train.epochs": 90,
  "train.batch_size": 256,
}


def parse(arg: str) -> tuple[str, bool]:
  """The method that a config's argument names, and whether it has `smoke`.

  Raises:
    ValueError: for what names no method, or methods that do not combine.
  """
  names = [name.strip() for name in (arg or "").split(",") if name.strip()]
  for name in names:
    # A module has a dot in its name and a file ends in .py; see `methods.make`.
    if name not in methods.METHODS and name != "smoke" and "." not in name:
      raise ValueError(
        f"unknown config argument {name!r}; known: smoke, a method's module or "
        f"file, {', '.join(sorted(methods.METHODS))}"
      )
  method = "+".join(name for name in names if name != "smoke") or "ovsw"
  if "+" in method:
    methods.make(method)  # to refuse here what has nothing to add
  return method, "smoke" in names


def experiment(name: str, method: str) -> ConfigDict:
  """All fields, with the values that most experiments keep."""
  config = ConfigDict()
  config.name = name
  config.seed = 0
  # Networks of the seeds seed, seed + 1, ... trained in one program. It pays
  # for small networks on an accelerator: two of ResNet-20 take an H200 0.51 s
  # an epoch each, evaluation included, one alone 0.54 s for the steps. On a CPU
  # it takes what the runs take one after the other (digits, five seeds, two
  # cores: 50 ms a step and network, 51 to 59 ms alone) and longer to compile
  # (19 s, 4 s).
  config.replicas = 1
  config.method = method
  # Spelled out, so that `--config.method_args.delta=0.02` works.
  config.method_args = ConfigDict(methods.defaults(method))
  # False: the first stage of two-step training, real weights behind binary
  # activations.
  config.binary_weights = True
  # Workdir of a run whose network this one begins with, as far as it fits.
  config.init_from = config_dict.placeholder(str)

  config.mesh = ConfigDict()
  config.mesh.data = config_dict.placeholder(int)  # devices; None: all
  # Whether several processes train together; a coordinator's address in the
  # environment says so as well, see ovsw_jax/training/mesh.py.
  config.distributed = False

  config.model = ConfigDict()
  config.model.name = "cifar_resnet20"  # or a file with your own `network`
  config.model.dtype = "float32"  # or bfloat16; parameters stay float32
  # Options of `ovsw_jax.models.ResNet` and `VGGSmall`; None is as published.
  for option, kind in MODEL_OPTIONS.items():
    config.model[option] = config_dict.placeholder(kind)

  config.data = ConfigDict()
  # Or tfds:<name>, folder:<path or archive>; stream:<path> and
  # tfds:imagenet2012 do not fit in memory and are decoded as they go.
  config.data.name = "digits"
  config.data.dir = config_dict.placeholder(str)  # of prepared TFDS data
  config.data.pad = 0
  config.data.flip = False
  config.data.limit = config_dict.placeholder(int)  # so many examples only
  # Color images alone: alexnet, ovsw or uint8, see `ovsw_jax.data.lighting`.
  config.data.lighting = config_dict.placeholder(str)
  # Streamed data alone: side of the images, shorter side that evaluation takes
  # their centre of, bounds of the area of training's crops, and processes that
  # decode (None: one for each core, 0: threads of this one).
  config.data.image_size = 224
  config.data.resize = 256
  config.data.crop = (0.08, 1.0)
  config.data.workers = config_dict.placeholder(int)

  config.optimizer = ConfigDict()
  config.optimizer.name = "sgd"  # or adam, adamw
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9  # beta1 of adam and adamw
  config.optimizer.nesterov = False
  config.optimizer.weight_decay = 5e-4
  config.optimizer.decay_1d = True  # batch norm and biases as well
  # Regular expression of the parameters that decay; None: all.
  config.optimizer.decay_paths = config_dict.placeholder(str)
  config.optimizer.clip_norm = config_dict.placeholder(float)

  config.loss = ConfigDict()
  config.loss.label_smoothing = 0.0
  # Workdir of a trained network whose distribution is learned from, and that
  # loss's share beside the labels'.
  config.loss.teacher = config_dict.placeholder(str)
  config.loss.teacher_weight = 1.0

  config.schedule = ConfigDict()
  # Or cosine_epoch, constant, linear, linear_early, multistep,
  # multistep_warmup.
  config.schedule.name = "cosine"
  config.schedule.warmup_epochs = 0
  config.schedule.floor = 1e-5  # added after warm-up; of cosine_epoch alone
  config.schedule.every = 30  # of multistep: epochs between drops,
  config.schedule.gamma = 0.1  # and their factor

  # When a method's own schedules, such as IR-Net's estimator, move on: "epoch",
  # as published, or "step".
  config.schedule.progress = "epoch"

  config.train = ConfigDict()
  config.train.epochs = 20
  config.train.batch_size = 64
  config.train.accumulate = 1  # parts of a batch, one after the other
  # Steps in a row that may be skipped because loss or gradient are not finite;
  # 0 stops at the first.
  config.train.skip_non_finite = 0
  config.train.log_every = 10  # steps between lines of metrics.jsonl
  config.train.checkpoint_every = 1  # epochs
  config.train.keep = 2  # checkpoints
  config.train.chunk = 0  # steps per dispatch; 0 chooses for the device

  config.eval = ConfigDict()
  config.eval.batch_size = 500

  # Runs that follow each other, by name and in the order of names: what each
  # changes of the fields above. init_from and loss.teacher may name an earlier
  # one. Empty: one run.
  config.stages = ConfigDict()
  return config


def cifar(name: str, data: str, model: str, arg: str) -> ConfigDict:
  """The authors' CIFAR recipe around a model, for `arg`'s method."""
  method, smoke = parse(arg)
  config = experiment(name, method)
  config.model.name = model
  config.data.name = data
  config.data.pad = 4
  config.data.flip = True
  config.schedule.name = "cosine_epoch"
  config.schedule.warmup_epochs = 5
  config.train.epochs = 600
  config.train.batch_size = 256
  config.train.log_every = 100
  config.train.checkpoint_every = 10
  return shrink(config) if smoke else config


def imagenet(name: str, model: str, arg: str) -> ConfigDict:
  """The authors' ImageNet recipe around a model, for `arg`'s method."""
  method, smoke = parse(arg)
  config = experiment(name, method)
  config.model.name = model
  config.data.name = "tfds:imagenet2012"
  config.data.flip = True
  config.data.crop = (0.08, 1.25)
  config.data.lighting = "ovsw"
  for argument, value in (("delta", 0.01), ("weight", 2e-5)):
    if argument in config.method_args:
      config.method_args[argument] = value
  config.optimizer.weight_decay = 1e-4
  config.optimizer.decay_1d = False
  config.schedule.name = "cosine_epoch"
  config.schedule.warmup_epochs = 5
  config.train.epochs = 200
  config.train.batch_size = 512
  config.train.log_every = 100
  return shrink(config) if smoke else config


def _published(
  name: str, method: str, networks: Mapping[str, Fields], arg: str
) -> tuple[ConfigDict, str, bool]:
  """The fields of a recipe, the network that `arg` chooses, and `smoke`."""
  names = [part.strip() for part in (arg or "").split(",") if part.strip()]
  chosen = [part for part in names if part in networks]
  if len(chosen) > 1:
    raise ValueError(
      f"a run has one network, got {', '.join(chosen)} in {arg!r}"
    )
  network = (chosen or list(networks))[0]
  others = [part for part in names if part not in networks]
  combined, smoke = parse(",".join([method, *others]))
  config = experiment(f"{name}_{network}", combined)
  config.data.flip = True
  config.schedule.name = "cosine_epoch"
  config.schedule.floor = 0.0
  config.train.log_every = 100
  return config, network, smoke


def published(
  name: str, method: str, networks: Mapping[str, Fields], arg: str
) -> ConfigDict:
  """A method's own recipe on CIFAR-10, for one of the networks it is told for.

  Args:
    name: of the experiment.
    method: a key of `ovsw_jax.methods.METHODS`.
    networks: by name, the fields of a config in which their recipes differ from
      SGD at batch 128 with a cosine to zero; the first is the default.
    arg: what stands after the colon: a network, methods whose gradient
      transformation is added, `smoke`.

  Raises:
    ValueError: for two networks, or what names no method.
  """
  config, network, smoke = _published(name, method, networks, arg)
  config.model.name = network if network == "vgg_small" else f"cifar_{network}"
  config.data.name = "tfds:cifar10"
  config.data.pad = 4
  config.train.batch_size = 128
  config.train.checkpoint_every = 10
  config.update_from_flattened_dict(networks[network])
  return shrink(config) if smoke else config


def published_imagenet(
  name: str,
  method: str,
  networks: Mapping[str, Fields],
  arg: str,
  stages: ConfigDict | None = None,
) -> ConfigDict:
  """A method's own recipe on ImageNet; see `published`.

  Args:
    name: of the experiment.
    method: a key of `ovsw_jax.methods.METHODS`.
    networks: by a key of `ovsw_jax.models.ARCHITECTURES`, the fields in which
      their recipes differ from SGD at batch 512 with a cosine to zero, on crops
      of 8 to 100 % of the area, mirrored; the first is the default.
    arg: as for `published`.
    stages: what these change of it, such as those of `two_steps`.

  Raises:
    ValueError: for two networks, or what names no method.
  """
  config, network, smoke = _published(name, method, networks, arg)
  config.model.name = network
  config.data.name = "tfds:imagenet2012"
  config.train.batch_size = 512
  config.update_from_flattened_dict(networks[network])
  if stages is not None:
    config.stages = stages
  if smoke:
    shrink(config)
    # These networks halve their images up to five times.
    config.data.name = "digits:32"
  return config


def two_steps(
  teacher: Fields, first: Fields, second: Fields | None = None
) -> ConfigDict:
  """The stages of two-step training, and the one that trains the teacher.

  The loss of both steps is the teacher's distribution, and no labels.

  Args:
    teacher: fields of a network with real weights and activations.
    first: fields of the step with binary activations and real weights.
    second: fields of the step with binary weights, which begins with what fits
      of the first.
  """
  taught = {"loss.teacher": "a_teacher"}
  found = {
    "a_teacher": {"method": "full_precision", **teacher},
    "b_real_weights": {"binary_weights": False, **taught, **first},
    "c_binary": {"init_from": "b_real_weights", **taught, **(second or {})},
  }
  return ConfigDict(
    {
      name: traverse_util.unflatten_dict(fields, sep=".")
      for name, fields in found.items()
    }
  )


def shrink(config: ConfigDict) -> ConfigDict:
  """A run of seconds on the embedded digits, with a name of its own."""
  config.name = f"{config.name}_smoke"
  config.data.name = "digits"
  config.data.limit = 32
  config.data.lighting = None  # digits are grey
  config.schedule.warmup_epochs = 0
  config.train.epochs = 2
  config.train.batch_size = 16
  config.train.log_every = 1
  config.train.checkpoint_every = 1
  config.eval.batch_size = 32
  for stage in config.stages.values():
    for group in {"train", "data"} & set(stage):
      del stage[group]
  return config
