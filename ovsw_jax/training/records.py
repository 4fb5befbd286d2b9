"""What a run writes down: lines of metrics, the epoch's means, their check."""

import collections
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ovsw_jax.training import (
  checkpoint,
  evaluate,
  mesh,
  networks,
  progress,
  replicas,
  writers,
)
from ovsw_jax.training.experiment import Experiment
from ovsw_jax.training.saver import Saver
from ovsw_jax.training.state import TrainState
from ovsw_jax.training.step import BY_LAYER

# Per-layer statistics of the optimizer state, under their names in the record.
_PER_LAYER = {
  "ags_ratio": "ags_ratio",
  "flip_rate": "flip_rate_per_leaf",
  "silent_fraction": "silent_fraction_per_leaf",
  "never_flipped_fraction": "never_flipped_fraction_per_leaf",
}


# Metrics of an epoch that was stopped in its midst.
SO_FAR_FILE = "epoch_so_far.npz"


@jax.jit
def snapshot(tree: Any) -> Any:
  """A copy on the device, of what the next dispatch takes the buffers of."""
  return jax.tree.map(jnp.copy, tree)


def layers(opt_state: optax.OptState) -> dict[str, Any]:
  """The optimizer's statistics of each binary layer, as trees on the device."""
  found = {
    name: optax.tree.get(opt_state, field) for name, field in _PER_LAYER.items()
  }
  return {name: tree for name, tree in found.items() if tree is not None}


def _by_path(trees: dict[str, Any]) -> dict[str, dict[str, float]]:
  """`layers` as numbers by path; of several replicas the means."""
  # One transfer for all of them. Masked-out leaves have no leaves here.
  return {
    name: {
      jax.tree_util.keystr(path, simple=True, separator="/"): float(
        np.mean(value)
      )
      for path, value in jax.tree.leaves_with_path(tree)
    }
    for name, tree in jax.device_get(trees).items()
  }


def check_finite(
  values: dict[str, np.ndarray],
  first_step: int,
  directory: pathlib.Path,
  seeds: list[int],
) -> None:
  """Raises FloatingPointError at the first step whose loss is no number.

  The gradient's norm is looked at as well: it turns before the loss does, and
  the update that it belongs to would spoil the next checkpoint. Values are of
  shape (steps,), or (replicas, steps).
  """
  for name in values.keys() & {"loss", "gradient_norm"}:
    by_step = np.atleast_2d(values[name]).T
    bad = np.argwhere(~np.isfinite(by_step))
    if bad.size:
      offset, replica = bad[0]
      whose = f" of seed {seeds[replica]}" if len(seeds) > 1 else ""
      steps = checkpoint.steps(directory)
      good = f"is {directory / str(steps[-1])}" if steps else "does not exist"
      raise FloatingPointError(
        f"{name}{whose} is {by_step[offset, replica]} at step "
        f"{first_step + offset + 1}; the last good checkpoint {good}. Lower "
        "optimizer.learning_rate, or set optimizer.clip_norm"
      )


def epoch_line(epoch: int, epochs: int, record: dict[str, float]) -> str:
  """An epoch in a line of text."""
  parts = [
    f"epoch {epoch:{len(str(epochs))}}/{epochs}",
    f"loss {record['train_loss']:.4f}",
    f"train {replicas.percent(record, 'train_accuracy')}",
    f"test {replicas.percent(record, 'accuracy')}",
  ]
  if "flip_rate" in record:
    parts += [
      f"flips {record['flip_rate']:.3%} a step",
      f"never flipped {record['never_flipped_fraction']:.2%}",
    ]
  return "  ".join(parts)


class Records:
  """Takes what every dispatch made, and reads it one dispatch late.

  Reading waits for the device, so that is done once the next dispatch is on its
  way, across the ends of epochs too: evaluation, checkpoint and lines of an
  epoch are dealt with while the next one trains, and the device never waits for
  the host. What is kept until then must be no buffer that a step is given.

  Attributes:
    seconds_to_first_step: from `began` to the end of the first dispatch, None
      before that.
    test: the test means of the last epoch read, on the host; None before.
  """

  def __init__(
    self, run: Experiment, workdir: pathlib.Path, step: int, began: float
  ):
    config = run.config
    self._run, self._seeds = run, replicas.seeds(config)
    self._workdir = workdir
    self._directory = workdir / networks.CHECKPOINTS
    self._writer = writers.MetricsWriter(workdir, step=step)
    # A step takes a batch for each replica.
    self._batch_size = config.train.batch_size * config.replicas
    self._bar = progress.Progress(
      run.recipe.total_steps,
      step,
      self._batch_size,
      steps_per_epoch=run.steps_per_epoch,
      silent=not mesh.first_process(),
    )
    self._unread: collections.deque[Callable[[], None]] = collections.deque()
    # Of the epoch that is under way, those before a stop in it included.
    self._chunks = _read_so_far(workdir, step)
    self._skipped = np.zeros(config.replicas, int)  # in a row, by replica
    self._saver = Saver(self._directory, config.train.keep)
    self._began, self._dispatched = began, False
    self._clock = self._epoch_began = time.perf_counter()
    self.seconds_to_first_step: float | None = None
    self.test: dict[str, np.ndarray] | None = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()
    self._writer.close()
    self._saver.close()

  def put(self, step: int, length: int, metrics: Any) -> None:
    """Takes metrics not yet computed, and reads what it was given before."""
    if not self._dispatched:
      # The first dispatch waited for the compiler: not the device's time.
      self._dispatched, self._clock = True, time.perf_counter()
    self._unread.append(functools.partial(self._read, step, length, metrics))
    self._read_all_but(1)

  def end_epoch(
    self, epoch: int, test: Any, layers: Any, state: TrainState | None
  ) -> None:
    """Takes what an epoch comes to, and a state if it is to be saved."""
    self._unread.append(
      functools.partial(self._end_epoch, epoch, test, layers, state)
    )

  def flush(self) -> None:
    """Reads what is left and waits for what is saved, at the end of the run."""
    self._read_all_but(0)
    self._saver.wait()

  def save_amid_epoch(self, step: int, state: TrainState) -> None:
    """Saves a state within an epoch, and what the epoch has come to so far."""
    _write_so_far(self._workdir, step, self._chunks)
    self._saver.save(step, state)
    self._saver.wait()

  def _read_all_but(self, count: int) -> None:
    while len(self._unread) > count:
      self._unread.popleft()()

  def _end_epoch(self, epoch: int, test: Any, layers: Any, state: Any) -> None:
    config = self._run.config
    by_replica = {
      name: np.concatenate([c[name] for c in self._chunks], axis=-1)
      for name in self._chunks[0]
    }
    by_layer = by_replica.pop(BY_LAYER, None)  # of shape (..., layers, steps)
    skipped = by_replica.get("skipped")
    by_replica = {
      name: _mean_of_made(value, None if name == "skipped" else skipped)
      for name, value in by_replica.items()
    }
    means = replicas.spread(by_replica)
    self.test = jax.device_get(test)
    step = epoch * self._run.steps_per_epoch
    loss = {"loss": np.reshape(self.test["loss"], (-1, 1))}
    check_finite(loss, step - 1, self._directory, self._seeds)
    # The device has begun the next epoch.
    now = self._clock = time.perf_counter()
    seconds, self._epoch_began = now - self._epoch_began, now
    at_end = replicas.spread(
      {
        name: self._chunks[-1][name][..., -1]
        for name in ("silent_fraction", "never_flipped_fraction")
        if name in by_replica
      }
    )
    self._chunks = []
    renamed = {
      "loss": "train_loss",
      "accuracy": "train_accuracy",
      "skipped": "skipped_fraction",
    }
    record = {
      **evaluate.numbers(self.test),
      **_chosen(means, renamed | {"flip_rate": "flip_rate"}),
      **at_end,
    }
    self._writer.write("eval", step, epoch, record | {"seconds": seconds})
    if layers:
      by_path = _by_path(layers)
      if by_layer is not None:
        each = None if skipped is None else skipped[..., None, :]
        rates = replicas.mean(_mean_of_made(by_layer, each), ndim=1)
        names = by_path["flip_rate"]
        by_path["flip_rate_mean"] = dict(
          zip(names, map(float, rates), strict=True)
        )
      self._writer.write("layers", step, epoch, by_path)
    self._bar.line(epoch_line(epoch, config.train.epochs, record))
    if state is not None:
      self._saver.save(step, state)

  def _check_skipped(self, values: dict[str, np.ndarray], first: int) -> None:
    """Raises FloatingPointError once too many steps in a row were skipped."""
    most = self._run.config.train.skip_non_finite
    for offset, skipped in enumerate(np.atleast_2d(values["skipped"]).T):
      self._skipped = np.where(skipped > 0, self._skipped + 1, 0)
      if self._skipped.max() > most:
        seed = self._seeds[int(self._skipped.argmax())]
        whose = f" of seed {seed}" if len(self._seeds) > 1 else ""
        raise FloatingPointError(
          f"loss or gradient{whose} were not finite at {self._skipped.max()} "
          f"steps in a row, the last of them step {first + offset + 1}; "
          f"train.skip_non_finite={most} allows no more. Lower "
          "optimizer.learning_rate, or set optimizer.clip_norm"
        )

  def _read(self, first_step: int, length: int, metrics: Any) -> None:
    values = jax.device_get(metrics)
    if BY_LAYER in values:  # steps last, as in all others
      values[BY_LAYER] = np.moveaxis(values[BY_LAYER], -2, -1)
    now = time.perf_counter()
    config, steps_per_epoch = self._run.config, self._run.steps_per_epoch
    rate = length * self._batch_size / max(now - self._clock, 1e-9)
    self._clock = now
    if "skipped" in values:
      self._check_skipped(values, first_step)
    else:
      check_finite(values, first_step, self._directory, self._seeds)
    self._chunks.append(values)
    # Of shape (steps,) from here on.
    values = {
      k: replicas.mean(v, ndim=1) for k, v in values.items() if k != BY_LAYER
    }
    for offset in range(length):
      step = first_step + offset + 1
      if step % config.train.log_every == 0:
        record = {name: value[offset] for name, value in values.items()}
        record["images_per_second"] = round(rate, 1)
        self._writer.write(
          "train", step, (step - 1) // steps_per_epoch + 1, record
        )
    self._bar.update(first_step + length, {k: v[-1] for k, v in values.items()})
    if self.seconds_to_first_step is None:
      self.seconds_to_first_step = round(now - self._began, 2)
      steps = "first step" if length == 1 else f"first {length} steps"
      self._bar.line(
        f"{steps} after {self.seconds_to_first_step:.1f} s, data and "
        "compilation included"
      )


def _mean_of_made(values: np.ndarray, skipped: np.ndarray | None) -> np.ndarray:
  """The mean over the last axis, without the steps that were skipped."""
  if skipped is None or not skipped.any():
    return values.mean(-1)
  made = 1 - skipped
  # A skipped step's value may be no number, and 0 * nan is none either.
  total = np.where(made > 0, values, 0).sum(-1, dtype=values.dtype)
  return total / np.maximum(made.sum(-1), 1)


def _read_so_far(workdir: pathlib.Path, step: int) -> list[dict]:
  """What an epoch that was stopped at `step` came to; nothing for another."""
  path = workdir / SO_FAR_FILE
  if not path.exists():
    return []
  with np.load(path) as saved:
    values = dict(saved)
  return [values] if int(values.pop("step")) == step else []


def _write_so_far(workdir: pathlib.Path, step: int, chunks: list[dict]) -> None:
  values = {
    name: np.concatenate([chunk[name] for chunk in chunks], axis=-1)
    for name in chunks[0]
  }
  if not mesh.first_process():
    return
  path = workdir / SO_FAR_FILE
  temporary = path.with_name(f"writing_{SO_FAR_FILE}")
  np.savez(temporary, step=step, **values)
  temporary.replace(path)


def _chosen(means: dict[str, float], names: dict[str, str]) -> dict[str, float]:
  """The means of `names` under new names, and their deviations if any."""
  return {
    new + suffix: means[old + suffix]
    for old, new in names.items()
    for suffix in ("", "_std")
    if old + suffix in means
  }
