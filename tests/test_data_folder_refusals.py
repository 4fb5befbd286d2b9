"""Image folders and archives of them: what is refused."""

import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from ovsw_jax import data
from ovsw_jax.data import _files, folder
from tests.image_folders import SUFFIXES, encoded, layout, pixels, write


def refused(path, message, error=ValueError):
  """Loading fails with one error that says `message`; returns its text."""
  before = sorted(os.listdir(path.parent))
  with pytest.raises(error, match=message) as info:
    data.load(f"folder:{path}")
  assert sorted(os.listdir(path.parent)) == before
  return str(info.value)


def without(members, prefix):
  return {k: v for k, v in members.items() if not k.startswith(prefix)}


@pytest.mark.parametrize("name", ["missing", "missing.tar.xz"])
def test_a_missing_folder_is_named(tmp_path, name):
  text = refused(tmp_path / name, "no folder or archive", FileNotFoundError)
  assert str(tmp_path / name) in text and "train/<class>/*" in text


@pytest.mark.parametrize("kind", ["folder", *SUFFIXES])
def test_an_empty_folder_is_refused(tmp_path, kind):
  (tmp_path / "set").mkdir()
  refused(
    write(tmp_path, kind, {}), "no folder 'train': it must hold train/<cl"
  )


@pytest.mark.parametrize(
  "kind, prefix",
  [("folder", ""), (".tar", ""), (".tar", "wrapper/"), (".zip", "wrapper/")],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_named(tmp_path, kind, split, prefix):
  members = {prefix + k: v for k, v in without(layout(), f"{split}/").items()}
  refused(write(tmp_path, kind, members), f"no folder '{split}'")


def test_a_split_that_is_a_file_is_missing(tmp_path):
  members = without(layout(), "test/") | {"test": b"x"}
  refused(write(tmp_path, "folder", members), "no folder 'test'")


@pytest.mark.parametrize("kind", ["folder", ".tar.gz", ".zip"])
def test_no_image_at_all_is_refused(tmp_path, kind):
  members = {"train/cat/": b"", "test/cat/": b"", "train/cat/a.txt": b"x"}
  refused(write(tmp_path, kind, members), "holds no image: it must hold")


@pytest.mark.parametrize("kind", ["folder", ".tar.gz", ".zip"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_is_named(tmp_path, kind, split):
  members = without(layout(), f"{split}/cat/") | {f"{split}/cat/": b""}
  refused(
    write(tmp_path, kind, members), f"{split}/cat holds no image: fill it"
  )


@pytest.mark.parametrize("kind", ["folder", ".tar.gz", ".zip"])
def test_classes_that_differ_are_named(tmp_path, kind):
  members = layout(classes=("ant", "bee", "cat", "dog"))
  members = without(without(members, "train/bee"), "test/ant")
  members = without(members, "test/dog")
  text = refused(write(tmp_path, kind, members), "the same classes")
  assert "only train has ant, dog" in text
  assert "only test has bee" in text
  assert "cat" not in text.partition("but")[2]


@pytest.mark.parametrize("kind", ["folder", ".tar", ".zip"])
def test_an_image_outside_a_class_is_named(tmp_path, kind):
  members = layout() | {"train/stray.png": encoded(pixels(0))}
  refused(write(tmp_path, kind, members), "train/stray.png lies in no class")


@pytest.mark.parametrize("kind", ["folder", *SUFFIXES])
@pytest.mark.parametrize("threaded_pixels", [0, 10_000])
def test_the_first_image_of_another_size_is_named(
  tmp_path, monkeypatch, kind, threaded_pixels
):
  monkeypatch.setattr(folder, "_CHUNK", 1)
  monkeypatch.setattr(folder, "_THREADED_PIXELS", threaded_pixels)
  members = layout(train=9) | {
    "train/cat/2.png": encoded(pixels(0, height=5)),
    "train/cat/3.png": encoded(pixels(0, height=7)),
    "test/ant/0.png": encoded(pixels(0, height=8)),
  }
  text = refused(
    write(tmp_path, kind, members), "images must all have one size"
  )
  assert "train/cat/2.png is 6x5" in text
  assert "train/ant/0.png is 6x4" in text
  assert "resize" in text


@pytest.mark.parametrize("kind", ["folder", *SUFFIXES])
@pytest.mark.parametrize(
  "content", [b"", b"not an image", encoded(pixels(3))[:60]]
)
def test_a_corrupt_image_is_named(tmp_path, kind, content):
  members = layout() | {"test/cat/1.png": content}
  refused(
    write(tmp_path, kind, members),
    "image .*test/cat/1.png cannot be decoded .*replace or remove it",
  )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_damaged_image_is_one_clear_error_or_decodes(form):
  content = encoded(pixels(3, 16, 16), form)
  rng = np.random.default_rng(0)
  failures = 0
  for _ in range(150):
    damaged = bytearray(content[: rng.integers(len(content) + 1)])
    for place in rng.integers(0, max(1, len(damaged)), 3):
      damaged[place : place + 1] = rng.bytes(1)
    file = folder._File("here.png", lambda damaged=damaged: bytes(damaged), 0)
    try:
      image = folder._read(file)
      assert image.dtype == np.uint8 and image.shape[-1] == 3
    except ValueError as error:
      assert "here.png" in str(error)
      failures += 1
  assert failures > 50


def test_16_bit_pixels_are_refused(tmp_path):
  wide = Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6))
  members = layout() | {"train/ant/1.png": encoded(wide)}
  refused(
    write(tmp_path, "folder", members), "train/ant/1.png has .* than 8 bits"
  )


def test_another_suffix_is_refused(tmp_path):
  path = tmp_path / "set.rar"
  path.write_bytes(b"x")
  text = refused(path, "neither a folder nor an archive")
  assert ".tar, .tar.gz, .tar.xz, .zip" in text


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"x" * 2000])
def test_what_is_no_archive_is_refused(tmp_path, kind, content):
  path = tmp_path / f"set{kind}"
  path.write_bytes(content)
  refused(path, f"set{kind} is no readable archive .*create it again")


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path, kind):
  content = write(tmp_path, kind, layout()).read_bytes()
  path = tmp_path / f"short{kind}"
  # 512 is tar's block: an end between two members is the hard case.
  block = 512 if kind == ".tar" else 97
  end_marks = 2 * 512 + 10240 if kind == ".tar" else 0
  for length in range(0, len(content) - end_marks, block):
    path.write_bytes(content[:length])
    refused(path, "is no readable archive")


@pytest.mark.parametrize("kind", [".tar.gz", ".tar.xz"])
def test_one_changed_byte_of_a_compressed_archive_is_refused(tmp_path, kind):
  content = write(tmp_path, kind, layout()).read_bytes()
  path = tmp_path / f"damaged{kind}"
  # The first bytes of gzip hold a time and a name, which no checksum covers.
  for place in np.linspace(20, len(content) - 1, 60).astype(int):
    damaged = bytearray(content)
    damaged[place] ^= 0x10
    path.write_bytes(damaged)
    refused(path, "damaged")


@pytest.mark.parametrize("kind", [".tar", ".zip"])
@pytest.mark.parametrize(
  "name",
  [
    "../train/cat/9.png",
    "train/cat/../../../9.png",
    "/train/cat/9.png",
    "C:/train/cat/9.png",
    "..\\train\\cat\\9.png",
  ],
)
def test_members_outside_the_archive_are_refused(tmp_path, kind, name):
  members = layout() | {name: encoded(pixels(0))}
  text = refused(write(tmp_path, kind, members), "outside the archive")
  assert name.replace("\\", "\\\\") in text


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_refused(tmp_path, kind):
  path = write(tmp_path, ".tar", layout())
  with tarfile.open(path, "a") as archive:
    member = tarfile.TarInfo("train/cat/link.png")
    member.type, member.linkname = kind, "train/cat/0.png"
    archive.addfile(member)
  refused(path, "link.png' is a link .* --dereference")


def test_an_encrypted_zip_is_refused(tmp_path):
  path = write(tmp_path, ".zip", layout())
  content = bytearray(path.read_bytes())
  # Bit 0 of the flags in a local header and in the directory: "encrypted".
  content[6] |= 1
  content[content.index(b"PK\x01\x02") + 8] |= 1
  path.write_bytes(content)
  refused(path, "is no readable archive .*encrypted")


def test_suffixes_are_listed_once():
  assert list(_files.ARCHIVES) == SUFFIXES
