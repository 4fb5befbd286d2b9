"""The training loop: dispatch, record, evaluate, save, resume."""

import functools
import pathlib
from typing import Any

import jax

from ovsw_jax import data
from ovsw_jax.training import (
  checkpoint,
  evaluate,
  experiment,
  outcome,
  settings,
)
from ovsw_jax.training import state as train_state
from ovsw_jax.training.records import Records
from ovsw_jax.training.step import train_step

# Steps that one dispatch makes where config.train.chunk is 0. On XLA's CPU
# backend a loop loses the fast convolutions: ResNet-20 on 16x16 images, batch
# 64, two cores took 67 ms a step dispatched singly, 1740 ms in a scan of ten.
# The number elsewhere only has to be large; it has not been measured.
_CHUNK = {"cpu": 1}
_CHUNK_ELSEWHERE = 50


@functools.partial(
  jax.jit,
  static_argnames=("recipe", "batch_size", "length"),
  donate_argnames="state",
)
def train_chunk(
  state, split, order, key, *, recipe, batch_size: int, length: int
):
  """`length` steps over an epoch's order; metrics get a leading axis."""
  steps_per_epoch = order.shape[0] // batch_size

  def body(state, _):
    position = state.step % steps_per_epoch
    indices = data.batch_indices(order, position, batch_size)
    images, labels = split.images[indices], split.labels[indices]
    return train_step(state, images, labels, key, recipe)

  if length == 1:
    state, metrics = body(state, None)
    return state, jax.tree.map(lambda value: value[None], metrics)
  return jax.lax.scan(body, state, length=length)


@functools.partial(jax.jit, static_argnames="n")
def _order(key, epoch, *, n: int):
  return data.epoch_order(key, epoch, n)


def chunk_lengths(steps: int, chunk: int) -> list[int]:
  """Cuts an epoch into dispatches, of one length if that costs little.

  Every length is a compilation. The longest divisor of `steps` serves if it is
  at least half of `chunk`; else the last dispatch is shorter than the others.
  """
  chunk = min(chunk, steps)
  even = max(c for c in range(1, chunk + 1) if steps % c == 0)
  if 2 * even >= chunk:
    return [even] * (steps // even)
  rest = steps % chunk
  return [chunk] * (steps // chunk) + [rest] * (rest > 0)


def train_and_evaluate(
  config: Any, workdir: str | pathlib.Path
) -> train_state.TrainState:
  """Trains a config to its end in `workdir`, going on where a run stopped.

  An epoch visits full batches of a fresh order of the training set; what is
  left over is dropped, other examples every time. After each epoch the whole
  test split is evaluated. Nothing is written before config, workdir and data
  have proved to fit.

  Args:
    config: nested config, as `configs/*.py` make them.
    workdir: directory of this run: new, or left by this very config.

  Returns:
    The state after the last step.

  Raises:
    ValueError: for an impossible config, or a workdir of another one.
    FileNotFoundError: if the data is not there.
    FloatingPointError: if loss or gradient stop being finite.
  """
  settings.check(config)
  workdir = pathlib.Path(workdir)
  settings.check_workdir(config, workdir)
  result = outcome.read(workdir)
  if result is not None:
    print(f"{workdir} is finished\n{outcome.summary(result, workdir)}")
  run = experiment.build(config)
  directory = workdir / evaluate.CHECKPOINTS
  restored = checkpoint.restore_latest(directory, run.abstract_state())
  step, state = restored or (0, run.initial_state())
  if result is not None and step == run.recipe.total_steps:
    return state
  settings.write(config, workdir)
  print(outcome.header(run, state, workdir))
  first_epoch = step // run.steps_per_epoch
  if step:
    print(f"resumes  after epoch {first_epoch}, step {step}")

  train, test = jax.device_put((run.dataset.train, run.dataset.test))

  def test_means(state):
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return evaluate.over_split(
      variables, test, run.recipe, config.eval.batch_size
    )

  means = None
  with Records(run, workdir, step) as records:
    for epoch in range(first_epoch, config.train.epochs):
      state = _train_epoch(run, state, train, epoch, records)
      means = records.end_epoch(epoch + 1, state, test_means(state))
      last = epoch + 1 == config.train.epochs
      if last or (epoch + 1) % config.train.checkpoint_every == 0:
        done = (epoch + 1) * run.steps_per_epoch
        checkpoint.save(directory, done, state, keep=config.train.keep)
  # A run that was stopped between its last checkpoint and here has none.
  means = means or evaluate.numbers(test_means(state))
  result = outcome.finish(run, state, workdir, means)
  print(outcome.summary(result, workdir))
  return state


def _train_epoch(run, state, train, epoch: int, records: Records):
  config = run.config
  chunk = config.train.chunk or _CHUNK.get(
    jax.default_backend(), _CHUNK_ELSEWHERE
  )
  order = _order(run.order_key, epoch, n=len(train.labels))
  step = epoch * run.steps_per_epoch
  records.start_epoch()
  for length in chunk_lengths(run.steps_per_epoch, chunk):
    state, metrics = train_chunk(
      state,
      train,
      order,
      run.augment_key,
      recipe=run.recipe,
      batch_size=config.train.batch_size,
      length=length,
    )
    records.put(step, length, metrics)
    step += length
  return state
