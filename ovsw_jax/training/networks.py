"""The method and the network that a config describes; networks already trained.

A frozen teacher is such a network, read from the workdir of its run.
"""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from ovsw_jax import methods, models
from ovsw_jax.training import checkpoint, replicas, settings

CHECKPOINTS = "checkpoints"
# What a state holds of the model, see `state.TrainState`.
_PARTS = ("params", "batch_stats", "constants")


def method(config: Any) -> methods.Method:
  """The config's method, with real weights if it asks for them."""
  made = methods.make(config.method, **config.method_args)
  return made if config.binary_weights else methods.real_weights(made)


def network(config: Any, chosen: methods.Method, num_classes: int) -> nn.Module:
  """The config's network of a method's layers."""
  options = {name: config.model[name] for name in settings.MODEL_OPTIONS}
  if options["activation"] is None:
    options["activation"] = chosen.activation
  return models.make(
    config.model.name,
    num_classes=num_classes,
    conv=chosen.conv,
    dtype=jnp.dtype(config.model.dtype),
    **{name: value for name, value in options.items() if value is not None},
  )


def saved_config(workdir: pathlib.Path, field: str) -> ConfigDict:
  """The config of a workdir that `field` of a config names.

  Raises:
    FileNotFoundError: if there is no run, or no checkpoint of it yet.
  """
  saved = settings.read(workdir)
  if saved is None or not checkpoint.steps(workdir / CHECKPOINTS):
    what = "run" if saved is None else "checkpoint"
    raise FileNotFoundError(
      f"{field}={workdir} holds no {what}; train that network first, or give "
      "the workdir of one that is trained"
    )
  whole = traverse_util.unflatten_dict(settings.with_younger(saved), sep=".")
  return ConfigDict({"method_args": {}, **whole})  # none have no dotted names


def saved_variables(workdir: pathlib.Path) -> tuple[int, dict[str, Any]]:
  """The newest checkpoint's step, and its variables by collection."""
  directory = workdir / CHECKPOINTS
  step = checkpoint.steps(directory)[-1]
  parts = checkpoint.variables(directory, step, _PARTS)
  return step, {**parts.pop("constants"), **parts}


def teacher(
  workdir: pathlib.Path, classes: int, image_shape: tuple[int, ...]
) -> tuple[nn.Module, dict[str, Any]]:
  """A trained network and its variables; of several replicas the first.

  Raises:
    FileNotFoundError: if the workdir holds no trained network.
    ValueError: if its network has another number of classes.
  """
  config = saved_config(workdir, "loss.teacher")
  module = network(config, method(config), classes)
  _, variables = saved_variables(workdir)
  variables = replicas.first(variables, config.replicas)
  trained = variables["params"]["head"]["bias"].shape[0]
  if trained != classes:
    raise ValueError(
      f"loss.teacher={workdir} tells {trained} classes apart and the data has "
      f"{classes}; give a teacher trained on the same classes"
    )
  image = jnp.zeros((1, *image_shape))
  try:
    jax.eval_shape(lambda: module.apply(variables, image, train=False))
  except Exception as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f"loss.teacher={workdir} does not take images of {image_shape}: {reason}"
    ) from error
  return module, variables
