"""An image-folder archive of random images in CIFAR-10's shape.

For timing the whole of a run where the real images are not at hand: reading,
decoding, augmentation and evaluation cost what they cost with CIFAR-10, but for
the decoder, as the images are bitmaps.
"""

import io
import pathlib
import tarfile

import numpy as np
from PIL import Image

CLASSES = 10


def write(
  path: pathlib.Path, train: int = 50_000, test: int = 10_000, side: int = 32
) -> None:
  """Writes a tar of `train/<class>/*.bmp` and `test/<class>/*.bmp`.

  Args:
    path: the file to write; its name should end in `.tar`.
    train: number of training images.
    test: number of test images.
    side: height and width of an image.
  """
  noise = np.random.default_rng(0)
  with tarfile.open(path, "w") as archive:
    for split, count in (("train", train), ("test", test)):
      for index in range(count):
        pixels = noise.integers(0, 256, (side, side, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "BMP")
        member = tarfile.TarInfo(f"{split}/{index % CLASSES}/{index:05}.bmp")
        member.size = file.tell()
        file.seek(0)
        archive.addfile(member, file)
