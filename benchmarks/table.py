"""Makes the README's tables out of files in results/.

  python -m benchmarks.table results/digits.jsonl results/step_time_cpu.json
  python -m benchmarks.table --into=README.md

Prints the Markdown table of each file: `.jsonl` are finished runs, a line each,
as `benchmarks.reproduce` writes them; `.json` is a benchmark's report. With
--into, every table of that file which stands between two lines

  <!-- table: results/digits.jsonl -->
  <!-- end -->

is made anew; the rest of the file stays as it is.
"""

import argparse
import importlib
import json
import os
import pathlib
import re
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import arguments, machine, report

BENCHMARKS = (
  "convolution_forms",
  "decode",
  "device_layouts",
  "epoch_time",
  "gpu_program",
  "kernels",
  "kill_storm",
  "layout",
  "memory",
  "optimizer_cost",
  "packed_inference",
  "peak",
  "report_cost",
  "step_time",
  "streamed_run",
)
_BLOCK = re.compile(
  r"(<!-- table: (?P<path>\S+) -->\n).*?(<!-- end -->)", re.DOTALL
)


def spread(values: list[float]) -> str:
  """Mean and sample standard deviation in per cent, as `95.0 ± 0.2`.

  Examples:
    >>> spread([0.5]), spread([0.25, 0.75])
    ('50.0', '50.0 ± 35.4')
  """
  mean = f"{100 * statistics.mean(values):.1f}"
  if len(values) < 2:
    return mean
  return f"{mean} ± {100 * statistics.stdev(values):.1f}"


def values(finished: list[dict[str, Any]], name: str) -> list[float | None]:
  """One value a seed; a run of several replicas has several seeds."""
  return [
    value
    for record in finished
    for value in record.get(f"{name}_per_seed", [record[name]])
  ]


def runs(records: list[dict[str, Any]]) -> str:
  """Finished runs as Markdown: one row a method, mean ± deviation over seeds.

  Raises:
    ValueError: if there is no finished run among the records.
  """
  finished = [record for record in records if "epochs" in record]
  if not finished:
    raise ValueError("no finished run yet")
  methods = list(dict.fromkeys(r.get("method", "-") for r in finished))
  rows = []
  for method in methods:
    own = [r for r in finished if r.get("method", "-") == method]
    accuracy = values(own, "accuracy")
    flips = values(own, "never_flipped_fraction")
    rows.append(
      [
        method,
        str(len(accuracy)),
        spread(accuracy),
        "-" if None in flips else spread(flips),
        f"{statistics.median(r['seconds'] for r in own):.0f}",
      ]
    )
  header = [
    "method",
    "seeds",
    "test accuracy, %",
    "never flipped, %",
    "seconds a run",
  ]

  return f"{report.markdown(header, rows)}\n\n{conditions(finished)}"


def conditions(finished: list[dict[str, Any]]) -> str:
  """Of finished runs in a sentence: data, epochs, devices, versions."""

  def all_of(values) -> str:
    return " and ".join(dict.fromkeys(values))

  data = all_of(r["data"] for r in finished if "data" in r)
  epochs = all_of(str(r["epochs"]) for r in finished)
  devices = all_of(r["device"] for r in finished)
  versions = all_of(
    f"jax {r['versions']['jax']}, Python {r['versions']['python']}"
    for r in finished
  )
  where = f"{data}; " if data else ""
  return f"{where}{epochs} epochs, final epoch; {devices}, {versions}."


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a `.jsonl` file; none if there is no such file.

  Raises:
    ValueError: for a line that is no JSON, naming it.
  """
  records = []
  lines = path.read_text().splitlines() if path.exists() else []
  for number, line in enumerate(lines, start=1):
    try:
      records.append(json.loads(line))
    except ValueError as error:
      raise ValueError(f"{path}, line {number}, is no JSON: {error}") from error
  return records


def of_file(path: pathlib.Path) -> str:
  """The table of a results file, with a sentence on its circumstances.

  Raises:
    ValueError: if the file holds neither runs nor a report.
    FileNotFoundError: if there is no such file.
  """
  if not path.exists():
    raise FileNotFoundError(f"no results at {path}")
  if path.suffix == ".jsonl":
    records = read_lines(path)
    kind = next((r["table"] for r in records if "table" in r), None)
    try:
      if kind == "benchmarks.compare_methods":
        return importlib.import_module(kind).markdown(records)
      return runs(records)
    except ValueError as error:
      raise ValueError(f"{path}: {error}") from error
  try:
    content = json.loads(path.read_text())
    name = content["benchmark"]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is no benchmark's report") from error
  if name not in BENCHMARKS:
    raise ValueError(
      f"{path} is a report of {name!r}; known: {', '.join(BENCHMARKS)}"
    )
  script = importlib.import_module(f"benchmarks.{name}")
  return f"{script.table(content)}\n\n{report.circumstances(content)}"


def renew(text: str, root: pathlib.Path = machine.ROOT) -> str:
  """A text with all its marked tables made anew, from files below `root`."""

  def block(match: re.Match) -> str:
    return f"{match[1]}{of_file(root / match['path'])}\n{match[3]}"

  return _BLOCK.sub(block, text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("table", __doc__)
  parser.add_argument("files", nargs="*", type=pathlib.Path)
  parser.add_argument(
    "--into", type=pathlib.Path, help="text file whose tables to renew"
  )
  chosen = parser.parse_args(argv)
  if not chosen.files and chosen.into is None:
    parser.error("name a file of results/, or --into=README.md")
  return chosen


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  for path in chosen.files:
    print(f"{path}\n\n{of_file(path)}\n")
  if chosen.into is not None:
    text = chosen.into.read_text()
    if not _BLOCK.search(text):
      raise ValueError(
        f"{chosen.into} marks no table: put `<!-- table: results/FILE -->` and "
        "`<!-- end -->` on lines of their own around each"
      )
    temporary = chosen.into.with_name(chosen.into.name + ".writing")
    temporary.write_text(renew(text))
    os.replace(temporary, chosen.into)
    print(f"tables of {chosen.into} renewed")


if __name__ == "__main__":
  arguments.start(main)
