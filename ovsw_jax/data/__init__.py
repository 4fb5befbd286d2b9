"""Data sets, in memory or streamed, and what happens to their images."""

import os
import pathlib

from ovsw_jax.data import digits, folder, tfds
from ovsw_jax.data._dataset import Dataset, Split
from ovsw_jax.data._encoded import Encoded, Examples, rgb
from ovsw_jax.data.crops import Box, CentralCrop, RandomCrop, random_box
from ovsw_jax.data.draws import host_order, uniforms
from ovsw_jax.data.lighting import LIGHTINGS, lighting
from ovsw_jax.data.pipeline import (
  augment,
  batch_indices,
  epoch_order,
  eval_batches,
  normalize,
)
from ovsw_jax.data.stream import (
  Batch,
  Streamed,
  evaluation_batches,
  is_streamed,
  open_stream,
  training_batches,
)

__all__ = [
  "LIGHTINGS",
  "Batch",
  "Box",
  "CentralCrop",
  "Dataset",
  "Encoded",
  "Examples",
  "RandomCrop",
  "Split",
  "Streamed",
  "augment",
  "batch_indices",
  "epoch_order",
  "eval_batches",
  "evaluation_batches",
  "host_order",
  "is_streamed",
  "lighting",
  "load",
  "normalize",
  "open_stream",
  "random_box",
  "rgb",
  "training_batches",
  "uniforms",
]


def load(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
  """Loads a data set by name.

  Args:
    name: one of

      - `"digits"`: scikit-learn's handwritten digits, which need no files, as
        16x16 pixels; `"digits:32"` has 32x32, any multiple of 8 will do;
      - `"tfds:cifar10"`, `"tfds:cifar100"`: prepared by TensorFlow Datasets;
      - `"folder:<path>"`: images in `train/<class>/*` and `test/<class>/*` of a
        folder, or of a `.tar`, `.tar.gz`, `.tar.xz` or `.zip` archive.
    data_dir: where TFDS keeps its data, and where a relative `folder:` path
      starts (default: the working directory). `digits` has no use for it.

  Returns:
    The data set, decoded, in memory.

  Raises:
    ValueError: the name has none of these forms, or the data is not as it must
      be; the message says what is wrong where and what to do.
    FileNotFoundError: the data is not there.
    ImportError: a package of the `train` extra is missing.

  Examples:
    >>> from ovsw_jax import data
    >>> digits = data.load("digits")
    >>> digits.train.images.shape, digits.test.images.shape
    ((1437, 16, 16, 1), (360, 16, 16, 1))
  """
  if name == "digits":
    return digits.load()
  if name.startswith("digits:") and name[len("digits:") :].isdecimal():
    return digits.load(int(name[len("digits:") :]))
  if is_streamed(name):
    raise ValueError(
      f"{name!r} is not held in memory: open it with data.open_stream"
    )
  source, _, rest = name.partition(":")
  if source == "tfds" and rest:
    return tfds.load(rest, data_dir=data_dir)
  if source == "folder" and rest:
    path = pathlib.Path(rest).expanduser()
    return folder.load(pathlib.Path(data_dir or "").expanduser() / path)
  raise ValueError(
    f"unknown data set {name!r}: write digits, "
    f"{', '.join(f'tfds:{known}' for known in tfds.NAMES)} or folder:<path>; "
    "or, not to be held in memory, "
    f"{', '.join(f'tfds:{known}' for known in tfds.STREAMED)} or stream:<path>"
  )
