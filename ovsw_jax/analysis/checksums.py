"""Sizes and CRC-32s of a checkpoint's files, and their check."""

import json
import pathlib
import zlib
from typing import Any

MANIFEST = "manifest.json"  # holds those of all other files, and its own


def of_files(path: pathlib.Path) -> dict[str, list[int]]:
  """Size and CRC-32 of every file of a checkpoint, the manifest aside."""
  found = {}
  for file in sorted(path.rglob("*")):
    name = file.relative_to(path).as_posix()
    if file.is_file() and name != MANIFEST:
      crc32 = 0
      with file.open("rb") as stream:
        while chunk := stream.read(1 << 24):
          crc32 = zlib.crc32(chunk, crc32)
      found[name] = [file.stat().st_size, crc32]
  return found


def of_manifest(manifest: dict[str, Any]) -> int:
  """CRC-32 of a manifest that does not hold it yet."""
  return zlib.crc32(json.dumps(manifest).encode())


def check_files(path: pathlib.Path, expected: dict[str, list[int]]) -> None:
  """Raises ValueError for a file that is not of the expected size and CRC."""
  found = of_files(path)
  for name, (size, crc32) in expected.items():
    if name not in found:
      raise ValueError(f"its file {name} is missing")
    if found[name][0] != size:
      raise ValueError(
        f"its file {name} is not of {size} bytes but of {found[name][0]}"
      )
    if found[name][1] != crc32:
      raise ValueError(f"its file {name} has other bits than were written")
