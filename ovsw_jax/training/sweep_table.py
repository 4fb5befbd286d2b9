"""A sweep's results, as `results.csv` and `results.md`."""

import csv
import io
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ovsw_jax.analysis import groups, tables
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
  return _finished(workdir)[1]["seconds"]


def line(workdir: pathlib.Path) -> str:
  """A finished run in a few words."""
  member, result = _finished(workdir)
  accuracy = 100 * statistics.mean(member.final("accuracy"))
  return f"{accuracy:.2f} % in {progress.duration(result['seconds'])}"


def write(place: pathlib.Path, rows: Rows, failed: Mapping[str, str]) -> None:
  """Writes both tables, each whole or not at all.

  Args:
    place: directory of the sweep.
    rows: swept fields and workdir of each run.
    failed: by the name of a workdir, why its run failed.
  """
  ends = [
    _finished(workdir)
    if workdir.name not in failed and finished(workdir)
    else None
    for _, workdir in rows
  ]
  records = [
    _record(fields, workdir, failed, end)
    for (fields, workdir), end in zip(rows, ends, strict=True)
  ]
  lines = io.StringIO()
  writer = csv.DictWriter(lines, fieldnames=list(records[0]))
  writer.writeheader()
  writer.writerows(records)
  settings.write_text(place / CSV_FILE, lines.getvalue())
  settings.write_text(
    place / MARKDOWN_FILE, _markdown(records, list(rows[0][0]), ends)
  )


def _finished(workdir: pathlib.Path) -> tuple[groups.Member, dict[str, Any]]:
  """A finished run, and its result."""
  member = groups.read_member(settings.last_stage(workdir))
  assert member.result is not None
  return member, member.result


def _record(
  fields: Mapping[str, Any],
  workdir: pathlib.Path,
  failed: Mapping[str, str],
  done: tuple[groups.Member, dict[str, Any]] | None,
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
  elif done is not None:
    member, result = done
    epoch, best = member.best()
    never = member.final("never_flipped_fraction")
    record |= {
      "seeds": " ".join(map(str, member.seeds)),
      "test_accuracy": _mean(member.final("accuracy")),
      "best_on_test": best,
      "best_on_test_epoch": epoch,
      "never_flipped_fraction": _mean(never) if never else "",
      "seconds": result["seconds"],
      "status": "finished",
    }
  elif workdir.exists():
    record["status"] = "unfinished"
  return record


def _mean(values: Sequence[float]) -> float:
  return round(statistics.mean(values), 6)


def _markdown(
  records: Sequence[Mapping[str, Any]],
  swept: Sequence[str],
  ends: Sequence[tuple[groups.Member, dict[str, Any]] | None],
) -> str:
  """One row for the runs that differ in their seed alone."""
  fields = [field for field in swept if field != _SEED]
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
    done = [end for i in indices if (end := ends[i]) is not None]
    members = [member for member, _ in done]
    accuracy = [v for m in members for v in m.final("accuracy")]
    never = [v for m in members for v in m.final("never_flipped_fraction")]
    status = sorted({records[i]["status"].split(":")[0] for i in indices})
    took = [result["seconds"] for _, result in done]
    lines.append(
      [
        *key,
        str(len(accuracy)),
        tables.spread([100 * value for value in accuracy], 2),
        tables.spread([100 * v for v in never if v is not None], 2),
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
