"""Random and central crops of images of any size, as ImageNet is trained on."""

import math
from typing import Any, NamedTuple

import numpy as np

from ovsw_jax.data._dataset import require

_TRIES = 10
_RATIO = (3 / 4, 4 / 3)


class Box(NamedTuple):
  """A part of an image, in pixels.

  Examples:
    >>> from ovsw_jax import data
    >>> data.Box(top=0, left=4, height=8, width=8).left
    4
  """

  top: int
  left: int
  height: int
  width: int


def random_box(
  numbers: np.ndarray,
  height: int,
  width: int,
  scale: tuple[float, float],
  ratio: tuple[float, float] = _RATIO,
) -> Box:
  """The box of a random resized crop.

  Area is uniform over `scale`, as a share of the image's; the logarithm of
  width by height uniform over that of `ratio`. A box that does not lie within
  the image is drawn anew, up to ten times; after that it is the largest central
  one whose sides have a permitted ratio. Nothing is ever padded, so that a
  scale above 1, OvSW's (0.08, 1.25), changes but the distribution of areas.

  Args:
    numbers: float `(40,)`, uniform in [0, 1): four for each try.
    height: of the image.
    width: of the image.
    scale: bounds of the share of area.
    ratio: bounds of width by height.

  Returns:
    A box within the image.

  References:
    Szegedy et al., `Going Deeper with Convolutions
    <https://arxiv.org/abs/1409.4842>`_, CVPR 2015.

  Examples:
    >>> import numpy as np
    >>> random_box(np.full(40, 0.5), 100, 100, (0.25, 0.25))
    Box(top=25, left=25, height=50, width=50)
    >>> random_box(np.full(40, 0.5), 100, 200, (2.0, 2.0))  # ten rejections
    Box(top=0, left=33, height=100, width=133)
  """
  low, high = math.log(ratio[0]), math.log(ratio[1])
  for area, shape, down, right in np.reshape(numbers, (_TRIES, 4)).tolist():
    pixels = height * width * (scale[0] + area * (scale[1] - scale[0]))
    aspect = math.exp(low + shape * (high - low))
    w = round(math.sqrt(pixels * aspect))
    h = round(math.sqrt(pixels / aspect))
    if 0 < w <= width and 0 < h <= height:
      top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
      return Box(top, left, h, w)
  h, w = height, width
  if width / height < ratio[0]:
    h = min(height, round(width / ratio[0]))
  elif width / height > ratio[1]:
    w = min(width, round(height * ratio[1]))
  return Box((height - h) // 2, (width - w) // 2, h, w)


class RandomCrop(NamedTuple):
  """A random box, resized to a square; what training sees of an image.

  Attributes:
    size: side of the result.
    scale: as of `random_box`.

  Examples:
    >>> import numpy as np
    >>> from PIL import Image
    >>> from ovsw_jax import data
    >>> crop = data.RandomCrop(size=8, scale=(0.25, 1.0))
    >>> numbers = data.uniforms(0, 0, 0, crop.numbers)
    >>> crop(Image.new("RGB", (20, 30)), numbers).shape
    (8, 8, 3)
  """

  size: int
  scale: tuple[float, float]

  numbers = 4 * _TRIES  # that a call takes

  def __call__(self, image: Any, numbers: np.ndarray) -> np.ndarray:
    """uint8 `(size, size, 3)` of a `PIL.Image.Image` of mode RGB."""
    resampling = require("PIL.Image", "a crop").Resampling
    width, height = image.size
    box = random_box(numbers, height, width, self.scale)
    # The filter looks at nothing outside the box, as `resize(box=...)` would.
    part = image.crop(
      (box.left, box.top, box.left + box.width, box.top + box.height)
    )
    size = (self.size, self.size)
    return np.asarray(part.resize(size, resampling.BILINEAR))


class CentralCrop(NamedTuple):
  """The shorter side to `resize`, then the centre; what evaluation sees.

  Attributes:
    size: side of the result.
    resize: of the shorter side before, at least `size`.

  Examples:
    >>> import numpy as np
    >>> from PIL import Image
    >>> from ovsw_jax import data
    >>> crop = data.CentralCrop(size=8, resize=10)
    >>> numbers = data.uniforms(0, 0, 0, crop.numbers)
    >>> crop(Image.new("RGB", (20, 30)), numbers).shape
    (8, 8, 3)
  """

  size: int
  resize: int

  numbers = 0  # that a call takes

  def __call__(self, image: Any, numbers: np.ndarray) -> np.ndarray:
    """uint8 `(size, size, 3)` of a `PIL.Image.Image` of mode RGB."""
    del numbers
    resampling = require("PIL.Image", "a crop").Resampling
    width, height = image.size
    short = min(width, height)
    width, height = (side * self.resize // short for side in (width, height))
    left, top = (round((side - self.size) / 2) for side in (width, height))
    resized = image.resize((width, height), resampling.BILINEAR)
    box = (left, top, left + self.size, top + self.size)
    return np.asarray(resized.crop(box))
