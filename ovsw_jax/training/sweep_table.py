"""A sweep's results, as `results.csv` and `results.md`."""

import csv
import io
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ovsw_jax.analysis import groups
from ovsw_jax.training import outcome, progress, settings

CSV_FILE = "results.csv"
MARKDOWN_FILE = "results.md"
_SEED = "seed"

Rows = Sequence[tuple[Mapping[str, Any], pathlib.Path]]  # swept fields, workdir


def finished(workdir: pathlib.Path) -> bool:
  """Whether a run has come to its end."""
  return outcome.read(settings.last_stage(workdir)) is not None


def seconds(workdir: pathlib.Path) -> float:
  """Of a finished run."""
  result = outcome.read(settings.last_stage(workdir))
  assert result is not None
  return result["seconds"]


def line(workdir: pathlib.Path) -> str:
  """A finished run in a few words."""
  accuracy = 100 * statistics.mean(
    groups.read_member(settings.last_stage(workdir)).final("accuracy")
  )
  return f"{accuracy:.2f} % in {progress.duration(seconds(workdir))}"


def write(place: pathlib.Path, rows: Rows, failed: Mapping[str, str]) -> None:
  """Writes both tables, each whole or not at all.

  Args:
    place: directory of the sweep.
    rows: swept fields and workdir of each run.
    failed: by the name of a workdir, why its run failed.
  """
  records = [_record(fields, workdir, failed) for fields, workdir in rows]
  text = io.StringIO()
  writer = csv.DictWriter(text, fieldnames=list(records[0]))
  writer.writeheader()
  writer.writerows(records)
  settings.write_text(place / CSV_FILE, text.getvalue())
  settings.write_text(place / MARKDOWN_FILE, _markdown(records, rows))


def _record(
  fields: Mapping[str, Any], workdir: pathlib.Path, failed: Mapping[str, str]
) -> dict[str, Any]:
  """A row of the CSV file; fractions, not per cent."""
  record: dict[str, Any] = {
    **fields,
    "seeds": "",
    "test_accuracy": "",
    "best_on_test": "",
    "best_on_test_epoch": "",
    "never_flipped_fraction": "",
    "seconds": "",
    "status": "waiting",
    "workdir": workdir.name,
  }
  if workdir.name in failed:
    record["status"] = f"failed: {failed[workdir.name]}"
  elif finished(workdir):
    member = groups.read_member(settings.last_stage(workdir))
    epoch, best = member.best()
    never = member.final("never_flipped_fraction")
    record |= {
      "seeds": " ".join(map(str, member.seeds)),
      "test_accuracy": _mean(member.final("accuracy")),
      "best_on_test": best,
      "best_on_test_epoch": epoch,
      "never_flipped_fraction": _mean(never) if never else "",
      "seconds": seconds(workdir),
      "status": "finished",
    }
  elif workdir.exists():
    record["status"] = "unfinished"
  return record


def _mean(values: Sequence[float]) -> float:
  return round(statistics.mean(values), 6)


def _markdown(records: Sequence[Mapping[str, Any]], rows: Rows) -> str:
  """One row for the runs that differ in their seed alone."""
  fields = [field for field in rows[0][0] if field != _SEED]
  by_fields: dict[tuple, list[int]] = {}
  for index, record in enumerate(records):
    key = tuple(str(record[field]) for field in fields)
    by_fields.setdefault(key, []).append(index)
  header = [
    *fields,
    "seeds",
    "test accuracy, %",
    "never flipped, %",
    "seconds a run",
    "status",
  ]
  lines = [header, ["---"] * len(header)]
  for key, indices in by_fields.items():
    done = [i for i in indices if records[i]["status"] == "finished"]
    members = [
      groups.read_member(settings.last_stage(rows[i][1])) for i in done
    ]
    accuracy = [v for m in members for v in m.final("accuracy")]
    never = [v for m in members for v in m.final("never_flipped_fraction")]
    status = sorted({records[i]["status"].split(":")[0] for i in indices})
    took = [records[i]["seconds"] for i in done]
    lines.append(
      [
        *key,
        str(len(accuracy)),
        _spread(accuracy),
        _spread(never),
        f"{statistics.median(took):.0f}" if took else "-",
        ", ".join(status),
      ]
    )
  table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
  return (
    f"{table}\n\nAccuracy is that of the final epoch; ± is the sample deviation"
    f" over seeds. Run by run, with the best epoch on the test set: {CSV_FILE}."
    "\n"
  )


def _spread(values: Sequence[float | None]) -> str:
  """Mean and sample deviation in per cent."""
  known = [100 * value for value in values if value is not None]
  if not known:
    return "-"
  mean = f"{statistics.mean(known):.2f}"
  if len(known) == 1:
    return mean
  return f"{mean} ± {statistics.stdev(known):.2f}"
