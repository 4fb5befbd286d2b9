"""Devices of a run: one mesh, its axis `data`, over one process or many.

A batch is cut along `data`; everything else is on every device. The compiler
brings the parts together: the gradient, and the batch statistics of batch
normalization, are those of the whole batch.
"""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

AXIS = "data"


def start_processes(wanted: bool) -> None:
  """Joins the processes of a run, before anything asks for a device.

  On a TPU pod or under SLURM JAX finds the others by itself. Elsewhere the
  environment says where they are: `JAX_COORDINATOR_ADDRESS` (host:port of the
  first), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.

  Args:
    wanted: whether the config asks for it; the coordinator's address in the
      environment asks as well.

  Raises:
    ValueError: if the environment says too little, or nonsense.
  """
  address = os.environ.get("JAX_COORDINATOR_ADDRESS")
  if not (wanted or address) or jax.distributed.is_initialized():
    return
  numbers = {}
  for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
    text = os.environ.get(name)
    if text is None:
      continue
    if not text.isdecimal():
      raise ValueError(f"{name}={text!r} in the environment is no whole number")
    numbers[name] = int(text)
  try:
    jax.distributed.initialize(
      num_processes=numbers.get("JAX_NUM_PROCESSES"),
      process_id=numbers.get("JAX_PROCESS_ID"),
    )
  except (ValueError, TypeError) as error:
    raise ValueError(
      f"the processes of the run were not found ({error}); set "
      "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave "
      "config.distributed unset"
    ) from error


def meet() -> None:
  """Has the processes of a run exchange numbers, before any compiles.

  On CPUs it is the first exchange of a group of devices that connects them, and
  it fails if one comes 30 s after another: no time between two compilers on
  busy machines. Later exchanges wait.
  """
  if jax.process_count() == 1:
    return
  # Groups of one device of each process, as a checkpoint's exchange has them.
  multihost_utils.sync_global_devices("start")
  # And that of all devices, which a step has.
  whole = make(None)
  ones = jax.make_array_from_process_local_data(
    jax.NamedSharding(whole, jax.P(AXIS)), np.ones(jax.local_device_count())
  )
  total = jax.jit(jnp.sum, out_shardings=everywhere(whole))(ones)
  jax.block_until_ready(total)


def first_process() -> bool:
  """Whether this process is the one that prints and writes."""
  return jax.process_index() == 0


def make(count: int | None) -> jax.sharding.Mesh:
  """A mesh of all devices, or of the first `count`.

  Raises:
    ValueError: if there are fewer.
  """
  devices = jax.devices()
  if count is not None and count > len(devices):
    raise ValueError(
      f"mesh.data={count} devices are wanted and there are {len(devices)}; "
      "choose fewer, or None for all"
    )
  if count is not None and jax.process_count() > 1 and count != len(devices):
    raise ValueError(
      f"mesh.data={count} of {len(devices)} devices would leave processes "
      "without any; leave mesh.data out"
    )
  return jax.sharding.Mesh(np.asarray(devices[:count]), (AXIS,))


def size(mesh: jax.sharding.Mesh) -> int:
  """The number of devices."""
  return mesh.devices.size


def everywhere(mesh: jax.sharding.Mesh) -> jax.NamedSharding:
  """The sharding of what is on every device."""
  return jax.NamedSharding(mesh, jax.P())


def split(mesh: jax.sharding.Mesh) -> jax.NamedSharding | None:
  """The sharding of a batch along its first axis; None of one device."""
  return jax.NamedSharding(mesh, jax.P(AXIS)) if size(mesh) > 1 else None


def put(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """A tree that every process has, on every device of the mesh."""
  if jax.process_count() == 1:
    # An array that is there already stays where it is.
    return jax.device_put(
      tree, everywhere(mesh) if size(mesh) > 1 else mesh.devices.flat[0]
    )
  return jax.tree.map(functools.partial(_put_global, mesh=mesh), tree)


def _put_global(leaf: Any, mesh: jax.sharding.Mesh) -> jax.Array:
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    return leaf
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = _put_global(jax.random.key_data(leaf), mesh)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  local = np.asarray(leaf)
  return jax.make_array_from_process_local_data(
    everywhere(mesh), local, local.shape
  )


def rounded_up(examples: int, devices: int) -> int:
  """The smallest batch of so many examples that falls into equal parts."""
  return -(-examples // devices) * devices


def check_batch(batch_size: int, accumulate: int, devices: int) -> None:
  """Raises ValueError unless a batch falls into equal parts.

  The message has the nearest sizes that do.
  """
  parts = accumulate * devices
  if batch_size % parts:
    below, above = (
      batch_size // parts * parts,
      -(-batch_size // parts) * parts,
    )
    sizes = f"{below} or {above}" if below else str(above)
    raise ValueError(
      f"train.batch_size={batch_size} does not fall into equal parts for "
      f"{devices} devices and train.accumulate={accumulate}; choose {sizes}"
    )
