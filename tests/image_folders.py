"""Small image folders, and archives of them, for the tests of `data`."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

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
