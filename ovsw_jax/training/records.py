"""What a run writes down: lines of metrics, the epoch's means, their check."""

import pathlib
import time
from typing import Any

import jax
import numpy as np
import optax

from ovsw_jax.training import checkpoint, evaluate, progress, writers
from ovsw_jax.training.experiment import Experiment
from ovsw_jax.training.state import TrainState

# Per-layer statistics of the optimizer state, under their names in the record.
_PER_LAYER = {
  "ags_ratio": "ags_ratio",
  "flip_rate": "flip_rate_per_leaf",
  "silent_fraction": "silent_fraction_per_leaf",
  "never_flipped_fraction": "never_flipped_fraction_per_leaf",
}


def layers(opt_state: optax.OptState) -> dict[str, dict[str, float]]:
  """The optimizer's statistics of each binary layer, by path."""
  found = {
    name: optax.tree.get(opt_state, field) for name, field in _PER_LAYER.items()
  }
  # One transfer for all of them. Masked-out leaves have no leaves here.
  trees = jax.device_get({k: v for k, v in found.items() if v is not None})
  return {
    name: {
      jax.tree_util.keystr(path, simple=True, separator="/"): float(value)
      for path, value in jax.tree.leaves_with_path(tree)
    }
    for name, tree in trees.items()
  }


def check_finite(
  values: dict[str, np.ndarray], first_step: int, directory: pathlib.Path
) -> None:
  """Raises FloatingPointError at the first step whose loss is no number.

  The gradient's norm is looked at as well: it turns before the loss does, and
  the update that it belongs to would spoil the next checkpoint.
  """
  for name in values.keys() & {"loss", "gradient_norm"}:
    bad = np.flatnonzero(~np.isfinite(values[name]))
    if bad.size:
      steps = checkpoint.steps(directory)
      good = f"is {directory / str(steps[-1])}" if steps else "does not exist"
      raise FloatingPointError(
        f"{name} is {values[name][bad[0]]} at step {first_step + bad[0] + 1}; "
        f"the last good checkpoint {good}. Lower optimizer.learning_rate, or "
        "set optimizer.clip_norm"
      )


def epoch_line(epoch: int, epochs: int, record: dict[str, float]) -> str:
  """An epoch in a line of text."""
  parts = [
    f"epoch {epoch:{len(str(epochs))}}/{epochs}",
    f"loss {record['train_loss']:.4f}",
    f"train {record['train_accuracy']:.2%}",
    f"test {record['accuracy']:.2%}",
  ]
  if "flip_rate" in record:
    parts += [
      f"flips {record['flip_rate']:.3%} a step",
      f"never flipped {record['never_flipped_fraction']:.2%}",
    ]
  return "  ".join(parts)


class Records:
  """Takes the metrics of every step, one dispatch late, and writes some.

  Reading the metrics of a dispatch waits for it, so that is done once the next
  one is on its way: the device never waits for the host.
  """

  def __init__(self, run: Experiment, workdir: pathlib.Path, step: int):
    self._run = run
    self._directory = workdir / evaluate.CHECKPOINTS
    self._writer = writers.MetricsWriter(workdir, step=step)
    self._bar = progress.Progress(
      run.recipe.total_steps,
      step,
      run.config.train.batch_size,
      steps_per_epoch=run.steps_per_epoch,
    )
    self._pending: tuple[int, int, Any] | None = None
    self._chunks: list[dict[str, np.ndarray]] = []
    self._clock = self._epoch_began = time.perf_counter()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()
    self._writer.close()

  def start_epoch(self) -> None:
    """Forgets the epoch before; its evaluation is no training time either."""
    self._chunks = []
    self._clock = self._epoch_began = time.perf_counter()

  def put(self, step: int, length: int, metrics: Any) -> None:
    """Takes metrics not yet computed, and reads those it was given before."""
    previous, self._pending = self._pending, (step, length, metrics)
    if previous is None:
      # A first dispatch waits for the compiler, which is not the device's time.
      self._clock = time.perf_counter()
    else:
      self._read(*previous)

  def end_epoch(self, epoch: int, state: TrainState, test: Any):
    """Records the epoch's ends and means; returns `test` as numbers."""
    if self._pending is not None:
      self._read(*self._pending)
      self._pending = None
    means = {
      name: float(np.concatenate([c[name] for c in self._chunks]).mean())
      for name in self._chunks[0]
    }
    test = evaluate.numbers(test)
    step = epoch * self._run.steps_per_epoch
    check_finite({"loss": np.array([test["loss"]])}, step - 1, self._directory)
    seconds = time.perf_counter() - self._epoch_began
    at_end = {
      name: float(self._chunks[-1][name][-1])
      for name in ("silent_fraction", "never_flipped_fraction")
      if name in means
    }
    record = {
      **test,
      "train_loss": means["loss"],
      "train_accuracy": means["accuracy"],
      **({"flip_rate": means["flip_rate"]} if "flip_rate" in means else {}),
      **at_end,
    }
    self._writer.write("eval", step, epoch, record | {"seconds": seconds})
    if per_layer := layers(state.opt_state):
      self._writer.write("layers", step, epoch, per_layer)
    self._bar.line(epoch_line(epoch, self._run.config.train.epochs, record))
    return test

  def _read(self, first_step: int, length: int, metrics: Any) -> None:
    values = jax.device_get(metrics)
    now = time.perf_counter()
    config, steps_per_epoch = self._run.config, self._run.steps_per_epoch
    images = length * config.train.batch_size
    rate = images / max(now - self._clock, 1e-9)
    self._clock = now
    check_finite(values, first_step, self._directory)
    self._chunks.append(values)
    for offset in range(length):
      step = first_step + offset + 1
      if step % config.train.log_every == 0:
        record = {name: value[offset] for name, value in values.items()}
        record["images_per_second"] = round(rate, 1)
        self._writer.write(
          "train", step, (step - 1) // steps_per_epoch + 1, record
        )
    self._bar.update(first_step + length, {k: v[-1] for k, v in values.items()})
