"""Builds what a config describes: data set, method, model, optimizer."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ovsw_jax import data, methods, models
from ovsw_jax.training import optimizer, replicas, schedules
from ovsw_jax.training import state as train_state
from ovsw_jax.training.step import Recipe

# What is folded into the run's key, one number for each use of randomness.
_INIT, _ORDER, _AUGMENT = range(3)


class Experiment(NamedTuple):
  """A config made real; building it writes nothing."""

  config: Any
  dataset: data.Dataset
  recipe: Recipe
  binary: bool  # whether the model has latent binary weights
  steps_per_epoch: int
  # Of shape (), or (replicas,) if there are several.
  init_key: jax.Array
  order_key: jax.Array
  augment_key: jax.Array

  @property
  def image_shape(self) -> tuple[int, ...]:
    """Height, width and channels of the data set's images."""
    return self.dataset.train.images.shape[1:]

  def initial_state(self) -> train_state.TrainState:
    """The state before the first step."""
    return train_state.create(
      self.recipe.model, self.recipe.tx, self.init_key, self.image_shape
    )

  def abstract_state(self) -> train_state.TrainState:
    """Its shapes and dtypes."""
    return train_state.abstract(
      self.recipe.model, self.recipe.tx, self.image_shape, self.init_key
    )


def _limited(split: data.Split, limit: int | None) -> data.Split:
  """Evenly spaced examples, as image folders are sorted by class."""
  examples = len(split.labels)
  if limit is None or limit >= examples:
    return split
  chosen = np.arange(limit) * examples // limit
  return data.Split(split.images[chosen], split.labels[chosen])


def _check_trainable(method: methods.Method) -> None:
  """Raises ValueError for what a method needs and this trainer does not do."""
  if method.view is not None or method.refresh is not None:
    part = "view of the parameters" if method.view else "refresh at epochs"
    raise ValueError(
      f"method {method.name!r} needs a {part}, which main.py does not run; "
      "train it in a loop of your own, see ovsw_jax.methods.Method"
    )


def build(config: Any) -> Experiment:
  """Reads the data and makes method, model and optimizer.

  Args:
    config: a config that passed `settings.check`.

  Returns:
    The experiment.

  Raises:
    ValueError: for an unknown method, model, schedule or data set, arguments
      that the method does not take, or a batch larger than the training set.
    FileNotFoundError: if the data is not there.
  """
  method = methods.make(config.method, **config.method_args)
  _check_trainable(method)
  dtype = jnp.dtype(config.model.dtype)
  # Made once before the data is read, so that a typing error costs no waiting.
  parts = {"conv": method.conv, "activation": method.activation, "dtype": dtype}
  models.make(config.model.name, num_classes=2, **parts)
  dataset = data.load(config.data.name, data_dir=config.data.dir)
  train = _limited(dataset.train, config.data.limit)
  test = _limited(dataset.test, config.data.limit)

  examples, batch_size = len(train.labels), config.train.batch_size
  if batch_size > examples:
    raise ValueError(
      f"train.batch_size={batch_size} is larger than the training set of "
      f"{config.data.name}, {examples} images; choose a smaller batch"
    )
  # What is left over at the end of an epoch's order is dropped; it differs from
  # epoch to epoch.
  steps_per_epoch = examples // batch_size
  schedule = schedules.make(
    config.schedule.name,
    learning_rate=config.optimizer.learning_rate,
    epochs=config.train.epochs,
    steps_per_epoch=steps_per_epoch,
    warmup_epochs=config.schedule.warmup_epochs,
    floor=config.schedule.floor,
    every=config.schedule.every,
    gamma=config.schedule.gamma,
  )
  tx = optimizer.make(
    config.optimizer.name,
    schedule,
    momentum=config.optimizer.momentum,
    nesterov=config.optimizer.nesterov,
    weight_decay=config.optimizer.weight_decay,
    decay_1d=config.optimizer.decay_1d,
    clip_norm=config.optimizer.clip_norm,
    transform=method.transform,
    tail=method.tail,
    binary=method.binary,
  )
  model = models.make(
    config.model.name,
    num_classes=len(dataset.classes),
    **parts,
  )
  recipe = Recipe(
    model=model,
    tx=tx,
    schedule=schedule,
    total_steps=config.train.epochs * steps_per_epoch,
    mean=dataset.mean,
    std=dataset.std,
    pad=config.data.pad,
    flip=config.data.flip,
    label_smoothing=config.loss.label_smoothing,
  )
  keys = [jax.random.key(seed) for seed in replicas.seeds(config)]

  def keys_of(use):
    return replicas.stack([jax.random.fold_in(key, use) for key in keys])

  return Experiment(
    config=config,
    dataset=dataclasses.replace(dataset, train=train, test=test),
    recipe=recipe,
    binary=method.binary,
    steps_per_epoch=steps_per_epoch,
    init_key=keys_of(_INIT),
    order_key=keys_of(_ORDER),
    augment_key=keys_of(_AUGMENT),
  )
