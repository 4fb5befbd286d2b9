"""Builds what a config describes: data set, method, model, optimizer."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from ovsw_jax import data
from ovsw_jax.training import (
  batches,
  mesh,
  networks,
  optimizer,
  replicas,
  schedules,
)
from ovsw_jax.training import state as train_state
from ovsw_jax.training.step import Recipe

# What is folded into the run's key, one number for each use of randomness.
_INIT, _ORDER, _AUGMENT = range(3)


class Experiment(NamedTuple):
  """A config made real; building it writes nothing."""

  config: Any
  dataset: data.Dataset | data.Streamed
  recipe: Recipe
  binary: bool  # whether the model has latent binary weights
  steps_per_epoch: int
  # Of shape (), or (replicas,) if there are several.
  init_key: jax.Array
  order_key: jax.Array
  augment_key: jax.Array
  teacher: Any  # its variables, or None
  mesh: jax.sharding.Mesh

  @property
  def image_shape(self) -> tuple[int, ...]:
    """Height, width and channels of the data set's images."""
    return self.dataset.image_shape

  def initial_state(self) -> train_state.TrainState:
    """The state before the first step."""
    recipe = self.recipe
    return train_state.create(
      recipe.model,
      recipe.tx,
      self.init_key,
      self.image_shape,
      view=recipe.view,
      refresh=recipe.refresh,
    )

  def abstract_state(self) -> train_state.TrainState:
    """Its shapes and dtypes, and its place on the devices."""
    recipe = self.recipe
    shapes = train_state.abstract(
      recipe.model,
      recipe.tx,
      self.image_shape,
      self.init_key,
      view=recipe.view,
      refresh=recipe.refresh,
    )
    if mesh.size(self.mesh) == 1:
      return shapes
    place = mesh.everywhere(self.mesh)
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
      shapes,
    )


def _limited(split: data.Split, limit: int | None) -> data.Split:
  """Evenly spaced examples, as image folders are sorted by class."""
  examples = len(split.labels)
  if limit is None or limit >= examples:
    return split
  chosen = np.arange(limit) * examples // limit
  return data.Split(split.images[chosen], split.labels[chosen])


def _dataset(config: Any) -> data.Dataset | data.Streamed:
  """The config's data set, with no more examples than it wants."""
  options, limit = config.data, config.data.limit
  if data.is_streamed(options.name):
    batches.check(config)
    low, high = options.crop
    return data.open_stream(
      options.name,
      data_dir=options.dir,
      image_size=options.image_size,
      resize=options.resize,
      scale=(low, high),
    ).limited(limit)
  dataset = data.load(options.name, data_dir=options.dir)
  if options.lighting is not None and dataset.image_shape[-1] != 3:
    raise ValueError(
      f"data.lighting={options.lighting} shifts colors, and the images of "
      f"{options.name} have {dataset.image_shape[-1]} channels; leave it out"
    )
  return dataclasses.replace(
    dataset,
    train=_limited(dataset.train, limit),
    test=_limited(dataset.test, limit),
  )


def build(config: Any, *, train: bool = True) -> Experiment:
  """Reads the data and makes method, model, optimizer and teacher.

  Args:
    config: a config that passed `settings.check`.
    train: whether it is to be trained: evaluation needs no teacher.

  Returns:
    The experiment.

  Raises:
    ValueError: for an unknown method, model, schedule or data set, arguments
      that the method does not take, or a batch larger than the training set.
    FileNotFoundError: if the data is not there, or no teacher or network to
      begin with where the config names one.
  """
  method = networks.method(config)
  # Made once before the data is read, so that a typing error costs no waiting.
  networks.network(config, method, 2)
  if train and config.init_from is not None:
    networks.saved_config(pathlib.Path(config.init_from), "init_from")
  dataset = _dataset(config)
  (examples, _), batch_size = dataset.counts, config.train.batch_size
  if batch_size > examples:
    raise ValueError(
      f"train.batch_size={batch_size} is larger than the training set of "
      f"{config.data.name}, {examples} images; choose a smaller batch"
    )
  devices = mesh.make(config.mesh.data)
  mesh.check_batch(batch_size, config.train.accumulate, mesh.size(devices))
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
    decay_paths=config.optimizer.decay_paths,
    clip_norm=config.optimizer.clip_norm,
    transform=method.transform,
    tail=method.tail,
    binary=method.binary,
  )
  classes = len(dataset.classes)
  teacher, taught = None, None
  if train and config.loss.teacher is not None:
    teacher, taught = networks.teacher(
      pathlib.Path(config.loss.teacher),
      classes,
      dataset.image_shape,
    )
  by_epoch = config.schedule.progress == "epoch"
  recipe = Recipe(
    model=networks.network(config, method, classes),
    tx=tx,
    schedule=schedule,
    total_steps=config.train.epochs * steps_per_epoch,
    mean=dataset.mean,
    std=dataset.std,
    pad=config.data.pad,
    flip=config.data.flip,
    lighting=config.data.lighting,
    label_smoothing=config.loss.label_smoothing,
    progress_every=steps_per_epoch if by_epoch else 1,
    batch_sharding=mesh.split(devices),
    accumulate=config.train.accumulate,
    skip_non_finite=config.train.skip_non_finite > 0,
    view=method.view,
    refresh=method.refresh,
    teacher=teacher,
    teacher_weight=config.loss.teacher_weight,
  )
  keys = [jax.random.key(seed) for seed in replicas.seeds(config)]

  def keys_of(use, put=True):
    made = replicas.stack([jax.random.fold_in(key, use) for key in keys])
    return mesh.put(made, devices) if put else made

  return Experiment(
    config=config,
    dataset=dataset,
    recipe=recipe,
    binary=method.binary,
    steps_per_epoch=steps_per_epoch,
    init_key=keys_of(_INIT, put=False),
    order_key=keys_of(_ORDER),
    augment_key=keys_of(_AUGMENT),
    teacher=mesh.put(taught, devices),
    mesh=devices,
  )
