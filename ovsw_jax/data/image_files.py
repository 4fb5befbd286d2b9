"""A folder of images that stay on the disk until they are asked for."""

import os
import pathlib

import numpy as np

from ovsw_jax.data._encoded import Encoded
from ovsw_jax.data._files import is_image, walk

_LAYOUT = "it must hold train/<class>/* and val/<class>/* (or test/<class>/*)"


class ImageFiles:
  """Image files of one split, sorted by class and name.

  A million names are one array of bytes, as every worker process gets a copy.

  Attributes:
    root: the split's folder.
    names: paths below it, bytes `(n,)`.
    labels: int32 `(n,)`.
  """

  def __init__(self, root: pathlib.Path, names: np.ndarray, labels: np.ndarray):
    self.root, self.names, self.labels = root, names, labels

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int, /) -> Encoded:
    path = self.root / os.fsdecode(self.names[index])
    return Encoded(str(path), path.read_bytes(), int(self.labels[index]))


def find(
  path: str | os.PathLike[str],
) -> tuple[ImageFiles, ImageFiles, tuple[str, ...]]:
  """Lists the training and test images of a folder, and their classes.

  The test split is `val`, as ImageNet's is called, or else `test`. Hidden files
  and those without an image's suffix are passed over; nothing is opened.

  Raises:
    FileNotFoundError: nothing is at `path`.
    ValueError: the layout is another, the splits' classes differ, or a class is
      empty.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"there is no folder {path}: {_LAYOUT}")
  if not path.is_dir():
    raise ValueError(
      f"{path} is a file, and images are streamed from a folder: unpack it, or "
      "read an archive into memory with folder:<path>"
    )
  test = "val" if (path / "val").is_dir() else "test"
  for split in ("train", test):
    if not (path / split).is_dir():
      raise ValueError(f"{path} has no folder {split!r}: {_LAYOUT}")
  classes = {split: _classes(path / split) for split in ("train", test)}
  for split, other in (("train", test), (test, "train")):
    if lone := sorted(set(classes[split]) - set(classes[other])):
      raise ValueError(
        f"{path}: both splits must have the same classes, but only {split} has "
        f"{', '.join(lone)}"
      )
  if not classes["train"]:
    raise ValueError(f"{path} holds no class folder: {_LAYOUT}")
  names = classes["train"]
  return _split(path / "train", names), _split(path / test, names), names


def _classes(folder: pathlib.Path) -> tuple[str, ...]:
  with os.scandir(folder) as entries:
    found = [
      entry.name
      for entry in entries
      if entry.is_dir() and not entry.name.startswith(".")
    ]
  return tuple(sorted(found))


def _split(root: pathlib.Path, classes: tuple[str, ...]) -> ImageFiles:
  names: list[bytes] = []
  counts = []
  for name in classes:
    files = sorted(
      os.fsencode(os.path.relpath(os.path.join(place, file), root))
      for place, _, files in walk(root / name)
      for file in files
      if is_image(file)
    )
    if not files:
      raise ValueError(
        f"class folder {root / name} holds no image: fill it, or remove it "
        "from both splits"
      )
    names += files
    counts.append(len(files))
  labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
  return ImageFiles(root, np.array(names), labels)
