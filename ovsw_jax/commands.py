"""What `main.py` does once it has read its flags."""

import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

MODES = ("train", "evaluate", "sweep", "report", "export", "predict")
# Files of a workdir that hold its network, by format.
EXPORTED = {
  "packed": "network.safetensors",
  "stablehlo": "network.stablehlo",
  "onnx": "network.onnx",
}


SWEEP_HELP = (
  "FIELD=VALUE,VALUE of the config; given several times, all combinations are "
  "trained. method=vanilla,ovsw sweeps methods."
)
# What reading the flags of a config raises.
_WRONG = (AttributeError, flags.Error, OSError)


def fail(message: str) -> None:
  """Ends the process with one line about what is wrong, and status 2."""
  logging.debug("what the error is about", exc_info=True)  # --verbosity=1
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def parse(argv: list[str], config: Callable[[], Any]) -> list[str]:
  """Parses the flags; a wrong one is one line, not a traceback.

  Args:
    argv: the command line.
    config: gives the config once flags are parsed, None if there is none.
  """
  flags.FLAGS.verbosity = logging.WARNING
  try:
    rest = flags.FLAGS(argv)
    if config() is not None:
      config().lock()  # fails if the file is not there
  except _WRONG as error:
    fail(_reason(error))
  return rest


def _reason(error: BaseException) -> str:
  """What is wrong with the flags of a config, in a line."""
  if isinstance(error, AttributeError):
    field = getattr(error.args[0], "args", error.args)[0].replace("\n", ". ")
    return f"unknown config field {field}; configs/base.py lists them all"
  while "Traceback" in str(error) and error.__context__ is not None:
    error = error.__context__  # what get_config itself said
  reason = str(error).splitlines()[-1].strip()
  # ml_collections passes on the words of the error alone.
  missing = re.search(r"No such file or directory: '(.*\.py)'$", reason)
  if not missing:
    return reason
  folder = pathlib.Path(missing[1]).parent
  there = ", ".join(sorted(path.name for path in folder.glob("*.py")))
  return f"no file {missing[1]!r}; {folder} has {there or 'no config'}"


def config_of(arguments: Sequence[str]) -> Any:
  """The config that `--config...` arguments make, apart from main.py's own."""
  from ml_collections import config_flags

  argv = ["main.py", *arguments]
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    "config", flag_values=values, sys_argv=argv
  )
  try:
    values(argv)
    return holder.value
  except _WRONG as error:
    raise ValueError(_reason(error)) from error


def run(
  mode: str,
  config: Any,
  workdir: str | None,
  cache: str | None,
  compare: Sequence[str],
  format: str,
  sweep: Sequence[str],
  dry_run: bool,
  rest: Sequence[str],
) -> None:
  """Does what a command line asks for, or fails in a line.

  Args:
    mode: one of `MODES`.
    config: nested config, as `configs/*.py` make them; None if not given.
    workdir: place of the run; of one that is trained or evaluated, the
      config's own if not given.
    cache: place of compiled programs, as `compilation_cache.enable` takes it.
    compare: further workdirs of a report.
    format: of an exported network.
    sweep: fields of the config and their values, for a sweep.
    dry_run: whether a sweep only says what it would do.
    rest: what stands on the command line beside flags: images to predict.
  """
  if rest and mode != "predict":
    fail(f"unexpected argument {rest[0]!r}; flags are written --name=value")
  if compare and mode != "report":
    fail("--compare is of --mode=report alone")
  if (sweep or dry_run) and mode != "sweep":
    fail(f"--{'sweep' if sweep else 'dry-run'} is of --mode=sweep alone")
  try:
    if mode == "report":
      _report(workdir, compare)
    elif mode == "export":
      _export(workdir, format)
    elif mode == "predict":
      _predict(workdir, rest)
    elif config is None:
      fail("--config is missing; try --config=configs/digits.py, or --help")
    elif mode == "sweep":
      _sweep(workdir, cache, sweep, dry_run)
    else:
      _train_or_evaluate(mode, config, workdir, cache)
  except (ValueError, OSError, ImportError, ArithmeticError, MemoryError) as e:
    fail(str(e))


def _train_or_evaluate(mode, config, workdir, cache) -> None:
  """In a process that does nothing else."""
  from ovsw_jax.training import (
    compilation_cache,
    host_memory,
    mesh,
    settings,
    stages,
  )

  mesh.start_processes(config.distributed)
  host_memory.keep_freed_memory(
    # Images of 8x8 fit in the heaps of threads. Measured on two cores; many
    # threads would wait more for one heap.
    one_arena=config.data.name != "digits" and (os.cpu_count() or 1) <= 4
  )
  compilation_cache.enable(cache)
  mesh.meet()
  act = stages.train if mode == "train" else stages.evaluate_newest
  act(config, workdir or settings.default_workdir(config))


def _sweep(workdir, cache, sweeps: Sequence[str], dry_run: bool) -> None:
  """Makes all runs of a grid, or says which it would make."""
  from ml_collections import config_flags

  from ovsw_jax.training import sweep

  flag = flags.FLAGS["config"]
  base = sweep.Base(
    config_flags.get_config_filename(flag),
    tuple(
      f"--config.{field}={value}"
      for field, value in config_flags.get_override_values(flag).items()
    ),
  )
  program = [sys.argv[0]]
  if cache is not None:
    program.append(f"--compilation_cache={cache}")
  grid = sweep.axes(sweeps)
  given = pathlib.Path(workdir) if workdir else None
  place, runs = sweep.plan(base, grid, given, config_of)
  sweep.check_place(base, grid, place)
  if dry_run:
    print(sweep.dry_run(runs, program))
    return
  try:
    failed = sweep.run(base, grid, place, runs, program)
  except KeyboardInterrupt:
    print("stopped; the same command goes on", file=sys.stderr)
    sys.exit(130)
  if failed:
    print(f"error: {len(failed)} runs failed:", file=sys.stderr)
    print("\n".join(failed), file=sys.stderr)
    sys.exit(1)


def _export(workdir: str | None, format: str) -> None:
  """Writes a finished run's network, as bits, into its workdir."""
  from ovsw_jax import deploy
  from ovsw_jax.training import networks, outcome, replicas, settings

  if workdir is None:
    raise ValueError("--workdir is missing: the run whose network to export")
  place = settings.last_stage(pathlib.Path(workdir))
  result = outcome.read(place)
  if result is None or "dataset" not in result:
    raise ValueError(
      f"{place} holds no finished run; train it to its end first"
    )
  config = networks.saved_config(place, "--workdir")
  step, variables = networks.saved_variables(place)
  known = result["dataset"]
  names = ("method", "seed", "seeds", "epochs", "command", "versions", "device")
  told = deploy.export(
    networks.network(config, networks.method(config), len(known["classes"])),
    replicas.first(variables, config.replicas),
    place / EXPORTED[format],
    format=format,
    image_shape=tuple(known["image_shape"]),
    metadata={
      **{name: known[name] for name in ("classes", "mean", "std")},
      "accuracy": result["accuracy"],
      "provenance": {
        "config": config.name,
        "method": config.method,
        "step": step,
        **{name: result[name] for name in names if name in result},
      },
    },
  )
  print(f"{told['path']}, {told['bytes']:,} bytes")
  for note in told["notes"]:
    print(f"note: {note}")


def _predict(workdir: str | None, images: Sequence[str]) -> None:
  """Prints the likeliest classes of image files, with their probabilities."""
  from ovsw_jax import deploy
  from ovsw_jax.training import settings

  if workdir is None:
    raise ValueError(
      "--workdir is missing: of an exported run, or the file of a network"
    )
  if not images:
    raise ValueError("no image is named; write --mode=predict ... image.png")
  path = pathlib.Path(workdir)
  if not path.is_file():
    path = settings.last_stage(path) / EXPORTED["packed"]
    if not path.is_file():
      raise ValueError(
        f"{path.parent} holds no {path.name}; run --mode=export first"
      )
  found = deploy.predict(path, images)
  rows = zip(images, found.classes, found.probabilities, strict=True)
  for image, classes, probabilities in rows:
    likely = zip(classes, probabilities, strict=True)
    print(f"{image}: {', '.join(f'{name} {p:.1%}' for name, p in likely)}")


def _report(workdir: str | None, compare: Sequence[str]) -> None:
  """Without the training stack: a report needs the run's files alone."""
  from ovsw_jax import analysis

  if workdir is None:
    raise ValueError("--workdir is missing: the run that the report is about")
  print(f"report {analysis.report(workdir, compare)}")
