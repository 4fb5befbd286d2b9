"""Image folders and archives of them: what is read."""

import io
import logging
import os

import numpy as np
import pytest
from PIL import Image

from ovsw_jax import data
from ovsw_jax.data import folder
from ovsw_jax.data._dataset import CIFAR10_CLASSES
from tests.image_folders import (
  SUFFIXES,
  assert_same,
  encoded,
  layout,
  pixels,
  write,
  write_folder,
)


def test_folder_gives_sorted_classes_and_files(tmp_path):
  members = layout()
  loaded = data.load(f"folder:{write(tmp_path, 'folder', members)}")
  assert loaded.name == f"folder:{tmp_path / 'set'}"
  assert loaded.classes == ("ant", "cat")
  assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
  assert loaded.test.labels.tolist() == [0, 0, 1, 1]
  expected = [
    np.asarray(Image.open(io.BytesIO(members[name])))
    for name in sorted(members)
  ]
  np.testing.assert_array_equal(loaded.test.images, expected[:4])
  np.testing.assert_array_equal(loaded.train.images, expected[4:])


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("prefix", ["", "./", "wrapper/", "./deep-name.v2/"])
def test_archive_reads_as_its_folder(tmp_path, kind, prefix):
  members = layout()
  plain = data.load(f"folder:{write(tmp_path, 'folder', members)}")
  before = set(os.listdir(tmp_path))
  wrapped = {prefix + name: content for name, content in members.items()}
  if prefix == "wrapper/":
    wrapped |= {"README.md": b"top", "docs/": b"", "logo.png": b"no image"}
  path = write(tmp_path, kind, wrapped)
  assert_same(data.load(f"folder:{path}"), plain)
  assert set(os.listdir(tmp_path)) == before | {path.name}


@pytest.mark.parametrize("kind", ["folder", ".tar", ".zip"])
def test_what_is_no_image_is_passed_over(tmp_path, kind):
  members = layout()
  plain = data.load(f"folder:{write_folder(tmp_path / 'plain', members)}")
  clutter = {
    "train/cat/Thumbs.db": b"x",
    "train/cat/notes.txt": b"x",
    "train/cat/._0.png": b"x",
    "train/.DS_Store": b"x",
    "train/.cache/0.png": b"x",
    "train/__MACOSX/0.png": b"x",
    "__MACOSX/train/cat/0.png": b"x",
    ".git/train/cat/0.png": b"x",
    "val/cat/0.png": b"x",
    "top.png": b"x",
  }
  path = write(tmp_path, kind, members | clutter)
  assert_same(data.load(f"folder:{path}"), plain)


@pytest.mark.parametrize("kind", ["folder", ".tar.gz"])
def test_images_may_lie_deeper_in_a_class(tmp_path, kind):
  members = layout()
  plain = data.load(f"folder:{write_folder(tmp_path / 'plain', members)}")
  deep = {
    "/".join([*name.split("/")[:2], "images", name.split("/")[2]]): content
    for name, content in members.items()
  }
  assert_same(data.load(f"folder:{write(tmp_path, kind, deep)}"), plain)


def test_a_link_to_a_folder_above_does_not_repeat_images(tmp_path):
  members = layout()
  path = write(tmp_path, "folder", members)
  plain = data.load(f"folder:{path}")
  (path / "train" / "cat" / "again").symlink_to(path)
  assert_same(data.load(f"folder:{path}"), plain)


def test_a_class_may_be_a_link(tmp_path):
  path = write(tmp_path, "folder", layout())
  plain = data.load(f"folder:{path}")
  (path / "train" / "cat").rename(tmp_path / "elsewhere")
  (path / "train" / "cat").symlink_to(tmp_path / "elsewhere")
  assert_same(data.load(f"folder:{path}"), plain)


def test_a_relative_path_starts_at_data_dir(tmp_path, monkeypatch):
  path = write(tmp_path, "folder", layout())
  loaded = data.load("folder:set", data_dir=tmp_path)
  assert_same(loaded, data.load(f"folder:{path}", data_dir="/nowhere"))
  monkeypatch.chdir(tmp_path)
  assert_same(loaded, data.load("folder:set"))
  monkeypatch.setenv("HOME", str(tmp_path))
  assert_same(loaded, data.load("folder:~/set"))


GREY = Image.fromarray(pixels(1)[..., 0])
COLOUR = Image.fromarray(pixels(1))
PALETTE = COLOUR.quantize(16)
ALPHA = Image.fromarray(
  np.concatenate([pixels(1), pixels(2)[..., :1]], axis=-1)
)


def transparent_palette():
  return encoded(PALETTE, transparency=bytes(range(16)))


@pytest.mark.parametrize(
  "content, suffix, expected",
  [
    (encoded(COLOUR), "png", np.asarray(COLOUR)),
    (encoded(COLOUR, "BMP"), "BMP", np.asarray(COLOUR)),
    (encoded(COLOUR, "TIFF"), "tiff", np.asarray(COLOUR)),
    (encoded(COLOUR, "WEBP", lossless=True), "webp", np.asarray(COLOUR)),
    (encoded(COLOUR, "PPM"), "ppm", np.asarray(COLOUR)),
    (encoded(GREY), "png", np.stack([np.asarray(GREY)] * 3, -1)),
    (encoded(PALETTE), "png", np.asarray(PALETTE.convert("RGB"))),
    (encoded(PALETTE, "GIF"), "gif", np.asarray(PALETTE.convert("RGB"))),
    (transparent_palette(), "png", np.asarray(PALETTE.convert("RGB"))),
    (encoded(ALPHA), "png", np.asarray(ALPHA)[..., :3]),
    (
      encoded(COLOUR.convert("CMYK"), "TIFF"),
      "tif",
      np.asarray(COLOUR.convert("CMYK").convert("RGB")),
    ),
    (
      encoded(COLOUR.convert("1")),
      "png",
      np.asarray(COLOUR.convert("1").convert("RGB")),
    ),
  ],
)
def test_every_mode_becomes_rgb(tmp_path, content, suffix, expected):
  members = layout() | {f"test/ant/a.{suffix}": content}
  loaded = data.load(f"folder:{write(tmp_path, 'folder', members)}")
  # "a" sorts after the digits: the last of class 0.
  np.testing.assert_array_equal(loaded.test.images[2], expected)


def test_statistics_are_the_training_splits(tmp_path):
  loaded = data.load(f"folder:{write(tmp_path, 'folder', layout())}")
  scaled = loaded.train.images / 255
  np.testing.assert_allclose(loaded.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(loaded.std, scaled.std((0, 1, 2)), rtol=1e-12)


def test_cifar10_classes_get_the_reference_statistics(tmp_path):
  members = layout(classes=CIFAR10_CLASSES)
  loaded = data.load(f"folder:{write(tmp_path, 'folder', members)}")
  assert loaded.classes == CIFAR10_CLASSES
  assert loaded.mean == (0.491, 0.482, 0.447)
  assert loaded.std == (0.247, 0.243, 0.262)


@pytest.mark.parametrize("threaded_pixels", [0, 10_000])
def test_many_files_keep_their_order(tmp_path, monkeypatch, threaded_pixels):
  monkeypatch.setattr(folder, "_CHUNK", 2)
  monkeypatch.setattr(folder, "_THREADED_PIXELS", threaded_pixels)
  members = layout(train=20)
  loaded = data.load(f"folder:{write(tmp_path, 'folder', members)}")
  names = sorted(name for name in members if name.startswith("train"))
  expected = [np.asarray(Image.open(io.BytesIO(members[n]))) for n in names]
  np.testing.assert_array_equal(loaded.train.images, expected)


def test_many_files_are_announced(tmp_path, monkeypatch, caplog, capsys):
  monkeypatch.setattr(folder, "_MANY_FILES", 10)
  path = write(tmp_path, "folder", layout())
  with caplog.at_level(logging.INFO, logger="ovsw_jax"):
    data.load(f"folder:{path}")
  assert "decoding 10 images" in caplog.text
  assert "%" not in capsys.readouterr().err  # a bar is for terminals only
