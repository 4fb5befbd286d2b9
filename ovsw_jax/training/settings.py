"""What a config must hold, and whether a workdir belongs to it."""

import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ovsw_jax import data
from ovsw_jax.training import optimizer

CONFIG_FILE = "config.json"

# Fields that may differ when a run is resumed: they choose what is kept and how
# work is cut up, or say where the same things are now, but never what is
# computed. `train.epochs` is not among them: the learning rate of every step
# depends on it.
FREE_TO_CHANGE = frozenset(
  {
    "data.dir",
    "data.workers",
    "distributed",
    "eval.batch_size",
    "init_from",
    "loss.teacher",
    "mesh.data",
    "train.checkpoint_every",
    "train.chunk",
    "train.keep",
    "train.log_every",
  }
)

# What a config may change of a published network; None does not.
MODEL_OPTIONS: Mapping[str, type] = {
  "activation": str,
  "block": str,
  "conv_init": str,
  "head_init": str,
  "last_activation": str,
  "last_norm": bool,
  "norm_scale": float,
  "shortcut": str,
  "stem_activation": str,
}

# Fields younger than some workdirs, and what those runs did without them.
_YOUNGER: Mapping[str, Any] = {
  "replicas": 1,
  "binary_weights": True,
  "data.crop": [0.08, 1.0],
  "data.image_size": 224,
  "data.lighting": None,
  "data.resize": 256,
  "data.workers": None,
  "loss.teacher_weight": 1.0,
  "optimizer.decay_paths": None,
  "schedule.progress": "step",
  "train.accumulate": 1,
  "train.skip_non_finite": 0,
  **{f"model.{option}": None for option in MODEL_OPTIONS},
}


class _Field(NamedTuple):
  types: tuple[type, ...]
  valid: Callable[[Any], bool] = lambda value: True
  wanted: str = ""


def _one_of(*names: str) -> _Field:
  return _Field((str,), lambda v: v in names, "one of " + ", ".join(names))


_NAME = _Field((str,), bool, "a non-empty string")
_TEXT_OR_NONE = _Field((str, type(None)))
_FLAG = _Field((bool,))
_COUNT = _Field((int,), lambda v: v >= 1, "a whole number >= 1")
_FROM_ZERO = _Field((int,), lambda v: v >= 0, "a whole number >= 0")
_COUNT_OR_NONE = _Field(
  (int, type(None)),
  lambda v: v is None or v >= 1,
  "a whole number >= 1, or None",
)
_REAL = (int, float)
_NOT_NEGATIVE = _Field(_REAL, lambda v: 0 <= v < math.inf, "a number >= 0")
_SHARE = _Field(_REAL, lambda v: 0 <= v <= 1, "a share in [0, 1]")
_BELOW_ONE = _Field(_REAL, lambda v: 0 <= v < 1, "a number in [0, 1)")

# Names of models, methods, data sets and schedules are checked by their makers,
# whose errors list what they know.
FIELDS: Mapping[str, _Field] = {
  "name": _NAME,
  "seed": _FROM_ZERO,
  "replicas": _COUNT,
  "method": _NAME,
  "mesh.data": _COUNT_OR_NONE,
  "distributed": _FLAG,
  "binary_weights": _FLAG,
  "init_from": _TEXT_OR_NONE,
  "model.name": _NAME,
  **{
    f"model.{option}": _Field((kind, type(None)))
    for option, kind in MODEL_OPTIONS.items()
  },
  "model.dtype": _one_of("float32", "bfloat16"),
  "data.name": _NAME,
  "data.dir": _TEXT_OR_NONE,
  "data.pad": _FROM_ZERO,
  "data.flip": _FLAG,
  "data.limit": _COUNT_OR_NONE,
  "data.image_size": _COUNT,
  "data.resize": _COUNT,
  "data.crop": _Field(
    (list,),
    lambda v: (
      len(v) == 2
      and all(type(x) in _REAL for x in v)
      and 0 < v[0] <= v[1] < math.inf
    ),
    "two numbers, 0 < low <= high",
  ),
  "data.lighting": _Field(
    (str, type(None)),
    lambda v: v is None or v in data.LIGHTINGS,
    f"one of {', '.join(data.LIGHTINGS)}, or None",
  ),
  "data.workers": _Field(
    (int, type(None)),
    lambda v: v is None or v >= 0,
    "a whole number >= 0, or None",
  ),
  "optimizer.name": _one_of(*optimizer.OPTIMIZERS),
  "optimizer.learning_rate": _NOT_NEGATIVE,
  "optimizer.momentum": _BELOW_ONE,
  "optimizer.nesterov": _FLAG,
  "optimizer.weight_decay": _NOT_NEGATIVE,
  "optimizer.decay_1d": _FLAG,
  "optimizer.decay_paths": _TEXT_OR_NONE,
  "optimizer.clip_norm": _Field(
    (int, float, type(None)),
    lambda v: v is None or 0 < v < math.inf,
    "a number > 0, or None",
  ),
  "loss.label_smoothing": _BELOW_ONE,
  "loss.teacher": _TEXT_OR_NONE,
  "loss.teacher_weight": _SHARE,
  "schedule.name": _NAME,
  "schedule.warmup_epochs": _FROM_ZERO,
  "schedule.floor": _NOT_NEGATIVE,
  "schedule.every": _COUNT,
  "schedule.gamma": _NOT_NEGATIVE,
  "schedule.progress": _one_of("epoch", "step"),
  "train.epochs": _COUNT,
  "train.batch_size": _COUNT,
  "train.accumulate": _COUNT,
  "train.skip_non_finite": _FROM_ZERO,
  "train.log_every": _COUNT,
  "train.checkpoint_every": _COUNT,
  "train.keep": _COUNT,
  "train.chunk": _FROM_ZERO,
  "eval.batch_size": _COUNT,
}


def resolved(config: Any) -> dict[str, Any]:
  """A config as nested plain dicts, the content of `config.json`."""
  return json.loads(json.dumps(config.to_dict()))


def with_younger(saved: Mapping[str, Any]) -> dict[str, Any]:
  """A saved config, flat, with the fields that are younger than it."""
  return {**_YOUNGER, **flatten(saved)}


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Nested dicts as one with dotted names."""
  flat = {}
  for name, value in nested.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def check(config: Any) -> None:
  """Raises ValueError for an unknown, missing or impossible config field."""
  flat = flatten(resolved(config))
  values = {
    name: value
    for name, value in flat.items()
    if not name.startswith(("method_args.", "stages."))
  }
  if unknown := sorted(values.keys() - FIELDS.keys()):
    raise ValueError(
      f"unknown config field {unknown[0]!r}; known fields: "
      f"{', '.join(FIELDS)}, and method_args.* for the method's arguments"
    )
  if missing := sorted(FIELDS.keys() - values.keys()):
    raise ValueError(
      f"the config lacks {', '.join(missing)}; start from one of configs/*.py"
    )
  for name, (types, valid, wanted) in FIELDS.items():
    value = values[name]
    # bool is an int to Python, and `--config.train.epochs=True` a mistake.
    mistyped = isinstance(value, bool) and bool not in types
    if mistyped or not isinstance(value, types) or not valid(value):
      kinds = " or ".join(kind.__name__ for kind in types)
      raise ValueError(f"{name} must be {wanted or kinds}, got {value!r}")


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The config that a workdir was made with, or None if it holds none."""
  path = workdir / CONFIG_FILE
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f"{path} is not valid JSON ({error}); choose another --workdir"
    ) from error


def check_workdir(config: Any, workdir: pathlib.Path) -> None:
  """Raises ValueError unless `workdir` is new or of this very config."""
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(
      f"--workdir={workdir} is a file; choose a directory, new or of this run"
    )
  saved = read(workdir)
  if saved is None:
    if any(
      (workdir / name).exists() for name in ("checkpoints", "metrics.jsonl")
    ):
      raise ValueError(
        f"{workdir} holds a run but no {CONFIG_FILE}; choose another --workdir"
      )
    return
  old, new = with_younger(saved), flatten(resolved(config))
  differing = [
    f"{name} is {new.get(name, 'absent')!r} here and "
    f"{old.get(name, 'absent')!r} there"
    for name in sorted(old.keys() | new.keys())
    if name not in FREE_TO_CHANGE
    and old.get(name, "absent") != new.get(name, "absent")
  ]
  if differing:
    raise ValueError(
      f"{workdir} holds a run of another config: {'; '.join(differing)}. "
      "Choose another --workdir, or the config of that run"
    )


def write(config: Any, workdir: pathlib.Path) -> None:
  """Makes the workdir and puts the config there, whole or not at all."""
  workdir.mkdir(parents=True, exist_ok=True)
  write_json(workdir / CONFIG_FILE, resolved(config))


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON file that is never seen half-written."""
  write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file that is never seen half-written."""
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_text(text)
  temporary.replace(path)


def last_stage(workdir: pathlib.Path) -> pathlib.Path:
  """The workdir of the last stage of a staged run, or the workdir itself."""
  stages = sorted((read(workdir) or {}).get("stages", {}))
  return workdir / stages[-1] if stages else workdir


def default_workdir(config: Any) -> pathlib.Path:
  """Where a run goes if nobody says: one directory for each method and seed.

  Replicas share one, `seed0-4`.
  """
  last = config.seed + config.replicas - 1
  seeds = f"{config.seed}" if config.replicas == 1 else f"{config.seed}-{last}"
  # Of a method in a file, the file's name.
  method = "+".join(
    pathlib.Path(part).stem if part.endswith(".py") else part
    for part in config.method.split("+")
  )
  return pathlib.Path("runs", config.name, method, f"seed{seeds}")
