"""An encoded image and its decoding to RGB, whatever kind of file it is."""

import io
from typing import Any, NamedTuple, Protocol

from ovsw_jax.data._dataset import require

_ORIENTATION = 0x0112  # the EXIF tag
# What makes an image upright, by the value of the tag: names of
# `PIL.Image.Transpose`.
_UPRIGHT = {
  2: "FLIP_LEFT_RIGHT",
  3: "ROTATE_180",
  4: "FLIP_TOP_BOTTOM",
  5: "TRANSPOSE",
  6: "ROTATE_270",
  7: "TRANSVERSE",
  8: "ROTATE_90",
}


class Encoded(NamedTuple):
  """An image file as it is stored.

  Examples:
    >>> from ovsw_jax import data
    >>> data.Encoded("cat.png", content=b"...", label=3).label
    3
  """

  name: str  # what an error calls it
  content: bytes
  label: int


class Examples(Protocol):
  """Encoded images that are read one by one, in any order.

  Worker processes get a pickled copy.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> Encoded: ...


def rgb(encoded: Encoded) -> Any:
  """Decodes to a `PIL.Image.Image` of mode RGB, upright.

  Grey levels are repeated, CMYK is converted, a palette is looked up, an alpha
  channel is dropped, and the camera's orientation in EXIF is applied.

  Raises:
    ValueError: the file is damaged, cut off, or has more than 8 bits a pixel;
      the message has its name.
    ImportError: Pillow is not installed.

  Examples:
    >>> import io
    >>> from PIL import Image
    >>> from ovsw_jax import data
    >>> file = io.BytesIO()
    >>> Image.new("L", (4, 2), 9).save(file, "PNG")
    >>> image = data.rgb(data.Encoded("grey.png", file.getvalue(), label=0))
    >>> image.size, image.getpixel((0, 0))
    ((4, 2), (9, 9, 9))
  """
  pillow = require("PIL.Image", "an image")
  try:
    image = pillow.open(io.BytesIO(encoded.content))
    image.load()
    mode, orientation = image.mode, _orientation(image)
    if mode == "P":
      image = image.convert("RGBA")  # a palette may have transparent entries
    if image.mode != "RGB":
      image = image.convert("RGB")
  # Pillow's decoders raise what they please; all of it means a bad file.
  except Exception as error:
    raise ValueError(
      f"image {encoded.name} cannot be decoded ({type(error).__name__}: "
      f"{error}): replace or remove it"
    ) from error
  if mode.startswith("I") or mode == "F":
    raise ValueError(
      f"image {encoded.name} has pixels of mode {mode!r}, more than 8 bits: "
      "convert it to 8 bits beforehand"
    )
  if orientation in _UPRIGHT:
    image = image.transpose(pillow.Transpose[_UPRIGHT[orientation]])
  return image


def _orientation(image: Any) -> int | None:
  try:
    return image.getexif().get(_ORIENTATION)
  # ImageNet has sound images with broken EXIF, for which Pillow has many
  # exceptions; what they say of the camera is not known then.
  except Exception:
    return None
