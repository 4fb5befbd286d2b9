"""Image folders and archives of them."""

import io
import logging
import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from ovsw_jax import data
from ovsw_jax.data import _files, folder
from ovsw_jax.data._dataset import CIFAR10_CLASSES

SUFFIXES = [".tar", ".tar.gz", ".tar.xz", ".zip"]


def pixels(seed, height=4, width=6):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, form="PNG", **options):
  file = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(file, form, **options)
  return file.getvalue()


def layout(classes=("cat", "ant"), train=3, test=2):
  """Members of a small data set: {path: bytes}."""
  members = {}
  for split, count in (("train", train), ("test", test)):
    for name in classes:
      for index in range(count):
        path = f"{split}/{name}/{index}.png"
        members[path] = encoded(pixels(len(members)))
  return members


def write_folder(root, members):
  """Writes members; a path that ends in / makes a directory."""
  for path, content in members.items():
    target = root / path
    if path.endswith("/"):
      target.mkdir(parents=True, exist_ok=True)
    else:
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_bytes(content)
  return root


def write_archive(path, members):
  if path.suffix == ".zip":
    with zipfile.ZipFile(path, "w") as archive:
      for name, content in members.items():
        archive.writestr(name, content)
    return path
  compression = path.suffix[1:].replace("tar", "")
  with tarfile.open(path, f"w:{compression}") as archive:
    for name, content in members.items():
      member = tarfile.TarInfo(name.rstrip("/"))
      if name.endswith("/"):
        member.type = tarfile.DIRTYPE
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  return path


def write(root, kind, members):
  """The same members as a folder or as an archive of some kind."""
  if kind == "folder":
    return write_folder(root / "set", members)
  return write_archive(root / f"set{kind}", members)


def assert_same(one, other):
  assert one.classes == other.classes
  assert (one.mean, one.std) == (other.mean, other.std)
  for split in ("train", "test"):
    for mine, theirs in zip(
      getattr(one, split), getattr(other, split), strict=True
    ):
      assert mine.dtype == theirs.dtype
      np.testing.assert_array_equal(mine, theirs)


# --- what is read


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


# --- what is refused


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
