"""Lists the image files of a folder or of an archive, without unpacking it."""

import os
import pathlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

ARCHIVES = (".tar", ".tar.gz", ".tar.xz", ".zip")
IMAGES = (
  ".bmp",
  ".gif",
  ".jpeg",
  ".jpg",
  ".pgm",
  ".png",
  ".ppm",
  ".tif",
  ".tiff",
  ".webp",
)


class Listing(NamedTuple):
  """Paths relative to the folder that holds the splits, as tuples of names."""

  directories: set[tuple[str, ...]]
  images: dict[tuple[str, ...], Callable[[], bytes]]


def list_folder(path: pathlib.Path) -> Listing:
  """Lists a folder's sub-folders and, below them, every image."""
  directories: set[tuple[str, ...]] = set()
  images: dict[tuple[str, ...], Callable[[], bytes]] = {}
  for split in ("train", "test"):
    if not (path / split).is_dir():
      continue
    for place, _, files in walk(path / split):
      parts = pathlib.Path(place).relative_to(path).parts
      directories.add(parts)
      for name in files:
        if is_image(name):
          images[*parts, name] = pathlib.Path(place, name).read_bytes
  return Listing(directories, images)


def walk(folder: pathlib.Path) -> Iterator[tuple[str, list[str], list[str]]]:
  """`os.walk` through links, but for hidden folders and those that lead back.

  Raises:
    OSError: a folder cannot be read.
  """
  for place, folders, files in os.walk(
    folder, onerror=_raise, followlinks=True
  ):
    folders[:] = [
      name
      for name in folders
      if not _hidden(name) and not _leads_back(pathlib.Path(place, name))
    ]
    yield place, folders, files


def list_archive(path: pathlib.Path) -> Listing:
  """Lists an archive; image files are read, still encoded, in one pass.

  Raises:
    ValueError: not an archive, damaged, or with members that links or unsafe
      names make ambiguous.
  """
  directories: set[tuple[str, ...]] = set()
  images: dict[tuple[str, ...], Callable[[], bytes]] = {}
  members = _zip_members if path.suffix.lower() == ".zip" else _tar_members
  try:
    for name, content in members(path):
      parts = _safe_parts(path, name)
      if any(_hidden(part) for part in parts):
        continue
      if content is None:
        directories.add(parts)
      elif is_image(parts[-1]):
        data = content()
        images[parts] = lambda data=data: data
  except _Refused as error:
    raise ValueError(str(error)) from None
  # Each of gzip, lzma, tarfile and zipfile has its own ways to fail.
  except Exception as error:
    raise ValueError(
      f"{path} is no readable archive ({type(error).__name__}: {error}): copy "
      "or create it again"
    ) from error
  # Archives need not list directories; what lies in them names them.
  for parts in [*directories, *images]:
    directories.update(parts[:end] for end in range(1, len(parts)))
  return _without_wrapper(Listing(directories, images))


class _Refused(Exception):
  """A member that cannot be read as what it claims to be."""


def _tar_members(
  path: pathlib.Path,
) -> Iterator[tuple[str, Callable[[], bytes] | None]]:
  """Yields (name, content), where a directory's content is None."""
  compression = path.suffix.lower()[1:]
  if compression == "tar":
    # tarfile takes the lack of an end mark for the end; compressed streams have
    # an end mark of their own, whose lack is an error.
    with path.open("rb") as file:
      file.seek(max(0, path.stat().st_size - tarfile.BLOCKSIZE))
      if file.read() != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("its end is missing")
  with tarfile.open(
    path, f"r:{'' if compression == 'tar' else compression}"
  ) as archive:
    for member in archive:
      if member.isdir():
        yield member.name, None
      elif member.isreg():
        file = archive.extractfile(member)
        assert file is not None
        yield member.name, file.read
      elif not any(_hidden(part) for part in member.name.split("/")):
        raise _Refused(
          f"{path}: member {member.name!r} is a link or a device, not a file: "
          "create the archive again with tar --dereference --hard-dereference"
        )
    # The checksum of a compressed stream is at its end.
    while archive.fileobj is not None and archive.fileobj.read(2**20):
      continue


def _zip_members(
  path: pathlib.Path,
) -> Iterator[tuple[str, Callable[[], bytes] | None]]:
  """Yields (name, content), where a directory's content is None."""
  with zipfile.ZipFile(path) as archive:
    for member in archive.infolist():
      read = lambda member=member: archive.read(member)
      yield member.filename, None if member.is_dir() else read


def _safe_parts(path: pathlib.Path, name: str) -> tuple[str, ...]:
  """Splits a member's name; refuses one that leads out of the archive."""
  if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
    unsafe = True
  else:
    unsafe = ".." in re.split(r"[/\\]", name)
  if unsafe:
    raise _Refused(
      f"{path}: member {name!r} names a place outside the archive: create the "
      "archive again from the folder that holds train and test"
    )
  return tuple(part for part in name.split("/") if part not in ("", "."))


def _without_wrapper(listing: Listing) -> Listing:
  """Steps into the one top directory with splits, if the top has none."""
  splits = {"train", "test"}
  tops = {d[0] for d in listing.directories if len(d) > 1 and d[1] in splits}
  if len(tops) != 1 or any((split,) in listing.directories for split in splits):
    return listing
  (top,) = tops
  return Listing(
    {parts[1:] for parts in listing.directories if parts[:1] == (top,)},
    {
      parts[1:]: read
      for parts, read in listing.images.items()
      if parts[0] == top and len(parts) > 1
    },
  )


def _leads_back(folder: pathlib.Path) -> bool:
  """Whether a folder is a link to one of the folders it lies in."""
  return folder.parent.resolve().is_relative_to(folder.resolve())


def _raise(error: OSError) -> None:
  raise error


def _hidden(name: str) -> bool:
  return name == "__MACOSX" or (
    name.startswith(".") and name not in (".", "..")
  )


def is_image(name: str) -> bool:
  """Whether a file is one by its name, and not hidden."""
  return not _hidden(name) and name.lower().endswith(IMAGES)
