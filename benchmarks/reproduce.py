"""Trains methods times seeds through main.py, in pieces, and tables them.

  python -m benchmarks.reproduce --config=configs/digits.py --seeds=0,1,2
  python -m benchmarks.reproduce --minutes=9 --label='CIFAR-10 (JPEG copy)' \\
    -- --config.data.name=folder:cifar10_images.tar.xz
  python -m benchmarks.reproduce --dry-run

What follows `--` goes to main.py as it is. The same command again goes on: runs
that --out holds are passed over, and a run that was stopped resumes from its
checkpoint, to the bit. With --minutes the queue stops by itself in good time:
right after a checkpoint if the next would come too late, so that next to
nothing is done twice; ends with status 0 when all runs are finished, 3 when
there is more to do and 2 when a run failed, so a loop can wait for all of them:

  until python -m benchmarks.reproduce --minutes=9; do
    test $? = 3 || break
  done

Each finished run is a line of --out: accuracy of the final epoch, config,
command, versions, hardware, commit. Seeds are the outer loop, so that what is
there early compares all methods.
"""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import arguments, machine, report, table
from ovsw_jax.methods import METHODS
from ovsw_jax.training import child

_DEFAULT = ("vanilla", "ags", "sad", "ovsw")
_UNFINISHED = 3  # exit status


class Run(NamedTuple):
  """One run of the queue: what identifies it, and where it is."""

  config: str
  method: str
  seed: int
  overrides: tuple[str, ...]
  workdir: pathlib.Path

  @property
  def identity(self) -> dict[str, Any]:
    """What a finished run is recognised by; JSON as it comes back."""
    return {
      "config": self.config,
      "method": self.method,
      "seed": self.seed,
      "overrides": sorted(self.overrides),
    }

  @property
  def command(self) -> list[str]:
    """Arguments of the interpreter."""
    return [
      "main.py",
      f"--config={self.config}:{self.method.replace('+', ',')}",
      f"--config.seed={self.seed}",
      *self.overrides,
      f"--workdir={self.workdir}",
    ]

  @property
  def log(self) -> pathlib.Path:
    """What main.py printed, in all pieces."""
    return machine.ROOT / self.workdir.with_suffix(".log")

  def __str__(self) -> str:
    return f"{self.method} seed {self.seed}"


def checkpoints(workdir: pathlib.Path) -> int:
  """The newest checkpoint's step, 0 if there is none."""
  names = (path.name for path in (workdir / "checkpoints").glob("*"))
  return max((int(name) for name in names if name.isdecimal()), default=0)


class Deadline:
  """When to stop: at a checkpoint, if the next would come too late.

  Args:
    at: time of `clock` that must not be passed; None for no limit.
    clock: seconds from any origin.
  """

  def __init__(
    self, at: float | None, clock: Callable[[], float] = time.monotonic
  ):
    self._at, self._clock = at, clock
    self._step = 0
    self._seen = clock()
    self._first: float | None = None  # from a start to its first checkpoint

  def start(self, step: int) -> bool:
    """A run would go on from a checkpoint of `step`; whether it is worth it."""
    self._step, self._seen = step, self._clock()
    return self._at is None or self._seen + (self._first or 0.0) < self._at

  def due(self, step: int) -> bool:
    """Whether to stop a run whose newest checkpoint is of `step` by now."""
    now = self._clock()
    if self._at is None:
      return False
    if step == self._step:
      return now >= self._at
    # Compiling is in the first interval, which so promises too little.
    interval = now - self._seen
    self._first = self._first or interval
    self._step, self._seen = step, now
    return now + interval > self._at


def train(run: Run, deadline: Deadline, show: report.Progress) -> bool:
  """Runs main.py till it is done or time is up; whether it is done.

  Raises:
    ValueError: if main.py failed, with the end of its log.
  """
  workdir = machine.ROOT / run.workdir
  if not deadline.start(checkpoints(workdir)):
    return False

  def watch() -> bool:
    show((child.last_lines(run.log) or ["starts"])[0])
    return deadline.due(checkpoints(workdir))

  status = child.run(
    [sys.executable, "-u", *run.command], run.log, watch, cwd=machine.ROOT
  )
  if status is None:
    return False
  if status:
    end = "\n".join(child.last_lines(run.log, 5))
    raise ValueError(
      f"{run} failed with status {status}; {run.log} ends with\n{end}"
    )
  return True


def record(run: Run, label: str | None) -> dict[str, Any]:
  """A finished run with everything that is needed to repeat it."""
  workdir = machine.ROOT / run.workdir
  result = json.loads((workdir / "result.json").read_text())
  config = json.loads((workdir / "config.json").read_text())
  found = machine.describe()
  return {
    "kind": "result",
    "run": run.identity,
    "data": label or config["data"]["name"],
    "method": run.method,
    "seed": run.seed,
    **result,
    **{k: found[k] for k in ("date", "commit", "processor", "cores")},
    # Those of the packages that main.py names itself are the run's own.
    "versions": found["versions"] | result["versions"],
    "config": config,
  }


def queue(chosen: argparse.Namespace) -> Iterator[Run]:
  """All runs, in their order."""
  workdir = chosen.workdir or pathlib.Path("runs", chosen.config.stem)
  for seed in chosen.seeds:
    for method in chosen.methods:
      yield Run(
        chosen.config.as_posix(),
        method,
        seed,
        tuple(chosen.overrides),
        workdir / method / f"seed{seed}",
      )


def _seeds(text: str) -> list[int]:
  if not all(part.strip().isdecimal() for part in text.split(",")):
    raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers")
  return [int(part) for part in text.split(",")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("reproduce", __doc__)
  add_queue_arguments(
    parser,
    config="cifar10_resnet20.py",
    methods=_DEFAULT,
    seeds="46,47,48,49,50",  # the authors'
  )
  chosen = checked(parser, argv)
  chosen.out = chosen.out or pathlib.Path(
    "results", f"{chosen.config.stem}.jsonl"
  )
  return chosen


def add_queue_arguments(
  parser: argparse.ArgumentParser,
  *,
  config: str,
  methods: Iterable[str],
  seeds: str,
) -> None:
  """Adds what every queue of runs takes, with these defaults."""
  parser.add_argument(
    "--config",
    type=pathlib.Path,
    default=pathlib.Path("configs", config),
    help="(default: %(default)s)",
  )
  parser.add_argument(
    "--methods",
    type=arguments.names(tuple(METHODS)),
    default=",".join(methods),
    metavar="NAMES",
    help="comma-separated (default: %(default)s)",
  )
  parser.add_argument(
    "--seeds",
    type=_seeds,
    default=seeds,
    help="comma-separated (default: %(default)s)",
  )
  parser.add_argument(
    "--minutes",
    type=arguments.seconds,
    help="stop after that time at most (default: when all is done)",
  )
  parser.add_argument(
    "--workdir",
    type=pathlib.Path,
    help="place of the runs, below the repository unless absolute (default: "
    "runs/ and the config's name)",
  )
  parser.add_argument(
    "--label", help="what the table calls the data (default: as the config)"
  )
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    help="file of finished runs (default: results/ and the config's name, "
    ".jsonl)",
  )
  parser.add_argument(
    "--dry-run", action="store_true", help="print the commands that are left"
  )
  parser.add_argument(
    "overrides", nargs="*", help="further arguments of main.py, after --"
  )


def checked(
  parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
  """The arguments of a queue, if they can be right."""
  chosen = parser.parse_args(argv)
  if not (machine.ROOT / chosen.config).is_file():
    parser.error(f"--config: no file {chosen.config}; try configs/digits.py")
  for override in chosen.overrides:
    if not override.startswith("--config."):
      parser.error(f"{override!r} is no --config.FIELD=VALUE of main.py")
  return chosen


def work_off(
  runs: Iterator[Run],
  total: int,
  finished: list[dict[str, Any]],
  chosen: argparse.Namespace,
  kind: str | None = None,
) -> bool:
  """Makes the runs that are not finished, and adds each to `finished`.

  Args:
    runs: the queue; what it yields may depend on `finished`.
    total: the number of runs.
    finished: records of --out.
    chosen: arguments of the queue.
    kind: module whose `markdown` makes a table of these records; None for
      `table.runs`.

  Returns:
    Whether runs were made, and not just printed.
  """
  out = machine.ROOT / chosen.out
  end = None
  if chosen.minutes is not None:
    end = time.monotonic() + 60 * chosen.minutes
  deadline = Deadline(end)
  for place, run in enumerate(runs, start=1):
    if any(line.get("run") == run.identity for line in finished):
      continue
    if chosen.dry_run:
      print("python", *run.command)
      continue
    show = report.Progress(f"[{place}/{total}] {run}: ", every=30.0)
    if not train(run, deadline, show):
      show.clear()
      print(f"time is up before {run} is finished; the same command goes on")
      sys.exit(_UNFINISHED)
    show.clear()
    line = record(run, chosen.label)
    if kind is not None:
      line["table"] = kind
    finished.append(line)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
      file.write(json.dumps(line) + "\n")
    print(f"[{place}/{total}] {run}: {line['accuracy']:.2%}", flush=True)
  return not chosen.dry_run


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  finished = table.read_lines(machine.ROOT / chosen.out)
  runs = list(queue(chosen))
  if work_off(iter(runs), len(runs), finished, chosen):
    print(f"\n{table.runs(finished)}")


if __name__ == "__main__":
  arguments.start(main)
