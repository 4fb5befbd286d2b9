"""A benchmark's report: JSON with its circumstances, and a Markdown table."""

import argparse
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import machine


def make(
  benchmark: str,
  settings: argparse.Namespace,
  rows: list[dict[str, Any]],
  device: str,
) -> dict[str, Any]:
  """Rows with the circumstances that they were measured in."""
  return {
    "benchmark": benchmark,
    "device": device,
    **machine.describe(),
    "settings": {
      name: str(value) if isinstance(value, pathlib.PurePath) else value
      for name, value in vars(settings).items()
    },
    "rows": rows,
  }


def show(
  content: dict[str, Any], table: Callable[[dict[str, Any]], str]
) -> None:
  """Prints a report's table and circumstances, and writes the report."""
  print(table(content), circumstances(content), sep="\n\n")
  write(pathlib.Path(content["settings"]["out"]), content)


def write(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes a JSON file, whole or not at all, and says where it is."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + ".writing")
  temporary.write_text(json.dumps(content, indent=1) + "\n")
  os.replace(temporary, path)
  print(f"written to {path}", file=sys.stderr)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table whose columns are aligned; all but the first right.

  Examples:
    >>> print(markdown(["net", "ms"], [["resnet", "1.5"], ["vgg", "12"]]))
    | net    |  ms |
    |--------|----:|
    | resnet | 1.5 |
    | vgg    |  12 |
  """
  widths = [
    max(len(line[column]) for line in [header, *rows])
    for column in range(len(header))
  ]

  def line(cells: Sequence[str]) -> str:
    padded = [
      cell.rjust(width) if column else cell.ljust(width)
      for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"

  rule = "|".join(
    "-" * (width + 1) + (":" if column else "-")
    for column, width in enumerate(widths)
  )
  return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def circumstances(content: dict[str, Any]) -> str:
  """One sentence under a table: where and how it was measured."""
  versions = content["versions"]
  packages = ", ".join(
    f"{name} {versions[name]}"
    for name in ("jax", "torch", "python")
    if name in versions
  )
  device = content["device"]
  place = f"{content['processor']}, {content['cores']} cores"
  if not device.startswith("cpu"):
    place = f"{device}; {place}"
  flags = content.get("xla_flags")
  return (
    f"{place}; {packages}; {f'XLA_FLAGS={flags}; ' if flags else ''}"
    f"{content['date'][:10]}, commit {content['commit'] or 'unknown'}."
  )


def times(value: dict[str, float], digits: int = 2) -> str:
  """A ratio with the 95 % interval of its median: `0.85 (0.84-0.87)`."""
  return (
    f"{value['median']:.{digits}f} "
    f"({value['low']:.{digits}f}-{value['high']:.{digits}f})"
  )


def milliseconds(value: dict[str, float]) -> str:
  """A time given in seconds, in milliseconds of three digits or more."""
  ms = value["median"] * 1e3
  return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


class Progress:
  """Says what is going on: on a terminal at once, elsewhere now and then."""

  def __init__(self, prefix: str = "", every: float = 10.0):
    self._prefix, self._every = prefix, every
    self._printed = -every

  def __call__(self, text: str) -> None:
    """Shows a few words in the place of those before."""
    now = time.monotonic()
    if sys.stderr.isatty():
      print(
        f"\r\x1b[K{self._prefix}{text}", end="", file=sys.stderr, flush=True
      )
    elif now - self._printed >= self._every:
      self._printed = now
      print(f"{self._prefix}{text}", file=sys.stderr, flush=True)

  def clear(self) -> None:
    """Takes the words from the terminal."""
    if sys.stderr.isatty():
      print("\r\x1b[K", end="", file=sys.stderr, flush=True)
