"""Reads the binary weights of a run's checkpoints, one layer at a time.

Neither the training stack nor Orbax is needed, nor the model: a checkpoint
lists its arrays by path in `manifest.json`, and TensorStore, which Orbax writes
them with, reads one alone.
"""

import collections
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ovsw_jax import optax as transforms
from ovsw_jax.analysis import checksums

CHECKPOINTS = "checkpoints"
_ARRAYS = "state"
_LATENT = "latent"

# Of each weight, what the transforms keep in full and in compact states, and
# what SAD's codes are read with.
_FLIPS, _EMA = ("flips", "flips_code"), ("flip_ema", "sad_code")
# Of each filter.
_RATIO = "ags_filter_ratio"
_SCALE = ("sad_unit", "sad_mantissa")


class LayerWeights(NamedTuple):
  """The binary weights of a layer at some step.

  Examples:
    >>> import numpy as np
    >>> from ovsw_jax import analysis
    >>> latent, flips = np.array([[0.1, -2.0]]), np.array([[3, 0]])
    >>> analysis.LayerWeights(latent, flips, None).flips.max()
    np.int64(3)
  """

  latent: np.ndarray  # shape (..., out), float32
  # Of the same shape: int32, since init; None if they were not counted.
  flips: np.ndarray | None
  flip_ema: np.ndarray | None  # float32, SAD's average; None without SAD
  # Shape (out,), float32: norms of gradient over weight before AGS, in the last
  # step; None without AGS.
  ags_ratio: np.ndarray | None = None


def checkpoint_steps(workdir) -> list[int]:
  """The steps that a run's workdir holds checkpoints of, ascending.

  Args:
    workdir: directory of the run.

  Examples:
    >>> checkpoint_steps("no/such/run")
    []
  """
  directory = pathlib.Path(workdir) / CHECKPOINTS
  if not directory.is_dir():
    return []
  return sorted(
    int(entry.name)
    for entry in directory.iterdir()
    if entry.name.isdecimal() and (entry / checksums.MANIFEST).is_file()
  )


def read_weights(workdir, step: int) -> Iterator[tuple[str, LayerWeights]]:
  """The binary layers of a checkpoint, each with its path, one at a time.

  Of a run of several replicas they are those of the first.

  Args:
    workdir: directory of the run.
    step: one of `checkpoint_steps(workdir)`.

  Yields:
    Path of a latent weight, such as "layer1_block0/conv1/latent", and arrays.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: the checkpoint is damaged.
    ImportError: TensorStore is not installed.

  Examples:
    >>> from ovsw_jax import analysis
    >>> workdir = "path/to/your/run"
    >>> for step in analysis.checkpoint_steps(workdir)[-1:]:  # the newest
    ...   for layer, weights in analysis.read_weights(workdir, step):
    ...     print(layer, analysis.layer_statistics(weights).never_flipped)
  """
  path = pathlib.Path(workdir) / CHECKPOINTS / str(step)
  if not (path / checksums.MANIFEST).is_file():
    raise FileNotFoundError(
      f"No checkpoint {path}; there are those of steps"
      f" {', '.join(map(str, checkpoint_steps(workdir))) or 'none'}."
    )
  try:
    leaves = _checked_leaves(path)
    read = functools.partial(
      _read, path, replicated=bool(leaves["step"]["shape"])
    )
    state = _of_layers(leaves)
    scale = {
      name.split("/")[-1]: read(name)
      for name in leaves
      if name.split("/")[-1] in _SCALE
    }
    for name in leaves:
      if name.startswith("params/") and name.endswith(_LATENT):
        layer = name.removeprefix("params/")
        arrays = {field: read(at) for field, at in state[layer].items()}
        yield layer, _layer(read(name), arrays, scale)
  except (OSError, ValueError, KeyError, TypeError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    raise ValueError(
      f"Checkpoint {path} cannot be read ({reason.rstrip('.')}); remove that"
      " directory to use the one before it."
    ) from error


def _checked_leaves(path: pathlib.Path) -> dict[str, Any]:
  """The arrays that a checkpoint lists, if its files are those it lists."""
  manifest = json.loads((path / checksums.MANIFEST).read_text())
  checksums.check_files(path, manifest["files"])
  return manifest["leaves"]


def _of_layers(leaves) -> dict[str, dict[str, str]]:
  """By layer, the optimizer's fields with entries of weights or filters."""
  found = collections.defaultdict(dict)
  for name in leaves:
    for field in (*_FLIPS, *_EMA, _RATIO):
      before, here, layer = name.partition(f"/{field}/")
      if here and before.startswith("opt_state"):
        found[layer][field] = name
  return found


def _layer(latent, state, scale) -> LayerWeights:
  flips, ema = (
    {field: state[field] for field in fields if field in state}
    for fields in (_FLIPS, _EMA)
  )
  return LayerWeights(
    np.asarray(latent, np.float32),
    np.asarray(transforms.flips(flips)) if flips else None,
    np.asarray(transforms.flip_ema(ema | scale)) if ema else None,
    state.get(_RATIO),
  )


def _read(path: pathlib.Path, name: str, replicated: bool) -> np.ndarray:
  import tensorstore  # pyrefly: ignore[missing-import]

  spec = {
    "driver": "zarr3",
    "kvstore": {
      "driver": "ocdbt",
      "base": f"file://{(path / _ARRAYS).absolute()}/",
      "path": f"{name}/",
    },
  }
  array = tensorstore.open(spec, open=True, read=True).result()
  return (array[0] if replicated else array).read().result()
