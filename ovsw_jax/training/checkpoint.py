"""Checkpoints: the only module that imports Orbax.

A checkpoint is `<directory>/<step>/`, written beside its place and renamed, so
that a killed save leaves a temporary directory, which is ignored, and swept by
the next save. Orbax stores one flat dict, "params/conv/latent" to array; the
structure is the template's, so that NamedTuples, dataclasses and masked
optimizer states need no registration. `manifest.json` beside the arrays has
shape and dtype of every leaf and size and CRC-32 of every file. It is checked
before Orbax reads anything: what is restored is the saved bits, or one error.

Paths are local or mounted; `save` and `restore` are called by every process.
"""

import itertools
import json
import logging
import pathlib
import shutil
import warnings
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from ovsw_jax.analysis import checksums

_FORMAT = "ovsw_jax checkpoint 1"
_DAMAGED = ".damaged"
_TEMPORARY = (".writing", ".deleted")  # and Orbax's own, "....writing.orbax..."


class DamagedError(ValueError):
  """A checkpoint that is not what was written."""


def _quiet(record: logging.LogRecord) -> bool:
  return record.levelno > logging.WARNING or "orbax" not in record.pathname


# A save logs some thirty lines at INFO, and a WARNING for every stale temporary
# directory that it clears away as it should.
logging.getLogger("absl").addFilter(_quiet)


def save(directory, step: int, tree: Any, *, keep: int = 1) -> None:
  """Writes `tree` as `<directory>/<step>`, then drops all but `keep` newest.

  Args:
    directory: where the run's checkpoints are; made if absent.
    step: updates done so far, beyond every step that is saved already.
    tree: pytree of arrays of any dtype, typed PRNG keys included.
    keep: how many checkpoints stay, at least 1.

  Raises:
    ValueError: `keep`, `step` or a leaf is not as described.
    OSError: the checkpoint could not be written; nothing of it is left.
  """
  if keep < 1:
    raise ValueError(f"keep must be at least 1 checkpoint, got {keep!r}.")
  if step < 0:
    raise ValueError(f"step must be at least 0, got {step!r}.")
  directory = pathlib.Path(directory).absolute()
  present = steps(directory)
  if present and step <= present[-1]:
    raise ValueError(
      f"step {step} does not follow step {present[-1]}, which {directory} holds"
      " already; resume from it, or use a new workdir."
    )
  leaves = _flatten(tree)
  manifest = {
    "format": _FORMAT,
    "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
  }
  # Orbax refuses arrays without elements; the template restores them.
  arrays = {
    name: jax.random.key_data(leaf) if _is_key(leaf) else leaf
    for name, leaf in leaves.items()
    if _size(leaf)
  }
  path = directory / str(step)
  writing = directory / f"{step}{_TEMPORARY[0]}"
  try:
    directory.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    ocp.save(writing, arrays)
    if jax.process_index() == 0:
      manifest["files"] = checksums.of_files(writing)
      manifest["crc32"] = checksums.of_manifest(manifest)
      (writing / checksums.MANIFEST).write_text(json.dumps(manifest))
      writing.rename(path)
  except Exception as error:
    _sweep(directory)
    raise OSError(
      f"Checkpoint {path} could not be written: {_first_line(error)} Free some"
      " space or choose another workdir; earlier checkpoints are unharmed."
    ) from error
  if jax.process_index() == 0:
    for old in steps(directory)[:-keep]:
      # Renamed first: a kill within rmtree leaves no half a checkpoint.
      (directory / str(old)).rename(directory / f"{old}{_TEMPORARY[1]}")
    _sweep(directory)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"{_FORMAT} {path}")


def steps(directory) -> list[int]:
  """The steps that `directory` holds, ascending; [] if it does not exist."""
  directory = pathlib.Path(directory)
  if not directory.is_dir():
    return []
  return sorted(
    int(entry.name)
    for entry in directory.iterdir()
    if entry.name.isdecimal() and entry.is_dir()
  )


def restore_latest(directory, template: Any) -> tuple[int, Any] | None:
  """The newest good checkpoint as `(step, tree)`; None if there is none.

  A damaged one is put aside as `<step>.damaged`, with a warning, if there is a
  good one before it.

  Args:
    directory: where the run's checkpoints are.
    template: the whole tree, of arrays or `jax.ShapeDtypeStruct`s.

  Raises:
    ValueError: all checkpoints are damaged, or the newest good one is not one
      of such a tree.
  """
  directory = pathlib.Path(directory)
  present = steps(directory)
  damaged: list[tuple[int, DamagedError]] = []
  for step in reversed(present):
    try:
      restored = _restore(directory, step, template, whole=True)
    except DamagedError as error:
      damaged.append((step, error))
      continue
    for bad, error in damaged:
      aside = _free(directory / f"{bad}{_DAMAGED}")
      if jax.process_index() == 0:
        (directory / str(bad)).rename(aside)
      warnings.warn(
        f"{str(error).split(' Remove')[0]} It is now {aside}; the run goes on "
        f"from step {step}.",
        stacklevel=2,
      )
    return step, restored
  if damaged:
    raise damaged[0][1]
  return None


def _free(path: pathlib.Path) -> pathlib.Path:
  """A path like this one at which nothing is."""
  tried = (path.with_name(f"{path.name}{n or ''}") for n in itertools.count())
  return next(other for other in tried if not other.exists())


def restore(directory, step: int, template: Any) -> Any:
  """The checkpoint of `step`, or a part of it, in `template`'s structure.

  Args:
    directory: where the run's checkpoints are.
    step: one of `steps(directory)`.
    template: tree of arrays or `jax.ShapeDtypeStruct`s, whose `sharding`, if
      any, places the result. It may be a dict with some of the saved tree's
      top-level keys: `{"params": ..., "batch_stats": ...}` needs no optimizer.

  Raises:
    FileNotFoundError: no checkpoint of that step.
    ValueError: the checkpoint is damaged, or not one of such a tree.
  """
  return _restore(directory, step, template, whole=False)


def variables(directory, step: int, parts: Collection[str]) -> dict[str, Any]:
  """Some top-level keys of a checkpoint as nested dicts, without a template.

  Args:
    directory: where the run's checkpoints are.
    step: one of `steps(directory)`.
    parts: top-level keys; one that the checkpoint lacks comes out empty.

  Raises:
    FileNotFoundError: no checkpoint of that step.
    ValueError: the checkpoint is damaged.
  """
  saved, _ = _manifest(pathlib.Path(directory).absolute(), step)
  shapes = {
    name: jax.ShapeDtypeStruct(entry["shape"], entry["dtype"])
    for name, entry in saved.items()
    if name.split("/")[0] in parts and "/" in name
  }
  template = traverse_util.unflatten_dict(shapes, sep="/")
  empty = {part: {} for part in parts}
  return _restore(directory, step, empty | template, whole=False)


def _manifest(directory: pathlib.Path, step: int) -> tuple[dict, dict]:
  """The leaves and the files that a checkpoint says it has."""
  path = directory / str(step)
  if not path.is_dir():
    known = ", ".join(map(str, steps(directory))) or "none"
    raise FileNotFoundError(
      f"No checkpoint of step {step} in {directory}; steps there: {known}."
    )
  try:
    manifest = json.loads((path / checksums.MANIFEST).read_text())
    if manifest["format"] != _FORMAT:
      raise ValueError(f"unknown format {manifest['format']!r}")
    if manifest.pop("crc32") != checksums.of_manifest(manifest):
      raise ValueError(
        f"its {checksums.MANIFEST} has other bits than were written"
      )
    return manifest["leaves"], manifest["files"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise _damaged(directory, step, error) from error


def _restore(directory, step: int, template: Any, *, whole: bool) -> Any:
  directory = pathlib.Path(directory).absolute()
  path = directory / str(step)
  saved, files = _manifest(directory, step)
  wanted = _flatten(template)
  if not whole:
    asked = _top(template)
    saved = {
      name: entry
      for name, entry in saved.items()
      if name.split("/")[0] in asked
    }
  _compare(path, saved, wanted)
  abstract = {
    name: _abstract(leaf) for name, leaf in wanted.items() if _size(leaf)
  }
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  try:
    # First, because Orbax and asyncio fill the terminal over a damaged file.
    checksums.check_files(path, files)
    with context:
      arrays = ocp.load(path, abstract) if abstract else {}
  except Exception as error:
    raise _damaged(directory, step, error) from error
  leaves = []
  for name, leaf in wanted.items():
    array = arrays[name] if _size(leaf) else jnp.zeros(leaf.shape, leaf.dtype)
    if _is_key(leaf):
      array = jax.random.wrap_key_data(array, impl=saved[name]["key"])
    leaves.append(array)
  return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _damaged(directory: pathlib.Path, step: int, error: Exception):
  """Whatever went wrong in reading, as one error with the way out."""
  earlier = [other for other in steps(directory) if other < step]
  outcome = f"go on from step {earlier[-1]}" if earlier else "start anew"
  return DamagedError(
    f"Checkpoint {directory / str(step)} is damaged or was not written by"
    f" ovsw_jax: {_first_line(error)} Remove that directory to {outcome}."
  )


def _compare(path: pathlib.Path, saved: dict, wanted: dict) -> None:
  """Raises on the first leaf that is not the same on both sides."""
  remedy = (
    "Restore it with the config and the version of ovsw_jax that wrote it, or"
    " use another workdir."
  )
  for name, leaf in wanted.items():
    if name not in saved:
      raise ValueError(
        f"Checkpoint {path} does not fit: leaf {name!r} is wanted and not in"
        f" it. {remedy}"
      )
    have, want = saved[name], _describe(leaf)
    if (have["dtype"], have["shape"]) != (want["dtype"], want["shape"]):
      raise ValueError(
        f"Checkpoint {path} does not fit: leaf {name!r} is"
        f" {_text(have)} in it, and {_text(want)} is wanted. {remedy}"
      )
  for name in saved:
    if name not in wanted:
      raise ValueError(
        f"Checkpoint {path} does not fit: leaf {name!r} is in it and not"
        f" wanted. {remedy}"
      )


def _flatten(tree: Any) -> dict[str, Any]:
  """Leaves by path, such as "opt_state/0/trace/conv/latent"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  named = [
    (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
    for path, leaf in leaves
  ]
  flat = {name: _leaf(name, leaf) for name, leaf in named}
  if len(flat) != len(leaves):
    raise ValueError(
      "Two leaves of the tree have the same path; name its keys without '/'."
    )
  return flat


def _top(tree: Any) -> list[str]:
  """Top-level names, those of empty subtrees included."""
  children = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda node: node is not tree
  )
  return [jax.tree_util.keystr(path, simple=True) for path, _ in children]


def _leaf(path: str, leaf: Any) -> Any:
  """A leaf with a shape and a dtype, or an error that names it."""
  if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
    return leaf
  if not isinstance(leaf, bool | int | float | np.generic | np.ndarray):
    raise ValueError(
      f"Leaf {path!r} is a {type(leaf).__name__}; a checkpoint holds arrays."
    )
  array = jnp.asarray(leaf)
  if isinstance(leaf, np.generic | np.ndarray) and array.dtype != leaf.dtype:
    raise ValueError(
      f"Leaf {path!r} is {leaf.dtype}, which JAX would cut to {array.dtype};"
      " convert it before saving."
    )
  return array


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _size(leaf: Any) -> int:
  return int(np.prod(leaf.shape))


def _describe(leaf: Any) -> dict[str, Any]:
  entry = {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}
  if isinstance(leaf, jax.Array) and _is_key(leaf):
    entry["key"] = str(jax.random.key_impl(leaf))
  return entry


def _text(entry: dict[str, Any]) -> str:
  return f"{entry['dtype']}{entry['shape']}"


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  shape, dtype = leaf.shape, leaf.dtype
  if _is_key(leaf):
    data = jax.eval_shape(jax.random.key_data, leaf)
    shape, dtype = data.shape, data.dtype
  sharding = getattr(leaf, "sharding", None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _sweep(directory: pathlib.Path) -> None:
  """Removes what killed or failed saves and deletions left behind."""
  if jax.process_index() == 0 and directory.is_dir():
    for entry in directory.iterdir():
      if any(mark in entry.name for mark in _TEMPORARY) and entry.is_dir():
        shutil.rmtree(entry)


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or [""]
  text = lines[0][:200].rstrip(" .:")
  return f"{text or type(error).__name__}."
