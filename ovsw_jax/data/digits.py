"""Handwritten digits that come with scikit-learn: no download, no files."""

import numpy as np

from ovsw_jax.data._dataset import (
  Dataset,
  Split,
  channel_statistics,
  require,
)

_SPLIT_SEED = 0
_TEST_SIZE = 360


def load(side: int = 16) -> Dataset:
  """The UCI handwritten digits as square images of one channel.

  1797 images of 8x8 pixels and 17 grey levels, upsampled bilinearly and scaled
  to 0 .. 255. A fifth of each class, drawn once and for all, is for testing:
  1437 training and 360 test images.

  Args:
    side: of the images, a multiple of 8.

  Returns:
    The data set; images are uint8 `(n, side, side, 1)`.

  Raises:
    ValueError: `side` is no multiple of 8.
    ImportError: scikit-learn is not installed.
  """
  if side < 8 or side % 8:
    raise ValueError(f"side={side} of the digits must be a multiple of 8.")
  raw = require("sklearn.datasets", "digits").load_digits()
  images = _upsample(raw.images, side)
  labels = raw.target.astype(np.int32)
  test = _stratified(labels, _TEST_SIZE, _SPLIT_SEED)
  train = Split(images[~test], labels[~test])
  mean, std = channel_statistics(train.images)
  return Dataset(
    name="digits" if side == 16 else f"digits:{side}",
    train=train,
    test=Split(images[test], labels[test]),
    classes=tuple(str(name) for name in raw.target_names),
    mean=mean,
    std=std,
  )


def _upsample(images: np.ndarray, side: int) -> np.ndarray:
  """(n, 8, 8) of 0 .. 16 to uint8 (n, side, side, 1), bilinear, clamped."""
  size = images.shape[-1]
  # Output pixel j sits at (j + 1/2) / factor - 1/2 on the input's grid.
  place = (np.arange(side) + 0.5) / (side // size) - 0.5
  place = np.clip(place, 0, size - 1)
  weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size)))
  # At 16 all weights are quarters: float64 is exact, on every platform.
  large = np.einsum("ip,npq,jq->nij", weights, images, weights)
  return np.rint(large * 255 / 16).astype(np.uint8)[..., None]


def _stratified(labels: np.ndarray, test_size: int, seed: int) -> np.ndarray:
  """Bool (n,), True for `test_size` examples spread evenly over the classes."""
  counts = np.bincount(labels)
  share, rest = np.divmod(counts * test_size, len(labels))
  largest_rest = np.argsort(-rest, kind="stable")
  share[largest_rest[: test_size - share.sum()]] += 1
  # Raw output of a bit generator is the one stream NumPy never changes.
  lot = np.random.PCG64(seed).random_raw(len(labels))
  test = np.zeros(len(labels), bool)
  for label, take in enumerate(share):
    members = np.flatnonzero(labels == label)
    test[members[np.argsort(lot[members], kind="stable")[:take]]] = True
  return test
