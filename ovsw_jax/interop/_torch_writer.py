"""Writes a checkpoint that the OvSW authors' code reads."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ovsw_jax.interop import _torch_file, _torch_names
from ovsw_jax.interop._checkpoint import Checkpoint


def save(path: str | os.PathLike, checkpoint: Checkpoint) -> None:
  """Writes a checkpoint that the OvSW authors' code reads.

  Args:
    path: the file, replaced whole or not at all.
    checkpoint: from `load`, `with_optimizer`, or made of variables of one of
      the architectures that the authors have.

  Raises:
    ValueError: the authors have no such network, or a momentum is to be written
      for a residual network with PReLU, whose parameters' order is not known.

  Examples:
    >>> import tempfile, jax, jax.numpy as jnp, optax
    >>> import ovsw_jax as ovsw
    >>> net, images = ovsw.models.cifar_resnet20(), jnp.ones((1, 8, 8, 3))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), images)
    >>> variables = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    >>> checkpoint = ovsw.interop.torch.Checkpoint("cifar_resnet20", variables)
    >>> path = f"{tempfile.mkdtemp()}/net.pth"
    >>> ovsw.interop.torch.save(path, checkpoint)
    >>> ovsw.interop.torch.load(path).architecture
    'cifar_resnet20'
  """
  ours = checkpoint.architecture
  theirs = {v: k for k, v in _torch_names.ARCHITECTURES.items()}
  if ours not in theirs:
    raise ValueError(
      f"the OvSW authors have no {ours!r}; they have {', '.join(theirs)}."
    )
  if checkpoint.momentum is not None and checkpoint.activation == "prelu":
    raise ValueError(
      "the momentum of a network with PReLU in its blocks is not written, as "
      "the order of its parameters is not known; save it without momentum."
    )
  flat = {
    path: np.asarray(value)
    for name, tree in (
      *checkpoint.variables.items(),
      (_torch_names.FLIP_EMA, checkpoint.flip_ema),
      (_torch_names.PREVIOUS, checkpoint.weight_prev),
    )
    for path, value in traverse_util.flatten_dict({name: tree or {}}).items()
  }
  state: dict[str, np.ndarray] = {}
  parameters: dict[str, tuple[str, ...]] = {}
  for key in _torch_names.keys(ours):
    if key.endswith(_torch_names.BATCHES):
      if key.removesuffix(_torch_names.BATCHES) + "running_var" in state:
        state[key] = np.zeros((), np.int64)
      continue
    location = _torch_names.locate(key, ours)
    if location in flat:
      value = flat.pop(location)
      state[key] = _torch_names.to_torch(value, key, ours)
      if location[0] == "params":
        parameters[key] = location[1:]
  if flat:
    raise ValueError(
      f"the OvSW authors' {theirs[ours]} has no {'/'.join(next(iter(flat)))!r}."
    )
  content: dict[str, Any] = {
    "epoch": 0,
    "arch": theirs[ours],
    "state_dict": state,
    "best_acc1": 0.0,
    "best_acc5": 0.0,
    "best_train_acc1": 0.0,
    "best_train_acc5": 0.0,
    **checkpoint.metadata,
  }
  if checkpoint.momentum is not None:
    content["optimizer"] = _optimizer(checkpoint, state, parameters)
  _torch_file.write(path, content)


def _optimizer(
  checkpoint: Checkpoint,
  state: Mapping[str, np.ndarray],
  parameters: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
  """SGD's buffers, numbered as the authors' two groups of parameters are."""
  momentum = traverse_util.flatten_dict(checkpoint.momentum)
  ordered = sorted(parameters, key=lambda key: state[key].ndim != 1)
  vectors = sum(state[key].ndim == 1 for key in ordered)
  buffers = {
    index: {
      "momentum_buffer": _torch_names.to_torch(
        momentum[parameters[key]], key, checkpoint.architecture
      )
    }
    for index, key in enumerate(ordered)
  }
  groups = (range(vectors), range(vectors, len(ordered)))
  return {
    "state": buffers,
    "param_groups": [{"params": list(group)} for group in groups],
  }
