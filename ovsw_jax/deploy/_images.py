"""Image files, as a network takes them."""

import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np

_MODES = {1: "L", 3: "RGB"}


def read(
  paths: Sequence[str | os.PathLike],
  image_shape: tuple[int, int, int],
  resize: int | None = None,
) -> np.ndarray:
  """Reads images, scales them to cover the shape, and cuts out the centre.

  Args:
    paths: image files, of any format that Pillow reads.
    image_shape: (height, width, channels), of one channel or three.
    resize: to what the shorter side is scaled; None to what just covers.

  Returns:
    uint8 (len(paths), height, width, channels).

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: Pillow is not installed.
    ValueError: a file is no image, or the network takes no pictures.
  """
  try:
    from PIL import Image, ImageOps
  except ImportError as error:
    raise ImportError(
      f'image files need Pillow ({error}): pip install "ovsw_jax[deploy]"'
    ) from error
  height, width, channels = image_shape
  if channels not in _MODES:
    raise ValueError(
      f"the network takes images of {channels} channels, which files have not; "
      "pass an array."
    )
  if not paths:
    raise ValueError("there are no images to predict; name at least one.")
  found = []
  for path in map(pathlib.Path, paths):
    if not path.is_file():
      raise FileNotFoundError(f"there is no image {path}")
    try:
      with warnings.catch_warnings():
        # An image of absurd size is an error, not a warning.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
          image = ImageOps.exif_transpose(image).convert(_MODES[channels])
    except (
      Image.DecompressionBombError,
      Image.DecompressionBombWarning,
      OSError,
      SyntaxError,  # Pillow's, for damaged PNG files
      ValueError,
    ) as error:
      raise ValueError(f"{path} is not an image: {error}") from error
    scale = max(height / image.height, width / image.width)
    if resize is not None and image.size != (width, height):
      scale = resize / min(image.size)
    if scale != 1:
      size = [max(round(side * scale), 1) for side in image.size]
      size = [
        max(have, need)
        for have, need in zip(size, (width, height), strict=True)
      ]
      image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    found.append(np.asarray(image, np.uint8).reshape(image_shape))
  return np.stack(found)
