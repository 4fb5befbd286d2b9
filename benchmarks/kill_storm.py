"""Kills a run again and again, and compares it with one that was left alone.

  python -m benchmarks.kill_storm
  python -m benchmarks.kill_storm --kills=3 -- --config.train.epochs=9

main.py is sent SIGKILL at random moments: while it starts, between two
checkpoints, inside of a save. After so many kills it is left to its end. Then
parameters, optimizer state and batch statistics must have the same bits, and
metrics the same lines but for times, as those of an undisturbed run. A kill
counts as one inside of a save if it left a checkpoint half-written.
"""

import argparse
import contextlib
import pathlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import arguments, machine, report
from benchmarks.reproduce import checkpoints as newest
from ovsw_jax import analysis

_TIMES = ("seconds", "images_per_second")


@contextlib.contextmanager
def started(
  command: list[str], log: pathlib.Path
) -> Iterator[subprocess.Popen]:
  """main.py, its output appended to a log; killed if it is left running."""
  with log.open("a") as file:
    process = subprocess.Popen(
      [sys.executable, *command],
      cwd=machine.ROOT,
      stdout=file,
      stderr=subprocess.STDOUT,
    )
    try:
      yield process
    finally:
      process.kill()
      process.wait()


def half_written(workdir: pathlib.Path) -> bool:
  """Whether a save was begun and not ended."""
  return any((workdir / "checkpoints").glob("*.writing*"))


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The metrics, without what a clock decides."""
  return [
    {k: v for k, v in record.items() if k not in _TIMES}
    for record in analysis.read_metrics(workdir)
  ]


def arrays(workdir: pathlib.Path) -> Any:
  """Everything that the newest checkpoint holds."""
  from ovsw_jax.training import checkpoint

  parts = ("params", "batch_stats", "opt_state", "constants", "memory")
  return checkpoint.variables(workdir / "checkpoints", newest(workdir), parts)


def same_bits(a: Any, b: Any) -> bool:
  """Whether two trees are the same, to the bit."""
  import jax
  import numpy as np

  if jax.tree.structure(a) != jax.tree.structure(b):
    return False
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(
    np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs
  )


def wait(process: subprocess.Popen, until: Callable[[], bool]) -> None:
  """Waits for something, or for the process to end."""
  while process.poll() is None and not until():
    time.sleep(0.001)


def storm(
  command: list[str], workdir: pathlib.Path, kills: int, seed: int
) -> dict[str, int]:
  """Runs main.py to its end over so many kills; counts them.

  Raises:
    ValueError: if the run fails, or ends before all kills have struck.
  """
  choose = random.Random(seed)
  struck = in_save = in_start = 0
  log, show = workdir.with_suffix(".log"), report.Progress("")
  interval = startup = 1.0  # seconds, until they are known
  while True:
    began, before = time.monotonic(), newest(workdir)
    with started(command, log) as process:
      if struck == kills:
        if process.wait():
          raise ValueError(f"the run failed; see {log}")
        show.clear()
        return {"kills": struck, "in_save": in_save, "in_start": in_start}
      kind = choose.choices(["start", "between", "save"], [1, 3, 2])[0]
      if kind == "start":
        end = began + choose.uniform(0, startup)
        wait(process, lambda end=end: time.monotonic() > end)
      else:
        wait(process, lambda before=before: newest(workdir) > before)
        first, startup = time.monotonic(), time.monotonic() - began
        if kind == "save":
          wait(process, lambda: half_written(workdir))
          interval = time.monotonic() - first
        else:
          end = first + choose.uniform(0, 2 * interval)
          wait(process, lambda end=end: time.monotonic() > end)
      if process.poll() is not None:
        raise ValueError(
          f"the run ended after {struck} kills of {kills}; make it longer, as "
          f"in -- --config.train.epochs=100, or see {log}"
        )
    # Killed by now.
    struck += 1
    in_start += kind == "start"
    in_save += half_written(workdir)
    show(f"kill {struck}/{kills}, checkpoint of step {newest(workdir)}")


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a storm."""
  header = ["run", "kills", "in a start", "inside of a save", "bits", "lines"]
  rows = [
    [
      row["run"],
      *(str(row[name]) for name in ("kills", "in_start", "in_save")),
      *("same" if row[name] else "OTHER" for name in ("bits", "lines")),
    ]
    for row in content["rows"]
  ]
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("kill_storm", __doc__)
  parser.add_argument(
    "--config", default="configs/digits.py:smoke", help="(default: %(default)s)"
  )
  parser.add_argument(
    "--kills", type=int, default=30, help="(default: %(default)s)"
  )
  parser.add_argument(
    "--seed", type=int, default=0, help="of the moments (default: %(default)s)"
  )
  parser.add_argument(
    "--workdir",
    type=pathlib.Path,
    default=pathlib.Path("runs", "kill_storm"),
    help="place of both runs, emptied first (default: %(default)s)",
  )
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path("runs", "benchmarks", "kill_storm.json"),
    help="JSON file to write (default: %(default)s)",
  )
  parser.add_argument(
    "overrides", nargs="*", help="further arguments of main.py, after --"
  )
  chosen = parser.parse_args(argv)
  if chosen.kills < 1:
    parser.error(f"--kills={chosen.kills} must be at least 1")
  return chosen


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  place = machine.ROOT / chosen.workdir
  shutil.rmtree(place, ignore_errors=True)
  place.mkdir(parents=True)

  def command(workdir):
    return [
      "main.py",
      f"--config={chosen.config}",
      # Many short epochs, so that there is a checkpoint every moment.
      "--config.train.epochs=150",
      *chosen.overrides,
      f"--workdir={workdir}",
    ]

  calm, stormy = place / "calm", place / "stormy"
  log = calm.with_suffix(".log")
  with started(command(calm), log) as process:
    if process.wait():
      raise ValueError(f"the run failed; see {log}")
  row = {
    "run": " ".join(command(stormy)),
    **storm(command(stormy), stormy, chosen.kills, chosen.seed),
    "bits": same_bits(arrays(stormy), arrays(calm)),
    "lines": lines(stormy) == lines(calm),
  }
  content = report.make("kill_storm", chosen, [row], "cpu")
  report.show(content, table)
  if not (row["bits"] and row["lines"]):
    raise ValueError("the run that was killed is another one")


if __name__ == "__main__":
  arguments.start(main)
