"""Decoding of every kind of file, crops, and lighting."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from ovsw_jax import data
from tests import odd_images

# Pillow's word on the image with broken EXIF, which is read all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")

SHAPES = [(100, 100), (40, 300), (300, 40), (1, 1), (1, 9), (375, 500)]


def decoded(content):
  return np.asarray(data.rgb(data.Encoded("some.jpg", content, 0)))


@pytest.mark.parametrize("kind", odd_images.KINDS)
def test_every_kind_of_file_is_rgb_and_upright(kind):
  image = odd_images.pixels(0, 30, 44)
  read = decoded(odd_images.encoded(kind, image))
  assert read.shape == image.shape and read.dtype == np.uint8
  wanted = image.astype(int)
  if kind == "L":
    grey = np.asarray(Image.fromarray(image).convert("L"), int)
    wanted = np.repeat(grey[..., None], 3, axis=-1)
  # JPEG halves the resolution of color; a palette of Pillow's has steps of 51.
  assert np.abs(read - wanted).mean() <= (30 if kind == "P" else 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_those_of_pillow(orientation):
  exif = Image.Exif()
  exif[odd_images.ORIENTATION] = orientation
  picture = Image.fromarray(odd_images.pixels(1, 24, 40))
  content = odd_images.jpeg(picture, exif=exif)
  wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
  np.testing.assert_array_equal(decoded(content), np.asarray(wanted))


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"no image at all",
    odd_images.encoded("RGB", odd_images.pixels(0, 64, 64))[:-400],
    odd_images.encoded("PNG", odd_images.pixels(0, 64, 64))[:-400],
  ],
)
def test_a_damaged_file_is_an_error_with_its_name(content):
  with pytest.raises(ValueError, match=r"image some.jpg cannot be decoded"):
    decoded(content)


def test_more_than_eight_bits_are_refused():
  file = io.BytesIO()
  Image.fromarray(np.zeros((4, 4), np.uint16)).save(file, "PNG")
  with pytest.raises(ValueError, match=r"some.jpg .* more than 8 bits"):
    decoded(file.getvalue())


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.08, 1.25), (1.5, 2.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_lie_within_the_image_and_within_bounds(shape, scale):
  height, width = shape
  central = data.random_box(np.full(40, 0.5), height, width, (9.0, 9.0))
  for seed in range(200):
    numbers = np.random.default_rng(seed).random(40)
    box = data.random_box(numbers, height, width, scale)
    assert box.height >= 1 and box.width >= 1
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width
    if box == central:
      continue
    # Each side is rounded to a whole pixel.
    low = (box.height - 0.5) * (box.width - 0.5)
    high = (box.height + 0.5) * (box.width + 0.5)
    assert low <= scale[1] * height * width and high >= 0.08 * height * width
    assert (box.width - 0.5) / (box.height + 0.5) <= 4 / 3
    assert (box.width + 0.5) / (box.height - 0.5) >= 3 / 4


def test_a_box_that_does_not_fit_is_drawn_anew():
  """The first try is too large, the second is taken."""
  numbers = np.full((10, 4), 0.5)
  numbers[0, 0], numbers[1, 0], numbers[2, 0] = 1.0, 0.0, 0.9
  box = data.random_box(numbers.ravel(), 100, 100, (0.16, 1.25))
  assert (box.height, box.width) == (40, 40)
  assert (box.top, box.left) == (30, 30)


@pytest.mark.parametrize(
  ("shape", "box"),
  [
    ((90, 90), (0, 0, 90, 90)),
    ((90, 300), (0, 90, 90, 120)),
    ((300, 90), (90, 0, 120, 90)),
  ],
)
def test_ten_rejections_end_in_the_largest_central_box(shape, box):
  assert data.random_box(np.full(40, 0.5), *shape, (2.0, 2.0)) == box


def test_scales_above_one_hardly_change_the_mean_area():
  """0.431 and 0.432 on images of ImageNet's most frequent shape."""

  def mean_area(high):
    numbers = np.random.default_rng(0).random((20_000, 40))
    boxes = [data.random_box(n, 375, 500, (0.08, high)) for n in numbers]
    return np.mean([b.height * b.width for b in boxes]) / (375 * 500)

  usual, authors = mean_area(1.0), mean_area(1.25)
  assert 0.4 < usual < 0.56
  assert abs(usual - authors) < 0.1


def test_a_crop_is_its_box_resized():
  image = Image.fromarray(odd_images.pixels(2, 50, 70))
  numbers = np.random.default_rng(1).random(40)
  box = data.random_box(numbers, 50, 70, (0.08, 1.25))
  part = np.asarray(image)[
    box.top : box.top + box.height, box.left : box.left + box.width
  ]
  np.testing.assert_array_equal(
    data.RandomCrop(16, (0.08, 1.25))(image, numbers),
    np.asarray(Image.fromarray(part).resize((16, 16), 2)),
  )


@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (20, 20), (3, 11)])
def test_the_central_crop_is_in_the_middle(shape):
  height, width = shape
  ramp = np.zeros((height, width, 3), np.uint8)
  ramp[..., 0] = np.linspace(0, 255, width)[None]
  ramp[..., 1] = np.linspace(0, 255, height)[:, None]
  crop = data.CentralCrop(16, 20)(Image.fromarray(ramp), np.empty(0))
  assert crop.shape == (16, 16, 3)
  np.testing.assert_allclose(crop[..., :2].mean((0, 1)), 127.5, atol=6)


def shifts(variant, n=4000, level=100):
  images = jnp.full((n, 2, 2, 3), level, jnp.uint8)
  lit = np.asarray(data.lighting(images, jax.random.key(0), variant))
  assert lit.dtype == np.float32
  assert (lit == lit[:, :1, :1]).all()  # one shift for all of an image's pixels
  return (lit[:, 0, 0] - level) / 255


@pytest.mark.parametrize(
  ("variant", "deviation", "direction"),
  [
    ("alexnet", (0.0126, 0.0126, 0.0126), (0.57, 0.58, 0.58)),
    ("ovsw", (0.0089, 0.0156, 0.0124), (0.40, 0.72, -0.57)),
  ],
)
def test_lighting_has_the_known_deviations(variant, deviation, direction):
  shift = shifts(variant)
  np.testing.assert_allclose(shift.std(0), deviation, rtol=0.05)
  values, vectors = np.linalg.eigh(np.cov(shift.T))
  assert math.isclose(values[-1] ** 0.5, 0.02175, rel_tol=0.05)
  assert abs(vectors[:, -1] @ np.array(direction)) > 0.995


def test_lighting_on_bytes_takes_a_level_or_nothing():
  levels = shifts("uint8") * 255
  assert set(np.unique(levels.round(3))) == {-1.0, 0.0}
  assert 0.4 < (levels < 0).mean() < 0.6
  assert (shifts("uint8", level=0) == 0).all()


def test_lighting_refuses_what_it_does_not_know():
  images = jnp.zeros((1, 2, 2, 3), jnp.uint8)
  with pytest.raises(ValueError, match=r"'x': choose one of alexnet, ovsw"):
    data.lighting(images, jax.random.key(0), "x")
  with pytest.raises(ValueError, match=r"\(n, h, w, 3\), got shape"):
    data.lighting(images[..., :1], jax.random.key(0), "ovsw")
