"""The artifact: one safetensors file; `docs/deploy.md` describes its layout."""

import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ovsw_jax.deploy._describe import Description
from ovsw_jax.deploy._network import PackedNetwork

FORMAT, VERSION = "ovsw_jax packed network", "1"
_DTYPES = ("float32", "int32", "uint16", "uint32", "uint8")
_MOST_BYTES = 2**31
_MOST_OPTION = 2**20  # larger than any width or number of classes


def _library() -> Any:
  try:
    import safetensors  # pyrefly: ignore[missing-import]
    import safetensors.numpy  # pyrefly: ignore[missing-import]
  except ImportError as error:
    raise ImportError(
      f'packed files need safetensors ({error}): pip install "ovsw_jax[deploy]"'
    ) from error
  return safetensors


def _crc32(network: str, arrays: Mapping[str, np.ndarray]) -> str:
  """Of the description and then all arrays, by name: `name dtype shape`."""
  crc32 = zlib.crc32(network.encode())
  for name in sorted(arrays):
    array = arrays[name]
    shape = ",".join(map(str, array.shape))
    crc32 = zlib.crc32(f"{name} {array.dtype.name} {shape}".encode(), crc32)
    crc32 = zlib.crc32(array.tobytes(), crc32)
  return f"{crc32:08x}"


def save(path: str | os.PathLike, network: PackedNetwork) -> int:
  """Writes a packed network to a file, whole or not at all.

  Args:
    path: the file, by custom `*.safetensors`.
    network: from `pack`.

  Returns:
    The file's size in bytes.

  Raises:
    ImportError: safetensors is not installed.
    ValueError: the metadata is not plain values.

  Examples:
    >>> import jax.numpy as jnp, ovsw_jax as ovsw
    >>> network = ovsw.deploy.load("net.safetensors")  # doctest: +SKIP
    >>> network.predict(["cat.png"]).classes[0]  # doctest: +SKIP
    ['cat', 'dog', 'frog', 'deer', 'bird']
  """
  library, path = _library(), pathlib.Path(path)
  flat = traverse_util.flatten_dict(network.variables["params"])
  arrays = {
    "/".join(name): np.ascontiguousarray(value) for name, value in flat.items()
  }
  for name, array in arrays.items():
    if array.dtype.name not in _DTYPES:
      raise ValueError(
        f"{name} is {array.dtype.name}; an artifact has {', '.join(_DTYPES)}. "
        "Convert the variables before packing."
      )
  content = {
    **dataclasses.asdict(network.description),
    "image_shape": network.image_shape,
    "metadata": network.metadata,
  }
  try:
    text = json.dumps(content, allow_nan=False, sort_keys=True)
  except (TypeError, ValueError) as error:
    raise ValueError(f"the metadata is not plain values: {error}") from error
  header = {
    "format": FORMAT,
    "version": VERSION,
    "network": text,
    "crc32": _crc32(text, arrays),
  }
  temporary = path.with_name(path.name + ".writing")
  library.numpy.save_file(arrays, temporary, metadata=header)
  os.replace(temporary, path)
  return path.stat().st_size


def load(path: str | os.PathLike) -> PackedNetwork:
  """Reads a packed network from a file.

  Nothing in the file is run, and no more memory is taken than a few times its
  size. It is checked against its checksum.

  Args:
    path: a file that `save` wrote.

  Returns:
    The network: call it, or its `predict`.

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: safetensors is not installed.
    ValueError: it is no such file, damaged, or of another version.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> network = ovsw.deploy.load("net.safetensors")  # doctest: +SKIP
    >>> network.predict(["cat.png"]).classes[0][0]  # doctest: +SKIP
    'cat'
  """
  library, path = _library(), pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"there is no packed network {path}")
  try:
    if path.stat().st_size > _MOST_BYTES:
      raise ValueError(f"it has more than {_MOST_BYTES} bytes")
    with library.safe_open(path, framework="numpy") as file:
      return _network(file)
  except (
    AttributeError,
    KeyError,
    OSError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    library.SafetensorError,
  ) as error:
    reason = (str(error).splitlines() or [""])[0][:300]
    raise ValueError(
      f"{path} is no packed network of ovsw_jax, or it is damaged: {reason}"
    ) from error


def _network(file: Any) -> PackedNetwork:
  header = file.metadata() or {}
  if header.get("format") != FORMAT:
    raise ValueError(f"its format is {str(header.get('format'))[:80]!r}")
  if header.get("version") != VERSION:
    raise ValueError(
      f"it is of version {str(header.get('version'))[:20]!r}, and this "
      f"package reads {VERSION!r}"
    )
  arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  if header.get("crc32") != _crc32(header["network"], arrays):
    raise ValueError("it has other bits than were written")
  for name, array in arrays.items():
    if array.dtype.name not in _DTYPES:
      raise ValueError(f"{name!r} has the data type {array.dtype.name}")
  content = json.loads(header["network"])
  image_shape, metadata = content.pop("image_shape"), content.pop("metadata")
  if not isinstance(metadata, dict):
    raise ValueError("its metadata is no object")
  params = {tuple(name.split("/")): array for name, array in arrays.items()}
  network = PackedNetwork(
    description=_description(content),
    variables={"params": traverse_util.unflatten_dict(params)},
    image_shape=tuple(image_shape),
    metadata=metadata,
  )
  _ = network.module  # its names and options are known
  return network


def _description(content: dict[str, Any]) -> Description:
  """A description whose values are of the types and sizes they should be."""
  known = {field.name for field in dataclasses.fields(Description)}
  if set(content) != known:
    odd = sorted(set(content) ^ known)
    raise ValueError(f"its description has, or lacks, {', '.join(odd)[:80]}")
  options, thresholds = content["options"], content["thresholds"]
  if not isinstance(options, dict) or "num_classes" not in options:
    raise ValueError("its options are no object, or lack num_classes")
  for name, value in options.items():
    many = isinstance(value, list) and len(value) <= 64
    for item in value if many else [value]:
      plain = item is None or isinstance(item, str | bool | float)
      count = type(item) is int and 0 < item <= _MOST_OPTION
      if not (plain or count) or (many and not count):
        raise ValueError(f"its option {name[:80]!r} is {str(item)[:80]}")
  if type(options["num_classes"]) is not int:
    raise ValueError("its option num_classes is no number")
  if not isinstance(thresholds, list) or any(
    not isinstance(name, str) for name in thresholds
  ):
    raise ValueError("its thresholds are no names")
  reduction = content["reduction"]
  if reduction is not None and not (type(reduction) is int and reduction > 0):
    raise ValueError("its reduction is no number above 0")
  if type(content["input_scale"]) is not bool:
    raise ValueError("its input_scale is neither true nor false")
  return Description(**(content | {"thresholds": tuple(thresholds)}))
