"""Batches of a streamed data set, brought to the devices of a run."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ovsw_jax import data
from ovsw_jax.training import mesh


def check(config: Any) -> None:
  """Raises ValueError for what a streamed data set does not go with."""
  if config.replicas > 1:
    raise ValueError(
      f"replicas={config.replicas} need a data set in memory, since each has "
      f"an order of its own, and {config.data.name} is streamed; choose "
      "replicas=1 and start a run for each seed"
    )
  if config.train.chunk > 1:
    raise ValueError(
      f"train.chunk={config.train.chunk} needs a data set in memory, and "
      f"{config.data.name} is streamed, a batch for each dispatch; choose 1"
    )
  if config.data.image_size > config.data.resize:
    raise ValueError(
      f"data.image_size={config.data.image_size} is larger than data.resize="
      f"{config.data.resize}, the shorter side of what it is cut out of"
    )


def workers(config: Any) -> int:
  """Processes that decode: those of the config, or one for each core."""
  wanted = config.data.workers
  if wanted is not None:
    return wanted
  # Those that this process may use, where the system tells.
  allowed = getattr(os, "sched_getaffinity", None)
  return len(allowed(0)) if allowed else os.cpu_count() or 1


@contextlib.contextmanager
def training(run: Any, step: int) -> Iterator[Iterator[data.Batch]]:
  """Opens the batches of a run from a step on; a context manager."""
  size = run.config.train.batch_size
  batches = data.training_batches(
    run.dataset,
    seed=run.config.seed,
    batch_size=size,
    start=step,
    stop=run.recipe.total_steps,
    **_delivery(run, size),
  )
  with contextlib.closing(batches):
    yield batches


@contextlib.contextmanager
def evaluation(run: Any) -> Iterator[Iterator[data.Batch]]:
  """Opens the batches of the test split; a context manager.

  A batch grows to a multiple of the devices.
  """
  devices = mesh.size(run.mesh)
  _, examples = run.dataset.counts
  wanted = min(run.config.eval.batch_size, examples)
  size = mesh.rounded_up(wanted, devices)
  batches = data.evaluation_batches(
    run.dataset, batch_size=size, **_delivery(run, size)
  )
  with contextlib.closing(batches):
    yield batches


def _delivery(run: Any, batch_size: int) -> dict[str, Any]:
  """Who decodes which rows of a batch, and how they come to the devices."""
  sharding = mesh.split(run.mesh)
  rows = np.arange(batch_size)
  if sharding is None:
    device = run.mesh.devices.flat[0]
    put = lambda batch: jax.device_put(batch, device)
  else:
    places = sharding.addressable_devices_indices_map((batch_size,))
    rows = np.unique(np.concatenate([rows[index] for index in places.values()]))

    def put(batch):
      return jax.tree.map(lambda part: _put_rows(part, rows, sharding), batch)

  return {"workers": workers(run.config), "rows": rows, "put": put}


def _put_rows(part: np.ndarray, rows: np.ndarray, sharding) -> jax.Array:
  """An array of which this process has the given rows."""
  size = sharding.mesh.size // len(sharding.addressable_devices) * len(part)

  def of(index):
    first, last, _ = index[0].indices(size)
    begin = np.searchsorted(rows, first)
    return part[begin : begin + last - first]

  return jax.make_array_from_callback((size, *part.shape[1:]), sharding, of)
