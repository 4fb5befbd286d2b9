"""A small grid over config fields and seeds, one run after the other.

Every run is a `main.py` of its own, so that one that fails takes nothing with
it and a device's memory is free for the next. Which run is which is in
`sweep.json` and each run's `config.json`; the names of directories are for
people alone.
"""

import itertools
import json
import pathlib
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from ovsw_jax.training import (
  child,
  progress,
  settings,
  sweep_table,
  workdir_lock,
)

SWEEP_FILE = "sweep.json"
# A field that is no field: it stands behind the config's colon and brings its
# own method_args.
METHOD = "method"
_EVERY = 0.2  # seconds between looks at another process

Build = Callable[[Sequence[str]], Any]  # arguments of main.py to their config


class Base(NamedTuple):
  """What all runs of a sweep have in common."""

  config: str  # file, and what stands behind its colon
  overrides: tuple[str, ...]  # further arguments, --config.FIELD=VALUE


class Planned(NamedTuple):
  """One run of a sweep."""

  fields: dict[str, Any]  # those that are swept
  arguments: tuple[str, ...]  # of main.py
  workdir: pathlib.Path
  config: Any


def axes(sweeps: Sequence[str]) -> dict[str, list[str]]:
  """Reads `FIELD=VALUE,VALUE` texts.

  Raises:
    ValueError: for one that is written otherwise, or a field or value twice.

  Examples:
    >>> axes(["seed=0,1", "optimizer.learning_rate=0.1"])
    {'seed': ['0', '1'], 'optimizer.learning_rate': ['0.1']}
  """
  found: dict[str, list[str]] = {}
  for text in sweeps:
    field, _, rest = text.partition("=")
    field = field.strip().removeprefix("config.")
    values = [value.strip() for value in rest.split(",")]
    if not field or not all(values):
      raise ValueError(
        f"--sweep={text} is not FIELD=VALUE,VALUE, such as "
        "--sweep=optimizer.learning_rate=0.03,0.1"
      )
    if field in found:
      raise ValueError(f"--sweep names {field} twice; put all values in one")
    if doubled := [v for i, v in enumerate(values) if v in values[:i]]:
      raise ValueError(f"--sweep={text} has the value {doubled[0]} twice")
    found[field] = values
  if not found:
    raise ValueError(
      "--sweep is missing: the fields to vary, such as "
      "--sweep=optimizer.learning_rate=0.03,0.1 --sweep=seed=0,1,2"
    )
  return found


def plan(
  base: Base,
  grid: Mapping[str, Sequence[str]],
  place: pathlib.Path | None,
  build: Build,
) -> tuple[pathlib.Path, list[Planned]]:
  """All runs, checked, the last field varying fastest.

  Args:
    base: what they have in common.
    grid: values by field.
    place: directory of the sweep; `runs/<name>_sweep` if None.
    build: makes the config of arguments.

  Raises:
    ValueError: for a field or value that no config can have, or a value that is
      another one written differently.
  """
  runs: list[Planned] = []
  for values in itertools.product(*grid.values()):
    chosen = dict(zip(grid, values, strict=True))
    arguments = _arguments(base, chosen)
    try:
      config = build(arguments)
      settings.check(config)
    except ValueError as error:
      shown = " ".join(f"{field}={value}" for field, value in chosen.items())
      raise ValueError(f"--sweep with {shown}: {error}") from error
    place = place or pathlib.Path("runs", f"{config.name}_sweep")
    flat = settings.flatten(settings.resolved(config))
    fields = {field: flat[field] for field in grid}
    if twin := [run for run in runs if run.fields == fields]:
      raise ValueError(
        f"--sweep has a value twice, written differently: {twin[0].fields}"
      )
    name = _name(chosen, [run.workdir.name for run in runs])
    workdir = place / name
    runs.append(
      Planned(fields, (*arguments, f"--workdir={workdir}"), workdir, config)
    )
  assert place is not None  # a grid has a run
  return place, runs


def _arguments(base: Base, chosen: Mapping[str, str]) -> tuple[str, ...]:
  """Of main.py, but for the workdir."""
  config, _, behind = base.config.partition(":")
  if METHOD in chosen:
    methods = chosen[METHOD].replace("+", ",")
    behind = f"{methods},{behind}" if behind else methods
  return (
    f"--config={config}:{behind}" if behind else f"--config={config}",
    *base.overrides,
    *(f"--config.{f}={v}" for f, v in chosen.items() if f != METHOD),
  )


def _name(chosen: Mapping[str, str], taken: Sequence[str]) -> str:
  """A directory's name that people can read."""
  words = [f"{f.split('.')[-1]}={v}" for f, v in chosen.items()]
  # No comma: --compare takes several workdirs apart at it.
  name = re.sub(r"[^\w.=+-]+", "_", "_".join(words))
  names = itertools.chain([name], (f"{name}_{n}" for n in itertools.count(2)))
  return next(name for name in names if name not in taken)


def check_place(
  base: Base, grid: Mapping[str, Sequence[str]], place: pathlib.Path
) -> None:
  """Raises ValueError unless a directory is new, or of this sweep or a part."""
  path = place / SWEEP_FILE
  if not path.exists():
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
      raise ValueError(
        f"--workdir={place} is there and holds no sweep; choose a new one"
      )
    return
  try:
    saved = json.loads(path.read_text())
    old = Base(saved["config"], tuple(saved["overrides"]))
    before = saved["sweep"]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} is damaged ({error}); choose another --workdir"
    ) from error
  differing = (
    old != base
    or list(before) != list(grid)
    or any(set(before[field]) - set(grid[field]) for field in grid)
  )
  if differing:
    there = " ".join(
      [f"--config={old.config}", *old.overrides]
      + [f"--sweep={f}={','.join(v)}" for f, v in before.items()]
    )
    raise ValueError(
      f"{place} holds another sweep, {there}; a sweep may only gain values: "
      "choose another --workdir, or that sweep"
    )


def dry_run(runs: Sequence[Planned], program: Sequence[str]) -> str:
  """The commands that are left, and how long they would take."""
  left = [run for run in runs if not sweep_table.finished(run.workdir)]
  done = [sweep_table.seconds(run.workdir) for run in runs if run not in left]
  lines = [shlex.join(["python", *program, *run.arguments]) for run in left]
  if not left:
    lines.append(f"all {len(runs)} runs are finished")
  elif done:
    each = statistics.median(done)
    lines.append(
      f"{len(left)} of {len(runs)} runs are left, about "
      f"{progress.duration(each * len(left))} at the "
      f"{progress.duration(each)} of those finished"
    )
  else:
    lines.append(
      f"{len(left)} runs; how long they take is known once one is finished"
    )
  return "\n".join(lines)


def run(
  base: Base,
  grid: Mapping[str, Sequence[str]],
  place: pathlib.Path,
  runs: Sequence[Planned],
  program: Sequence[str],
) -> list[str]:
  """Makes the runs that are not finished, and the tables after each.

  Args:
    base: what all have in common.
    grid: values by field.
    place: directory of the sweep.
    runs: from `plan`.
    program: `main.py`, and arguments that change no result.

  Returns:
    Of each run that failed its name and why.
  """
  for one in runs:
    settings.check_workdir(one.config, one.workdir)
  place.mkdir(parents=True, exist_ok=True)
  settings.write_json(
    place / SWEEP_FILE,
    {
      "config": base.config,
      "overrides": list(base.overrides),
      "sweep": {field: list(values) for field, values in grid.items()},
      "runs": [{"workdir": r.workdir.name, "fields": r.fields} for r in runs],
    },
  )
  child.end_at_sigterm()
  left = [one for one in runs if not sweep_table.finished(one.workdir)]
  count = f"{len(runs)} run{'s' * (len(runs) > 1)}"
  print(f"sweep    {count}, {len(runs) - len(left)} finished, {place}")
  failed: dict[str, str] = {}
  rows = [(one.fields, one.workdir) for one in runs]
  sweep_table.write(place, rows, failed)
  for place_in, one in enumerate(runs, start=1):
    if one not in left:
      continue
    head = f"[{place_in}/{len(runs)}] {one.workdir.name}"
    error = _make(one, program, head)
    if error is None:
      print(f"{head}  {sweep_table.line(one.workdir)}", flush=True)
    else:
      failed[one.workdir.name] = error
      print(f"{head}  failed: {error}", flush=True)
    sweep_table.write(place, rows, failed)
  print((place / sweep_table.MARKDOWN_FILE).read_text(), end="")
  return [f"{name}: {error}" for name, error in failed.items()]


def _make(one: Planned, program: Sequence[str], head: str) -> str | None:
  """Makes or resumes a run; what went wrong, or None."""
  log = one.workdir.with_name(f"{one.workdir.name}.log")
  bar = tqdm(
    bar_format=f"{head}  {{postfix}}",
    disable=not sys.stderr.isatty(),
    leave=False,
  )

  def watch() -> bool:
    bar.set_postfix_str((child.last_lines(log) or ["starts"])[0].strip())
    return False

  with bar:
    while True:
      _wait(one, head, watch)
      if sweep_table.finished(one.workdir):
        return None
      status = child.run(
        [sys.executable, "-u", *program, *one.arguments], log, watch
      )
      if not status:
        return None
      # Or another process had only just begun the run.
      if _holder(one) is None:
        break
  last = (child.last_lines(log) or ["no output"])[0].removeprefix("error: ")
  return f"{last} (status {status}, see {log})"


def _wait(one: Planned, head: str, watch: Callable[[], Any]) -> None:
  """Waits for the process that has a run, as a killed sweep leaves one."""
  holder = _holder(one)
  if holder is None:
    return
  tqdm.write(f"{head}  is still going in {holder}; waiting for it")
  sys.stdout.flush()
  while _holder(one) is not None:
    watch()
    time.sleep(_EVERY)
  if not sweep_table.finished(one.workdir):
    tqdm.write(f"{head}  ended there without a result; goes on here")


def _holder(one: Planned) -> str | None:
  """The process that trains a run, or a stage of it; None if none does."""
  places = [one.workdir, *(one.workdir / name for name in one.config.stages)]
  return next(filter(None, map(workdir_lock.holder, places)), None)
