"""CIFAR and ImageNet from TensorFlow Datasets, read without TensorFlow."""

import functools
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
from ovsw_jax.data._encoded import Encoded

NAMES = ("cifar10", "cifar100")
STREAMED = ("imagenet2012",)  # too large for memory, see `find`


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
  builder, root, prepared = _open(name, data_dir)
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


class Records:
  """Encoded images of a prepared split, which is opened where it is read.

  Attributes:
    prepared: directory of the prepared data set.
    split: its name there.
  """

  def __init__(self, prepared: pathlib.Path, split: str, count: int):
    self.prepared, self.split, self._count = prepared, split, count

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int, /) -> Encoded:
    example = self._source[index]
    file = bytes(example["file_name"]).decode()
    name = f"{self.prepared}, {self.split} record {index} ({file})"
    return Encoded(name, bytes(example["image"]), int(example["label"]))

  def __getstate__(self):
    return {k: v for k, v in self.__dict__.items() if k != "_source"}

  @functools.cached_property
  def _source(self) -> Any:
    tfds = require("tensorflow_datasets", f"{self.prepared}")
    return _images_encoded(
      tfds, tfds.builder_from_directory(self.prepared), self.split
    )


def find(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> tuple[Records, Records, tuple[str, ...]]:
  """Opens a prepared TFDS data set that is read record by record.

  Args:
    name: `"imagenet2012"`; its validation split is what is tested on.
    data_dir: as of `load`.

  Returns:
    Training and test images, still encoded, and the class names.

  Raises:
    FileNotFoundError: the data is not prepared as array_record in `data_dir`.
    ImportError: tensorflow-datasets is not installed.
    ValueError: another name, or prepared files that cannot be read.
  """
  builder, root, prepared = _open(name, data_dir)
  tfds = require("tensorflow_datasets", f"tfds:{name}")
  try:
    train, test = (
      Records(prepared, split, len(_images_encoded(tfds, builder, split)))
      for split in ("train", "validation")
    )
  except Exception as error:
    raise ValueError(_unreadable(name, root, prepared, error)) from error
  return train, test, tuple(builder.info.features["label"].names)


def _images_encoded(tfds: Any, builder: Any, split: str) -> Any:
  return builder.as_data_source(
    split=split,
    file_format="array_record",
    decoders={"image": tfds.decode.SkipDecoding()},
  )


def _open(
  name: str, data_dir: str | os.PathLike[str] | None
) -> tuple[Any, pathlib.Path, pathlib.Path]:
  """The builder, where TFDS keeps its data, and where this one lies there."""
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
  return builder, root, prepared


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
  if name in STREAMED:
    before = (
      "Its archives, which image-net.org gives on request, belong in "
      f"{root / 'downloads' / 'manual'}. "
    )
    folder = "stream images from a folder with stream:<path>"
  else:
    before, folder = "", "read images from a folder with folder:<path>"
  return (
    f"{before}Prepare it once, with the network (reading will not need "
    "TensorFlow):\n"
    "  pip install tensorflow tensorflow-datasets && "
    f"tfds build {name} {flags} --data_dir={shlex.quote(str(root))}\n"
    f"or {folder}."
  )


def _unreadable(
  name: str, root: pathlib.Path, prepared: pathlib.Path, error: Exception
) -> str:
  return (
    f"tfds:{name} in {prepared} cannot be read ({type(error).__name__}: "
    f"{error}). {_remedy(name, root, overwrite=True)}"
  )
