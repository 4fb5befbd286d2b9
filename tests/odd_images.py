"""Image files of all sizes and modes, for the tests of streamed data."""

import io

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
KINDS = ("RGB", "L", "CMYK", "rotated", "broken exif", "PNG", "P", "RGBA")


def pixels(seed, height, width):
  """Smooth, so that JPEG keeps it."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
  image = Image.fromarray(coarse).resize((width, height), 2)
  return np.asarray(image)


def jpeg(image, **options):
  file = io.BytesIO()
  image.save(file, "JPEG", quality=95, **options)
  return file.getvalue()


def encoded(kind, image):
  """Bytes of a file of some kind that shows `image`, uint8 (h, w, 3)."""
  picture = Image.fromarray(image)
  if kind in ("L", "CMYK"):
    return jpeg(picture.convert(kind))
  if kind == "rotated":
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned clockwise to be upright
    return jpeg(picture.transpose(Image.Transpose.ROTATE_90), exif=exif)
  if kind == "broken exif":
    return jpeg(picture, exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
  if kind in ("PNG", "P", "RGBA"):
    file = io.BytesIO()
    mode = {"PNG": "RGB"}.get(kind, kind)
    picture.convert(mode).save(file, "PNG")
    return file.getvalue()
  return jpeg(picture)


def write(root, train=20, test=9, classes=("ant", "bee")):
  """A folder as ImageNet's: mixed sizes, all kinds, each named .JPEG."""
  rng = np.random.default_rng(0)
  number = 0
  for split, count in (("train", train), ("val", test)):
    for index in range(count):
      height, width = rng.integers(20, 60, 2)
      kind = KINDS[index % len(KINDS)]
      name = classes[index % len(classes)]
      path = root / split / name / f"{name}_{index}.JPEG"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(encoded(kind, pixels(number, height, width)))
      number += 1
  return root
