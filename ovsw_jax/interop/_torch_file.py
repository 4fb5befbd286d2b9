"""Files of `torch.save`: a zip archive of one pickle and its storages."""

import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ovsw_jax.interop import _pickles

_PICKLE = "data.pkl"


def read(path: str | os.PathLike) -> Any:
  """The content of a file, with numpy arrays in the place of tensors.

  Nothing in the file is run, and no more memory is taken than a few times its
  size.

  Args:
    path: a file that `torch.save` wrote, of PyTorch 1.6 or later.

  Returns:
    Dicts, lists, tuples, numbers, text and arrays; bfloat16 as float32.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not such a file, or damaged.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"there is no checkpoint {path}")
  try:
    with zipfile.ZipFile(path) as archive:
      return _content(archive, path.stat().st_size)
  except (
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,  # an encrypted member
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    raise ValueError(
      f"{path} is no checkpoint that PyTorch 1.6 or later wrote, or it is "
      f"damaged: {str(error)[:300]}"
    ) from error


def _content(archive: zipfile.ZipFile, size: int) -> Any:
  # Members may not be compressed, nor share their bytes, or a small file could
  # hold any amount.
  if sum(member.file_size for member in archive.infolist()) > size:
    raise ValueError("its members are larger than itself")
  names = [n for n in archive.namelist() if n.endswith("/" + _PICKLE)]
  if len(names) != 1:
    raise ValueError(f"it has {len(names)} files {_PICKLE}, not one")
  root = names[0].removesuffix(_PICKLE)
  order = "<"
  if root + "byteorder" in archive.namelist():
    big = archive.read(root + "byteorder").strip() == b"big"
    order = ">" if big else "<"
  storages: dict[str, np.ndarray] = {}

  def array(tensor: _pickles.Tensor) -> np.ndarray:
    storage = tensor.storage
    if storage.key not in storages:
      content = archive.read(f"{root}data/{storage.key}")
      storages[storage.key] = _flat(content, storage, order)
    return _window(storages[storage.key], tensor)

  return _mapped(_pickles.read(archive.read(names[0])), array)


def _flat(content: bytes, storage: _pickles.Storage, order: str) -> np.ndarray:
  brain = storage.dtype == "bfloat16"
  dtype = np.dtype("uint16" if brain else storage.dtype).newbyteorder(order)
  if len(content) != storage.size * dtype.itemsize:
    raise ValueError(
      f"storage {storage.key!r} has {len(content)} bytes and should have "
      f"{storage.size * dtype.itemsize}"
    )
  flat = np.frombuffer(content, dtype)
  if brain:  # the upper half of a float32
    return (flat.astype(np.uint32) << 16).view(np.float32)
  return flat.astype(dtype.newbyteorder("="), copy=False)


def _window(flat: np.ndarray, tensor: _pickles.Tensor) -> np.ndarray:
  shape, strides = tensor.shape, tensor.strides
  size = math.prod(shape)
  reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  inside = tensor.offset + reach < len(flat) or size == 0
  if not inside or size > len(flat):
    raise ValueError(
      f"a tensor of shape {shape} does not fit its storage of {len(flat)}"
    )
  if size == 0:
    if max(shape) > len(flat):
      raise ValueError(f"a tensor has the shape {shape}")
    return np.zeros(shape, flat.dtype)
  return np.lib.stride_tricks.as_strided(
    flat[tensor.offset :],
    shape,
    [stride * flat.itemsize for stride in strides],
    writeable=False,
  )


def _mapped(value: Any, array) -> Any:
  """Arrays for tensors, wherever they are in dicts, lists and tuples."""
  # A value that is held in many places is visited once, and one within itself
  # is refused, or a small pickle could take forever.
  done: dict[int, Any] = {}

  def visit(value):
    if isinstance(value, _pickles.Tensor):
      return array(value)
    if isinstance(value, _pickles.Unknown | _pickles.Global):
      return value
    if not isinstance(value, dict | list | tuple):
      return value
    if id(value) in done:
      if done[id(value)] is None:
        raise ValueError("its pickle holds something within itself")
      return done[id(value)]
    done[id(value)] = None
    if isinstance(value, dict):
      made: Any = {key: visit(item) for key, item in value.items()}
    else:
      made = type(value)(visit(item) for item in value)
    done[id(value)] = made
    return made

  return visit(value)


def write(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
  """Writes a file that `torch.load` reads, `weights_only=True` included.

  Args:
    path: the file, which is replaced whole or not at all.
    content: dicts, lists, tuples, numbers, text and numpy arrays.

  Raises:
    ValueError: for anything else in `content`.
  """
  path = pathlib.Path(path)
  storages: list[np.ndarray] = []

  def tensors(value):
    if isinstance(value, np.ndarray | np.generic):
      flat = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
      if flat.dtype.name not in _pickles.STORAGES.values():
        raise ValueError(f"arrays of {flat.dtype.name} are not written")
      shape = np.shape(value)
      strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
      storages.append(flat)
      storage = _pickles.Storage(
        flat.dtype.name, str(len(storages) - 1), flat.size
      )
      return _pickles.Tensor(storage, 0, shape, strides)
    if isinstance(value, Mapping):
      return {key: tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
      return type(value)(tensors(item) for item in value)
    return value

  pickle = _pickles.write(tensors(content))
  temporary = path.with_name(path.name + ".writing")
  root = path.stem or "archive"
  with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
    archive.writestr(f"{root}/{_PICKLE}", pickle)
    archive.writestr(f"{root}/byteorder", "little")
    for index, flat in enumerate(storages):
      archive.writestr(f"{root}/data/{index}", flat.tobytes())
    archive.writestr(f"{root}/version", "3\n")
  os.replace(temporary, path)
