"""What every source returns: uint8 images, labels, names and statistics."""

import dataclasses
import importlib
import math
from typing import Any, NamedTuple

import numpy as np


class Split(NamedTuple):
  """Labelled images of one size.

  Examples:
    >>> import numpy as np
    >>> from ovsw_jax import data
    >>> images = np.zeros((2, 8, 8, 1), np.uint8)
    >>> len(data.Split(images, np.array([0, 1], np.int32)).labels)
    2
  """

  images: np.ndarray  # uint8 (n, h, w, c)
  labels: np.ndarray  # int32 (n,)


# Identity, not equality of arrays, compares two data sets.
@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A data set in memory: two splits and what a model needs to know of them.

  Attributes:
    name: the name it was loaded by.
    train: the training split.
    test: the test split.
    classes: the class names; label `i` is `classes[i]`.
    mean: per channel, on the [0, 1] scale, for `normalize`.
    std: per channel, on the [0, 1] scale, for `normalize`.

  Raises:
    ValueError: an array has the wrong shape or dtype, the splits differ in
      image size, a label has no class, or `mean` or `std` does not fit the
      channels.

  Examples:
    >>> import numpy as np
    >>> from ovsw_jax import data
    >>> images = np.zeros((2, 8, 8, 1), np.uint8)
    >>> split = data.Split(images, np.array([0, 1], np.int32))
    >>> own = data.Dataset("own", split, split, ("no", "yes"), (0.5,), (0.2,))
    >>> own.counts, own.image_shape
    ((2, 2), (8, 8, 1))
  """

  name: str
  train: Split
  test: Split
  classes: tuple[str, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __post_init__(self):
    for split_name, (images, labels) in (
      ("train", self.train),
      ("test", self.test),
    ):
      where = f"data set {self.name!r}, split {split_name!r}"
      if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise ValueError(
          f"{where}: images must be uint8 (n, h, w, c) and not empty, got "
          f"{images.dtype} {images.shape}"
        )
      if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
        raise ValueError(
          f"{where}: labels must be int32 of shape {images.shape[:1]}, got "
          f"{labels.dtype} {labels.shape}"
        )
      low, high = labels.min(), labels.max()
      if low < 0 or high >= len(self.classes):
        raise ValueError(
          f"{where}: labels must be in 0 .. {len(self.classes) - 1}, one for "
          f"each class, got {low} .. {high}"
        )
    if self.train.images.shape[1:] != self.test.images.shape[1:]:
      raise ValueError(
        f"data set {self.name!r}: images of both splits must have one shape, "
        f"got {self.train.images.shape[1:]} and {self.test.images.shape[1:]}"
      )
    channels = self.train.images.shape[-1]
    for field in ("mean", "std"):
      if len(getattr(self, field)) != channels:
        raise ValueError(
          f"data set {self.name!r}: {field} must have {channels} values, one "
          f"for each channel, got {getattr(self, field)}"
        )

  @property
  def counts(self) -> tuple[int, int]:
    """How many training and test images there are."""
    return len(self.train.labels), len(self.test.labels)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of an image."""
    return self.train.images.shape[1:]


# The OvSW authors' constants, which they use for CIFAR-100 as well.
CIFAR_MEAN = (0.491, 0.482, 0.447)
CIFAR_STD = (0.247, 0.243, 0.262)

CIFAR10_CLASSES = (
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
)


def channel_statistics(
  images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and (population) deviation of each channel, on the [0, 1] scale.

  Exact: sums are integers, so neither order nor platform changes a bit. A
  channel that never varies gets deviation 1, to be divided by without harm.
  """
  mean, std = [], []
  for channel in range(images.shape[-1]):
    # bincount widens to 8 bytes a pixel, so count a thousand images at a time.
    histogram = np.zeros(256, np.int64)
    for start in range(0, len(images), 1000):
      part = images[start : start + 1000, ..., channel]
      histogram += np.bincount(part.ravel(), minlength=256)
    counts = histogram.tolist()
    n = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value**2 * count for value, count in enumerate(counts))
    mean.append(total / (255 * n))
    std.append(math.sqrt(n * squares - total**2) / (255 * n) or 1.0)
  return tuple(mean), tuple(std)


def require(module: str, source: str) -> Any:
  """Imports a module of the `train` extra, which `source` cannot do without."""
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(
      f"{source} needs {module.partition('.')[0]}, which did not import "
      f'({error}): pip install "ovsw_jax[train]"'
    ) from error
