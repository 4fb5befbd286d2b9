"""Reads `metrics.jsonl`: one JSON object a line, numbers or null."""

import json
import pathlib
from typing import Any

METRICS_FILE = "metrics.jsonl"


def read_metrics(path) -> list[dict[str, Any]]:
  """The records of a run's `metrics.jsonl`, in order.

  The end of a run that was killed may be half a line; it is left out.

  Args:
    path: the file, or the run's workdir.

  Returns:
    A dict for every record, with at least `kind`, `step` and `epoch`. A value
    that was not finite is None and named in the record's `non_finite`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line other than the last is not a JSON object with a step.

  Examples:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as workdir:
    ...   path = pathlib.Path(workdir) / METRICS_FILE
    ...   _ = path.write_text('{"kind": "eval", "step": 3}\\n{"kind": "tr')
    ...   read_metrics(workdir)
    [{'kind': 'eval', 'step': 3}]
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / METRICS_FILE
  if not path.is_file():
    raise FileNotFoundError(f"No metrics at {path}: was a run started there?")
  return [record for _, record in parse_lines(path)]


def parse_lines(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
  """Every whole line of a metrics file, as text and as a record."""
  # What a kill cuts off has no line feed; the last piece is "" or that.
  *lines, _ = path.read_bytes().split(b"\n")
  return [
    (line.decode(errors="replace"), _record(path, number, line))
    for number, line in enumerate(lines, start=1)
  ]


def _record(path: pathlib.Path, number: int, line: bytes) -> dict[str, Any]:
  try:
    record = json.loads(line, parse_constant=_refuse)
  except ValueError as error:
    raise ValueError(
      f"{path}, line {number} is not JSON ({error}): {line[:60]!r}. Remove the"
      " line to read the others."
    ) from error
  if not isinstance(record, dict) or not isinstance(record.get("step"), int):
    raise ValueError(
      f"{path}, line {number} is not a record with a step: {line[:60]!r}."
      " Remove the line to read the others."
    )
  return record


def _refuse(token: str):
  raise ValueError(f"{token} is not a JSON number")
