"""What the configs share: their arguments, all fields, and CIFAR's recipe.

A config file is named on the command line with arguments after a colon, such as
`--config=configs/digits.py:vanilla` or `:ags,smoke`. At most one argument names
a method (`ovsw` if none does); `smoke` makes a run of seconds that shows that
everything works on this machine, and whose accuracy means nothing.
"""

from ml_collections import ConfigDict, config_dict

# Spelled out, so that `--config.method_args.delta=0.02` works. delta and weight
# are the authors' for ResNet-20 on CIFAR-10. state "compact" keeps SAD's flip
# history in 2 bytes per weight instead of 5.
_AGS = {"delta": 0.04}
_SAD = {
  "weight": 9e-4,
  "momentum": 0.999,
  "threshold": 1e-4,
  "state": "full",
}
METHOD_ARGS = {
  "ovsw": _AGS | _SAD,
  "ags": _AGS,
  "sad": _SAD,
  "vanilla": {},
  "full_precision": {},
}


def parse(arg: str) -> tuple[str, bool]:
  """The method that a config's argument names, and whether it has `smoke`."""
  names = [name.strip() for name in (arg or "").split(",") if name.strip()]
  for name in names:
    if name not in METHOD_ARGS and name != "smoke":
      raise ValueError(
        f"unknown config argument {name!r}; known: "
        f"{', '.join(METHOD_ARGS)}, smoke"
      )
  methods = [name for name in names if name != "smoke"]
  if len(methods) > 1:
    raise ValueError(
      f"a run has one method, got {', '.join(methods)} in {arg!r}"
    )
  return (methods or ["ovsw"])[0], "smoke" in names


def experiment(name: str, method: str) -> ConfigDict:
  """All fields, with the values that most experiments keep."""
  config = ConfigDict()
  config.name = name
  config.seed = 0
  config.method = method
  config.method_args = ConfigDict(METHOD_ARGS[method])

  config.model = ConfigDict()
  config.model.name = "cifar_resnet20"
  config.model.dtype = "float32"  # or bfloat16; parameters stay float32

  config.data = ConfigDict()
  config.data.name = "digits"  # or tfds:<name>, folder:<path or archive>
  config.data.dir = config_dict.placeholder(str)  # of prepared TFDS data
  config.data.pad = 0
  config.data.flip = False
  config.data.limit = config_dict.placeholder(int)  # so many examples only

  config.optimizer = ConfigDict()
  config.optimizer.name = "sgd"  # or adam, adamw
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9  # beta1 of adam and adamw
  config.optimizer.nesterov = False
  config.optimizer.weight_decay = 5e-4
  config.optimizer.decay_1d = True  # batch norm and biases as well
  config.optimizer.clip_norm = config_dict.placeholder(float)

  config.loss = ConfigDict()
  config.loss.label_smoothing = 0.0

  config.schedule = ConfigDict()
  config.schedule.name = "cosine"  # or cosine_epoch, constant, multistep
  config.schedule.warmup_epochs = 0
  config.schedule.floor = 1e-5  # added after warm-up; of cosine_epoch alone
  config.schedule.every = 30  # of multistep: epochs between drops,
  config.schedule.gamma = 0.1  # and their factor

  config.train = ConfigDict()
  config.train.epochs = 20
  config.train.batch_size = 64
  config.train.log_every = 10  # steps between lines of metrics.jsonl
  config.train.checkpoint_every = 1  # epochs
  config.train.keep = 2  # checkpoints
  config.train.chunk = 0  # steps per dispatch; 0 chooses for the device

  config.eval = ConfigDict()
  config.eval.batch_size = 500
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


def shrink(config: ConfigDict) -> ConfigDict:
  """A run of seconds on the embedded digits, with a name of its own."""
  config.name = f"{config.name}_smoke"
  config.data.name = "digits"
  config.data.limit = 32
  config.schedule.warmup_epochs = 0
  config.train.epochs = 2
  config.train.batch_size = 16
  config.train.log_every = 1
  config.train.checkpoint_every = 1
  config.eval.batch_size = 32
  return config
