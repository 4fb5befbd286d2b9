"""The training loop: dispatch, record, evaluate, save, resume."""

import contextlib
import functools
import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from ovsw_jax import data
from ovsw_jax.training import (
  batches,
  carried,
  checkpoint,
  evaluate,
  experiment,
  host_memory,
  mesh,
  networks,
  outcome,
  preemption,
  replicas,
  settings,
  transfer,
  workdir_lock,
)
from ovsw_jax.training import state as train_state
from ovsw_jax.training.records import Records, layers, snapshot
from ovsw_jax.training.step import train_step

# Steps that one dispatch makes where config.train.chunk is 0. XLA's CPU backend
# brings convolutions into the form that is fast there in a program's entry
# alone, not inside of a loop: ResNet-20 on 16x16 images, batch 64, two cores
# took 51 ms a step dispatched singly, 531 ms in a scan of four, and 50 ms in
# the same scan unrolled, which takes twice as long to compile for nothing.
# The number elsewhere only has to be large; it has not been measured.
_CHUNK = {"cpu": 1}
_CHUNK_ELSEWHERE = 50


# A donated array serves the first result of its shape. Were the statistics that
# a step writes and does not read left out, theirs would take the place of a
# momentum, and every array behind them another's, which is copied first.
_updating = functools.partial(
  jax.jit, donate_argnames="state", keep_unused=True
)


@functools.partial(
  _updating, static_argnames=("recipe", "batch_size", "length")
)
def train_chunk(
  state,
  split,
  order,
  key,
  teacher=None,
  *,
  recipe,
  batch_size: int,
  length: int,
):
  """`length` steps over an epoch's order; metrics get a last axis of them.

  The state is `carried`, before and after. Of several replicas state, order and
  key have a first axis, metrics as well; they have one teacher.
  """
  steps_per_epoch = order.shape[-1] // batch_size

  def chunk(state, order, key):
    state = carried.unpack(state)

    def body(state, _):
      position = state.step % steps_per_epoch
      indices = data.batch_indices(order, position, batch_size)
      images = recipe.laid_out(split.images[indices])
      labels = recipe.laid_out(split.labels[indices])
      return train_step(state, images, labels, key, recipe, teacher=teacher)

    if length == 1:
      state, metrics = body(state, None)
      metrics = jax.tree.map(lambda value: value[None], metrics)
    else:
      state, metrics = jax.lax.scan(body, state, length=length)
    return carried.pack(state), metrics

  return replicas.each(chunk, _count(key))(state, order, key)


@functools.partial(_updating, static_argnames="recipe")
def train_batch(state, batch, key, teacher=None, *, recipe):
  """One step on a batch of a stream, otherwise as `train_chunk`."""
  state = carried.unpack(state)
  images, labels = recipe.laid_out(batch.images), recipe.laid_out(batch.labels)
  state, metrics = train_step(
    state, images, labels, key, recipe, teacher=teacher
  )
  metrics = jax.tree.map(lambda value: value[None], metrics)
  return carried.pack(state), metrics


@functools.partial(_updating, static_argnames=("recipe", "count"))
def refreshed(state, *, recipe, count: int):
  """The state at an epoch's start, as the method refreshes it."""

  def refresh(state):
    progress = recipe.progress(state.step)
    return state.with_variables(recipe.refresh(state.variables, progress))

  return replicas.each(refresh, count)(state)


@functools.partial(jax.jit, static_argnames="n")
def epoch_order(key, epoch, *, n: int):
  """The order of an epoch's examples, of each replica its own."""
  order = functools.partial(data.epoch_order, epoch=epoch, n=n)
  return replicas.each(order, _count(key))(key)


def _count(key) -> int:
  return key.shape[0] if key.ndim else 1


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


def _lengths_left(steps: int, chunk: int, offset: int) -> list[int]:
  """The dispatches of an epoch of which `offset` steps are made.

  They are those of the whole epoch where a dispatch ended there, as rounding
  may depend on how steps are put together.
  """
  lengths = chunk_lengths(steps, chunk)
  ends = list(itertools.accumulate(lengths, initial=0))
  if offset in ends:
    return lengths[ends.index(offset) :]
  return chunk_lengths(steps - offset, chunk)


@contextlib.contextmanager
def _memory_error_with_remedy(config: Any):
  """What a device says of its memory, as an error that says what to change."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise MemoryError(
      f"the memory of {outcome.device()} does not suffice "
      f"({str(error).splitlines()[0]}); lower replicas={config.replicas} or "
      f"train.batch_size={config.train.batch_size}"
    ) from error


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
    The state after the last step; of several replicas with a leading axis.

  Raises:
    ValueError: for an impossible config, or a workdir of another one.
    FileNotFoundError: if the data is not there.
    FloatingPointError: if loss or gradient stop being finite.
    MemoryError: if the device has too little memory.
  """
  began = time.perf_counter()
  settings.check(config)
  workdir = pathlib.Path(workdir)
  settings.check_workdir(config, workdir)
  result = outcome.read(workdir)
  if result is not None:
    say(f"{workdir} is finished\n{outcome.summary(result, workdir)}")
  run = experiment.build(config)
  with _memory_error_with_remedy(config):
    directory = workdir / networks.CHECKPOINTS
    restored = checkpoint.restore_latest(directory, run.abstract_state())
    step, state = restored or (0, run.initial_state())
    if result is not None and step == run.recipe.total_steps:
      return state
    with workdir_lock.held(workdir):
      if mesh.first_process():
        settings.write(config, workdir)
      say(outcome.header(run, state, workdir))
      if restored is None and config.init_from is not None:
        state, told = transfer.begin(run, state, workdir)
        say(told)
      if step:
        epoch, more = divmod(step, run.steps_per_epoch)
        amid = f" and {more} step{'s' * (more > 1)}" if more else ""
        say(f"resumes  after epoch {epoch}{amid}, step {step}")
      return _run(run, mesh.put(state, run.mesh), step, workdir, began)


def _run(run, state, step: int, workdir: pathlib.Path, began: float):
  """From `state` to the end; returns the last state."""
  config, first = run.config, step
  test_means = evaluate.tester(run)
  with (
    _source(run, step) as source,
    Records(run, workdir, step, began) as records,
    preemption.Preemption() as stop,
  ):
    for epoch in range(step // run.steps_per_epoch, config.train.epochs):
      state, step = _train_epoch(run, state, source, step, first, records, stop)
      if step % run.steps_per_epoch:
        records.flush()
        records.save_amid_epoch(step, snapshot(state))
        _stop(step, workdir)
      done = epoch + 1
      last, stopping = done == config.train.epochs, stop.requested(step)
      due = last or stopping or not done % config.train.checkpoint_every
      # Copies, since the next dispatch is given the state's own buffers.
      kept = snapshot((layers(state.opt_state), state if due else None))
      records.end_epoch(done, test_means(state.variables), *kept)
      if epoch == first // run.steps_per_epoch:
        _settle(state)
      if stopping and not last:
        records.flush()
        _stop(step, workdir)
    records.flush()
  # A run that was stopped between its last checkpoint and here has none.
  means = records.test or jax.device_get(test_means(state.variables))
  if mesh.first_process():
    result = outcome.finish(
      run, state, workdir, means, records.seconds_to_first_step
    )
    print(outcome.summary(result, workdir))
  return state


def say(text: str) -> None:
  """Prints a line, once for all processes of a run."""
  if mesh.first_process():
    print(text)


def _stop(step: int, workdir: pathlib.Path) -> NoReturn:
  """Ends the process, now that the state is saved."""
  say(f"stopped at step {step} of {workdir}; the same command goes on")
  sys.exit(preemption.STATUS)


# From a step on, what an epoch dispatches: numbers of steps, and functions that
# make them of a state.
_Source = Callable[[int], Iterator[tuple[int, Callable[[Any], Any]]]]


@contextlib.contextmanager
def _source(run, step: int) -> Iterator[_Source]:
  """Opens what a run trains on from `step` on."""
  if not isinstance(run.dataset, data.Streamed):
    split = mesh.put(run.dataset.train, run.mesh)
    yield functools.partial(_dispatches_of_split, run, split)
    return
  with batches.training(run, step) as stream:
    yield functools.partial(_dispatches_of_stream, run, stream)


def _dispatches_of_split(run, split, step: int):
  """Indices go to the device, which has all images."""
  config = run.config
  epoch, offset = divmod(step, run.steps_per_epoch)
  chunk = config.train.chunk or _CHUNK.get(
    jax.default_backend(), _CHUNK_ELSEWHERE
  )
  order = epoch_order(run.order_key, epoch, n=len(split.labels))
  for length in _lengths_left(run.steps_per_epoch, chunk, offset):

    def dispatch(state, length=length):
      return train_chunk(
        state,
        split,
        order,
        run.augment_key,
        run.teacher,
        recipe=run.recipe,
        batch_size=config.train.batch_size,
        length=length,
      )

    yield length, dispatch


def _dispatches_of_stream(run, stream, step: int):
  """Images go to the device, while it works on those before."""
  for _ in range(run.steps_per_epoch - step % run.steps_per_epoch):
    batch = next(stream)
    yield (
      1,
      lambda state, batch=batch: train_batch(
        state, batch, run.augment_key, run.teacher, recipe=run.recipe
      ),
    )


def _settle(results: Any) -> None:
  """Clears up what compiling left in a CPU's heap, once `results` are there."""
  if jax.default_backend() == "cpu":
    jax.block_until_ready(results)
    host_memory.set_gaps_aside()


def _train_epoch(
  run, state, source, step: int, first: int, records: Records, stop
):
  """To the epoch's end, or to where it is stopped; the state and its step."""
  epoch, offset = divmod(step, run.steps_per_epoch)
  # Before the first epoch, the initial state was refreshed.
  if epoch and not offset and run.recipe.refresh is not None:
    state = refreshed(state, recipe=run.recipe, count=run.config.replicas)
  state = carried.pack(state, axes=state.step.ndim)
  for length, dispatch in source(step):
    state, metrics = dispatch(state)
    records.put(step, length, metrics)
    if step == first:
      _settle(metrics)
    step += length
    if step % run.steps_per_epoch and stop.requested(step):
      break
  return carried.unpack(state), step
