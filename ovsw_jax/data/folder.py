"""Image folders, and archives of them: `train/<class>/*`, `test/<class>/*`."""

import concurrent.futures
import io
import logging
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ovsw_jax.data._dataset import (
  CIFAR10_CLASSES,
  CIFAR_MEAN,
  CIFAR_STD,
  Dataset,
  Split,
  channel_statistics,
  require,
)
from ovsw_jax.data._files import ARCHIVES, Listing, list_archive, list_folder

_LAYOUT = "it must hold train/<class>/* and test/<class>/*"
_MANY_FILES = 5_000
_CHUNK = 100
# Below this size decoding holds the interpreter's lock most of the time, and
# two threads took 1.1 to 1.4 times as long as one (32x32, JPEG and PNG).
_THREADED_PIXELS = 64 * 64

_log = logging.getLogger("ovsw_jax")


class _File(NamedTuple):
  name: str  # what an error calls it
  read: Callable[[], bytes]
  label: int


def load(path: str | os.PathLike[str]) -> Dataset:
  """Loads an image folder, or an archive of one, into memory.

  Classes are the sorted folder names; files are taken in sorted order. Images
  become RGB: grey levels are repeated, a palette is looked up, an alpha channel
  is dropped. Nothing is resized. Hidden files, `__MACOSX` and files without an
  image's suffix are passed over. An archive is read in place and may wrap the
  layout in one directory.

  Mean and deviation are those of the training images, exactly; but when the
  class names are CIFAR-10's, they are the constants of the OvSW authors, so
  that runs on any copy of CIFAR-10 compare.

  Args:
    path: a folder, or a file named `.tar`, `.tar.gz`, `.tar.xz` or `.zip`.

  Returns:
    The data set; images are uint8 `(n, h, w, 3)`.

  Raises:
    FileNotFoundError: nothing is at `path`.
    ValueError: the layout is not the one above, the splits' classes differ, a
      class is empty, an image is damaged, has 16-bit pixels or another size.
    ImportError: Pillow or tqdm is not installed.
  """
  path = pathlib.Path(path)
  listing = _list(path)
  classes = _classes(path, listing)
  label_of = {name: label for label, name in enumerate(classes)}
  prefix = _prefix(path)
  files: dict[str, list[_File]] = {"train": [], "test": []}
  for parts in sorted(listing.images):
    if parts[0] not in files:
      continue
    name = prefix + "/".join(parts)
    if len(parts) < 3:
      raise ValueError(
        f"image {name} lies in no class folder: move it to {parts[0]}/<class>/"
      )
    read = listing.images[parts]
    files[parts[0]].append(_File(name, read, label_of[parts[1]]))

  images = _decode(files["train"] + files["test"])
  n = len(files["train"])
  labels = {
    split: np.array([file.label for file in members], np.int32)
    for split, members in files.items()
  }
  if classes == CIFAR10_CLASSES:
    mean, std = CIFAR_MEAN, CIFAR_STD
  else:
    mean, std = channel_statistics(images[:n])
  return Dataset(
    name=f"folder:{path}",
    train=Split(images[:n], labels["train"]),
    test=Split(images[n:], labels["test"]),
    classes=classes,
    mean=mean,
    std=std,
  )


def _list(path: pathlib.Path) -> Listing:
  if path.is_dir():
    return list_folder(path)
  if not path.exists():
    raise FileNotFoundError(
      f"no folder or archive of images at {path.absolute()}: {_LAYOUT}"
    )
  if not path.name.lower().endswith(ARCHIVES):
    raise ValueError(
      f"{path} is neither a folder nor an archive that can be read: its name "
      f"must end in one of {', '.join(ARCHIVES)}"
    )
  return list_archive(path)


def _classes(path: pathlib.Path, listing: Listing) -> tuple[str, ...]:
  """The class names, after checking that both splits have them, with images."""
  found: dict[str, set[str]] = {}
  for split in ("train", "test"):
    if (split,) not in listing.directories:
      raise ValueError(f"{path} has no folder {split!r}: {_LAYOUT}")
    found[split] = {
      parts[1]
      for parts in listing.directories
      if len(parts) == 2 and parts[0] == split
    }
  if not any(parts[0] in found for parts in listing.images):
    raise ValueError(f"{path} holds no image: {_LAYOUT}")
  if found["train"] != found["test"]:
    lone = [
      f"only {split} has {', '.join(sorted(found[split] - found[other]))}"
      for split, other in (("train", "test"), ("test", "train"))
      if found[split] - found[other]
    ]
    raise ValueError(
      f"{path}: both splits must have the same classes, but {'; '.join(lone)}"
    )
  filled = {parts[:2] for parts in listing.images}
  for split, names in found.items():
    for name in sorted(names):
      if (split, name) not in filled:
        raise ValueError(
          f"class folder {_prefix(path)}{split}/{name} holds no image: fill "
          "it, or remove it from both splits"
        )
  return tuple(sorted(found["train"]))


def _prefix(path: pathlib.Path) -> str:
  """What comes before a file's place, in a folder or in an archive."""
  return f"{path}{'/' if path.is_dir() else ':'}"


def _decode(files: list[_File]) -> np.ndarray:
  """Decodes files to uint8 (n, h, w, 3), in their order."""
  tqdm = require("tqdm", "folder:").tqdm
  first = _read(files[0])
  images = np.empty((len(files), *first.shape), np.uint8)

  def decode(start: int) -> int:
    chunk = files[start : start + _CHUNK]
    for index, file in enumerate(chunk, start):
      image = _read(file)
      if image.shape != first.shape:
        raise ValueError(
          f"images must all have one size, but {file.name} is {_size(image)} "
          f"and {files[0].name} is {_size(first)} (width x height): resize "
          "them beforehand, nothing is resized here"
        )
      images[index] = image
    return len(chunk)

  many = len(files) >= _MANY_FILES
  if many:
    _log.info("decoding %d images", len(files))
  starts = range(0, len(files), _CHUNK)
  # disable=None leaves the bar out where there is no terminal.
  bar = tqdm(total=len(files), unit="image", disable=None if many else True)
  pool = concurrent.futures.ThreadPoolExecutor()
  try:
    small = first.shape[0] * first.shape[1] < _THREADED_PIXELS
    # Either map keeps the order: of several bad files the first is reported.
    for count in map(decode, starts) if small else pool.map(decode, starts):
      bar.update(count)
  finally:
    bar.close()
    pool.shutdown(cancel_futures=True)
  return images


def _size(image: np.ndarray) -> str:
  return f"{image.shape[1]}x{image.shape[0]}"


def _read(file: _File) -> np.ndarray:
  """Decodes one file to uint8 (h, w, 3)."""
  pillow = require("PIL.Image", "folder:")
  try:
    with pillow.open(io.BytesIO(file.read())) as image:
      mode = image.mode
      if mode == "P":
        image = image.convert("RGBA")  # a palette may have transparent entries
      pixels = np.asarray(image if mode == "RGB" else image.convert("RGB"))
  # Pillow's decoders raise what they please; all of it means a bad file.
  except Exception as error:
    raise ValueError(
      f"image {file.name} cannot be decoded ({type(error).__name__}: {error}): "
      "replace or remove it"
    ) from error
  if mode.startswith("I") or mode == "F":
    raise ValueError(
      f"image {file.name} has pixels of mode {mode!r}, more than 8 bits: "
      "convert it to 8 bits beforehand"
    )
  return pixels
