"""Training in stages: runs one after the other, each on what others left.

A stage is a run of its own, in a directory of the workdir that has its name:
its config is that of the whole with the fields that the stage changes. Where
`init_from` or `loss.teacher` is the name of an earlier stage, that stage's
network is meant. So a staged run resumes inside of a stage as any run does, and
between stages because finished ones are skipped.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from ovsw_jax import methods
from ovsw_jax.training import (
  checkpoint,
  evaluate,
  loop,
  mesh,
  networks,
  settings,
)
from ovsw_jax.training import state as train_state

_PLACES = ("init_from", "loss.teacher")


def configs(config: Any, workdir: pathlib.Path) -> dict[str, ConfigDict]:
  """The config of every stage, in the order of their names.

  Raises:
    ValueError: for a field that a stage changes and no config has, or a value
      that it cannot have.
  """
  made: dict[str, ConfigDict] = {}
  for name in sorted(config.stages):
    stage = config.copy_and_resolve_references()
    stage.stages = ConfigDict()
    if "method" in config.stages[name]:
      # Before what the stage says of them.
      stage.method_args = ConfigDict(
        methods.defaults(config.stages[name].method)
      )
    for field, value in settings.flatten(config.stages[name].to_dict()).items():
      if field in _PLACES and value in made:
        value = str(workdir / value)
      _set(stage, field, value, f"stages.{name}.{field}")
    try:
      settings.check(stage)
    except ValueError as error:
      raise ValueError(f"stages.{name}: {error}") from error
    made[name] = stage
  return made


def _set(config: ConfigDict, field: str, value: Any, called: str) -> None:
  """Sets a dotted field of a config that has it."""
  if field not in settings.flatten(config.to_dict()):
    raise ValueError(f"{called}: there is no config field {field!r}")
  try:
    config.update_from_flattened_dict({field: value})
  except TypeError as error:
    raise ValueError(f"{called}: {error}") from error


def train(config: Any, workdir: str | pathlib.Path) -> train_state.TrainState:
  """Trains a config, all its stages if it has any; see `loop`.

  Returns:
    The state after the last step of the last stage.
  """
  workdir = pathlib.Path(workdir)
  if not config.stages:
    return loop.train_and_evaluate(config, workdir)
  settings.check(config)
  made = configs(config, workdir)
  settings.check_workdir(config, workdir)
  for number, (name, stage) in enumerate(made.items(), start=1):
    loop.say(f"{'stage':8} {name}, {number} of {len(made)}")
    # Written once the first stage has found its data.
    state = loop.train_and_evaluate(stage, workdir / name)
    if mesh.first_process():
      settings.write(config, workdir)
  return state


def evaluate_newest(config: Any, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Evaluates a run, of a staged one the last stage begun; see `evaluate`."""
  workdir = pathlib.Path(workdir)
  for name, stage in reversed(configs(config, workdir).items()):
    if checkpoint.steps(workdir / name / networks.CHECKPOINTS):
      loop.say(f"{'stage':8} {name}")
      return evaluate.evaluate(stage, workdir / name)
  return evaluate.evaluate(config, workdir)
