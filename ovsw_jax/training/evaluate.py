"""Loss, top-1 and top-5 over a whole split, every example exactly once."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ovsw_jax import data
from ovsw_jax.training import (
  batches,
  checkpoint,
  experiment,
  mesh,
  networks,
  replicas,
  settings,
)
from ovsw_jax.training.step import Recipe, eval_step


@functools.partial(jax.jit, static_argnames=("recipe", "count"))
def _batch(variables, split, indices, weights, *, recipe, count):
  images = recipe.laid_out(split.images[indices])
  labels = split.labels[indices]

  def sums(variables):
    return eval_step(variables, images, labels, weights, recipe)

  return replicas.each(sums, count)(variables)


@functools.partial(jax.jit, static_argnames="recipe")
def _streamed_batch(variables, batch, *, recipe):
  return eval_step(variables, *map(recipe.laid_out, batch), recipe)


def over_split(
  variables: Any,
  split: data.Split,
  recipe: Recipe,
  batch_size: int,
  count: int = 1,
  devices: int = 1,
) -> dict[str, jax.Array]:
  """Means of loss, accuracy (top-1) and top5 over a split.

  Args:
    variables: of the model, by collection.
    split: images and labels, on the device if it is to be fast.
    recipe: the model and its constants.
    batch_size: examples in a batch; the last one is padded with weight 0.
    count: replicas that `variables` holds; a leading axis if there are several.
    devices: that a batch is cut over; it grows to a multiple of them.

  Returns:
    On the device, and nothing waits for them here: scalars, or one value for
    each replica, shape (count,).
  """
  n = len(split.labels)
  size = mesh.rounded_up(min(batch_size, n), devices)
  cut = data.eval_batches(n, size)
  parts = [
    _batch(variables, split, indices, weights, recipe=recipe, count=count)
    for indices, weights in zip(*cut, strict=True)
  ]
  return _means(parts)


def over_stream(run: experiment.Experiment, variables: Any) -> dict[str, Any]:
  """As `over_split`, of a run whose data set is streamed.

  It waits for all but the last two batches, so that no more than those are on
  the device.
  """
  parts = []
  with batches.evaluation(run) as stream:
    for batch in stream:
      parts.append(_streamed_batch(variables, batch, recipe=run.recipe))
      jax.block_until_ready(parts[-3:-2])
  return _means(parts)


def _means(parts: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
  sums = jax.tree.map(lambda *values: jnp.stack(values).sum(0), *parts)
  weight = sums.pop("weight")
  return {name: value / weight for name, value in sums.items()}


def tester(
  run: experiment.Experiment,
) -> Callable[[Any], dict[str, jax.Array]]:
  """A function of a model's variables: their means over the test split."""
  if isinstance(run.dataset, data.Streamed):
    return functools.partial(over_stream, run)
  test = mesh.put(run.dataset.test, run.mesh)
  return lambda variables: over_split(
    variables,
    test,
    run.recipe,
    run.config.eval.batch_size,
    run.config.replicas,
    mesh.size(run.mesh),
  )


def numbers(means: Mapping[str, Any]) -> dict[str, float]:
  """Scalars as the shortest decimals that round to them.

  Of one value for each replica, mean and sample deviation.
  """
  values = jax.device_get(means)
  return replicas.spread(
    {k: v if np.ndim(v) else float(str(v)) for k, v in values.items()}
  )


def evaluate(config: Any, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Evaluates and prints the newest checkpoint of a workdir on the test split.

  The optimizer's state is not read.

  Args:
    config: the config that the workdir was made with.
    workdir: of a run with at least one checkpoint.

  Returns:
    `step`, `epoch`, `loss`, `accuracy` and `top5`, plain numbers; of several
    replicas the means, with the sample deviations as `loss_std` and so on.

  Raises:
    ValueError: for an impossible config, or a workdir of another one.
    FileNotFoundError: if there is no checkpoint, or no data.
  """
  settings.check(config)
  workdir = pathlib.Path(workdir)
  settings.check_workdir(config, workdir)
  directory = workdir / networks.CHECKPOINTS
  steps = checkpoint.steps(directory)
  if not steps:
    raise FileNotFoundError(
      f"{workdir} holds no checkpoint; train first, with the same command and "
      "--mode=train"
    )
  run = experiment.build(config, train=False)
  abstract = run.abstract_state()
  parts = ("params", "batch_stats", "constants")
  template = {part: getattr(abstract, part) for part in parts}
  restored = checkpoint.restore(directory, steps[-1], template)
  variables = abstract.replace(**restored).variables
  values = numbers(tester(run)(variables))
  epoch = steps[-1] // run.steps_per_epoch
  text = (
    f"epoch {epoch}: top-1 {replicas.percent(values, 'accuracy')}, top-5 "
    f"{replicas.percent(values, 'top5')}, loss {values['loss']:.4f} on "
    f"{run.dataset.counts[1]:,} test images"
    + (f", {config.replicas} seeds" if config.replicas > 1 else "")
  )
  if mesh.first_process():
    print(text)
  return {"step": steps[-1], "epoch": epoch, **values}
