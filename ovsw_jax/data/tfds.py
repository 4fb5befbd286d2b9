"""CIFAR from TensorFlow Datasets, read without TensorFlow."""

import os
import pathlib
import re
import shlex
from typing import Any

import numpy as np

from ovsw_jax.data._dataset import (
  CIFAR_MEAN,
  CIFAR_STD,
  Dataset,
  Split,
  require,
)

NAMES = ("cifar10", "cifar100")


def load(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
  """Loads a prepared TFDS data set into memory.

  Reading array_record files needs no TensorFlow; *preparing* them needs it,
  once, and the network. That is left to the user: where the data is missing,
  the error says how. Of several prepared versions the newest is taken.

  Both data sets are normalised with the OvSW authors' constants, CIFAR-10's.

  Args:
    name: `"cifar10"` or `"cifar100"` (its 100 fine labels).
    data_dir: where TFDS keeps its data; by default `$TFDS_DATA_DIR`, else
      `~/tensorflow_datasets`.

  Returns:
    The data set; images are uint8 `(n, 32, 32, 3)`, in the order of TFDS.

  Raises:
    FileNotFoundError: the data is not prepared as array_record in `data_dir`.
    ImportError: tensorflow-datasets is not installed.
    ValueError: another name, or prepared files that cannot be read.
  """
  if name not in NAMES:
    raise ValueError(
      f"unknown TFDS data set {name!r}: choose one of "
      f"{', '.join(f'tfds:{known}' for known in NAMES)}, or read images from a "
      "folder with folder:<path>"
    )
  root = pathlib.Path(
    data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  ).expanduser()
  prepared = _newest_version(root / name)
  if prepared is None:
    raise FileNotFoundError(
      f"tfds:{name} is not prepared in {root}. {_remedy(name, root)}"
    )
  tfds = require("tensorflow_datasets", f"tfds:{name}")
  require("array_record.python.array_record_data_source", f"tfds:{name}")
  try:
    builder = tfds.builder_from_directory(prepared)
    formats = {fmt.value for fmt in builder.info.available_file_formats()}
  # Metadata is JSON read into protocol buffers; its failures are manifold.
  except Exception as error:
    raise ValueError(_unreadable(name, root, prepared, error)) from error
  if "array_record" not in formats:
    raise FileNotFoundError(
      f"tfds:{name} in {prepared} is prepared as {', '.join(sorted(formats))}, "
      "which only TensorFlow reads; it must be array_record. "
      + _remedy(name, root, overwrite=True)
    )
  try:
    splits = {split: _read(builder, split) for split in ("train", "test")}
  except Exception as error:
    raise ValueError(_unreadable(name, root, prepared, error)) from error
  return Dataset(
    name=f"tfds:{name}",
    train=splits["train"],
    test=splits["test"],
    classes=tuple(builder.info.features["label"].names),
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
  )


def _newest_version(directory: pathlib.Path) -> pathlib.Path | None:
  """The prepared version with the highest number, if there is any."""
  versions = [
    (tuple(int(part) for part in path.parent.name.split(".")), path.parent)
    for path in directory.glob("*/dataset_info.json")
    if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
  ]
  return max(versions)[1] if versions else None


def _read(builder: Any, split: str) -> Split:
  """Decodes a split of a `tfds.core.DatasetBuilder`."""
  source = builder.as_data_source(split=split, file_format="array_record")
  shape = builder.info.features["image"].shape
  images = np.empty((len(source), *shape), np.uint8)
  labels = np.empty(len(source), np.int32)
  # Asked for many records at once, array_record reads them in parallel.
  for start in range(0, len(source), 1000):
    indices = range(start, min(start + 1000, len(source)))
    for index, example in zip(
      indices, source.__getitems__(indices), strict=True
    ):
      images[index], labels[index] = example["image"], example["label"]
  return Split(images, labels)


def _remedy(name: str, root: pathlib.Path, *, overwrite: bool = False) -> str:
  flags = "--file_format=array_record" + (" --overwrite" if overwrite else "")
  return (
    "Prepare it once, with the network (reading will not need TensorFlow):\n"
    "  pip install tensorflow tensorflow-datasets && "
    f"tfds build {name} {flags} --data_dir={shlex.quote(str(root))}\n"
    "or read images from a folder with folder:<path>."
  )


def _unreadable(
  name: str, root: pathlib.Path, prepared: pathlib.Path, error: Exception
) -> str:
  return (
    f"tfds:{name} in {prepared} cannot be read ({type(error).__name__}: "
    f"{error}). {_remedy(name, root, overwrite=True)}"
  )
