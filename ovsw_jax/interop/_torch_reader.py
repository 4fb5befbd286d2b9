"""Reads a checkpoint of the OvSW authors' code into our variables."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ovsw_jax.interop import _torch_file, _torch_names
from ovsw_jax.interop._checkpoint import Checkpoint, Tree

_SCALARS = (
  "epoch",
  "best_acc1",
  "best_acc5",
  "best_train_acc1",
  "best_train_acc5",
  "curr_acc1",
  "curr_acc5",
)


def load(path: str | os.PathLike) -> Checkpoint:
  """Reads a checkpoint of the OvSW authors' code.

  Takes what their trainer writes, and a bare `state_dict`; with or without what
  SAD keeps, and with or without the prefix `module.` of `DataParallel`. Nothing
  in the file is run, and no more memory is taken than a few times its size.

  Args:
    path: a file that `torch.save` wrote, of PyTorch 1.6 or later.

  Returns:
    The checkpoint, whose `model()` takes its `variables`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, not of such a network, or lacks something of it;
      the message names the file and the key.

  Examples:
    >>> import tempfile, jax, jax.numpy as jnp, ovsw_jax as ovsw
    >>> init = ovsw.models.cifar_resnet20().init
    >>> images = jnp.zeros((1, 8, 8, 3))
    >>> shapes = jax.eval_shape(init, jax.random.key(0), images)
    >>> variables = jax.tree.map(lambda v: jnp.ones(v.shape), shapes)
    >>> path = f"{tempfile.mkdtemp()}/net.pth"
    >>> ovsw.interop.torch.save(
    ...   path, ovsw.interop.torch.Checkpoint("cifar_resnet20", variables)
    ... )
    >>> loaded = ovsw.interop.torch.load(path)
    >>> loaded.architecture, loaded.num_classes
    ('cifar_resnet20', 10)
  """
  content = _torch_file.read(path)
  try:
    return _checkpoint(content)
  except ValueError as error:
    raise ValueError(
      f"{path} is no checkpoint of the OvSW authors' code: {error}"
    ) from error


def _checkpoint(content: Any) -> Checkpoint:
  if not isinstance(content, dict):
    raise ValueError("it holds no dict")
  state = content.get("state_dict", content)
  state = _arrays(state)
  named = content.get("arch")
  architecture = _torch_names.guess(state)
  if isinstance(named, str) and named in _torch_names.ARCHITECTURES:
    architecture = _torch_names.ARCHITECTURES[named]
  trees: dict[tuple[str, ...], np.ndarray] = {}
  origin: dict[tuple[str, ...], str] = {}
  for key, value in state.items():
    if key.endswith(_torch_names.BATCHES):
      continue
    path = _torch_names.locate(key, architecture)
    if path in trees:
      raise ValueError(f"{key!r} and {origin[path]!r} are the same parameter")
    trees[path] = _real(key, _torch_names.to_ours(value, key, architecture))
    origin[path] = key
  tree = traverse_util.unflatten_dict(trees)
  if "head" not in tree.get("params", {}):
    raise ValueError("it has no classifier")
  checkpoint = Checkpoint(
    architecture=architecture,
    variables={k: tree.get(k, {}) for k in ("params", "batch_stats")},
    flip_ema=tree.get(_torch_names.FLIP_EMA),
    weight_prev=tree.get(_torch_names.PREVIOUS),
    momentum=_momentum(content.get("optimizer"), state, architecture),
    metadata={
      key: content[key]
      for key in _SCALARS
      if isinstance(content.get(key), int | float | str)
    },
  )
  _check(checkpoint, origin)
  return checkpoint


def _arrays(state: Any) -> dict[str, np.ndarray]:
  """A `state_dict` without the prefix of `DataParallel`."""
  if not isinstance(state, dict) or not state:
    raise ValueError("it holds no state_dict")
  arrays = {}
  for key, value in state.items():
    if not isinstance(key, str) or not isinstance(value, np.ndarray):
      raise ValueError(f"{str(key)[:80]!r} in its state_dict is no array")
    arrays[key.removeprefix("module.")] = value
  if len(arrays) != len(state):
    raise ValueError("it has keys both with and without the prefix 'module.'")
  return arrays


def _real(key: str, value: np.ndarray) -> np.ndarray:
  if value.dtype.kind != "f":
    raise ValueError(f"{key!r} has the data type {value.dtype}")
  dtype = np.promote_types(value.dtype, np.float32)
  return np.ascontiguousarray(value, dtype)


def _momentum(
  optimizer: Any, state: Mapping[str, np.ndarray], architecture: str
) -> Tree | None:
  """SGD's buffers by parameter: first the vectors, then all others."""
  if not isinstance(optimizer, dict):
    return None
  buffers, groups = optimizer.get("state"), optimizer.get("param_groups")
  if not isinstance(buffers, dict) or not isinstance(groups, list):
    raise ValueError("its optimizer has no state or no param_groups")
  if not any(
    isinstance(buffer, dict)
    and isinstance(buffer.get("momentum_buffer"), np.ndarray)
    for buffer in buffers.values()
  ):
    return None
  paths = {}
  for key in state:
    if not key.endswith(_torch_names.BATCHES):
      path = _torch_names.locate(key, architecture)
      if path[0] == "params":
        paths[key] = path[1:]
  ordered = list(paths)
  if len(groups) > 1:
    ordered.sort(key=lambda key: state[key].ndim != 1)
  flat = {}
  for index, key in enumerate(ordered):
    buffer = buffers.get(index, {}).get("momentum_buffer")
    if not isinstance(buffer, np.ndarray) or buffer.shape != state[key].shape:
      raise ValueError(f"its optimizer has no momentum of {key!r}'s shape")
    value = _torch_names.to_ours(buffer, key, architecture)
    flat[paths[key]] = _real(key, value)
  return traverse_util.unflatten_dict(flat)


def _check(checkpoint: Checkpoint, origin: Mapping[tuple, str]) -> None:
  """Raises ValueError for what the network lacks, or has otherwise."""
  params = checkpoint.variables["params"]
  side = 64
  if checkpoint.architecture == "vgg_small":
    features = params["head"].get("kernel", np.zeros((0, 0))).shape[0]
    side = 8 * round((features / 512) ** 0.5)
    if not 0 < side <= 2**12:
      raise ValueError("its classifier is of no image size")
  images = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
  wanted = jax.eval_shape(
    functools.partial(checkpoint.model().init, train=False),
    jax.random.key(0),
    images,
  )
  wanted = {k: wanted[k] for k in ("params", "batch_stats")}
  latents = {}
  for path, leaf in traverse_util.flatten_dict(wanted["params"]).items():
    if path[-1] == "latent":
      latents[path] = leaf
  for name, kept in (
    (_torch_names.FLIP_EMA, checkpoint.flip_ema),
    (_torch_names.PREVIOUS, checkpoint.weight_prev),
  ):
    if kept is not None:
      wanted[name] = traverse_util.unflatten_dict(latents)
  flat = traverse_util.flatten_dict(wanted)
  known = {
    _torch_names.locate(key, checkpoint.architecture): key
    for key in _torch_names.keys(checkpoint.architecture)
    if not key.endswith(_torch_names.BATCHES)
  }
  for path, leaf in flat.items():
    if path not in origin:
      raise ValueError(f"{known.get(path, '/'.join(path))!r} is missing")
    node: Any = {
      **checkpoint.variables,
      _torch_names.FLIP_EMA: checkpoint.flip_ema,
      _torch_names.PREVIOUS: checkpoint.weight_prev,
    }
    for part in path:
      node = node[part]
    if node.shape != leaf.shape:
      raise ValueError(
        f"{origin[path]!r} has, in our layout, the shape {node.shape}, but "
        f"{checkpoint.architecture} has {leaf.shape} there"
      )
  for path, key in origin.items():
    if path not in flat:
      raise ValueError(f"{checkpoint.architecture} has no {key!r}")
