"""What `main.py` does once it has read its flags."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging


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
  except AttributeError as error:
    field = getattr(error.args[0], "args", error.args)[0].replace("\n", ". ")
    fail(f"unknown config field {field}; configs/base.py lists them all")
  except (flags.Error, OSError) as error:
    while "Traceback" in str(error) and error.__context__ is not None:
      error = error.__context__  # what get_config itself said
    fail(str(error).splitlines()[-1].strip())
  return rest


def run(
  mode: str,
  config: Any,
  workdir: str | None,
  cache: str | None,
  compare: Sequence[str],
  rest: Sequence[str],
) -> None:
  """Does what a command line asks for, or fails in a line.

  Args:
    mode: "train", "evaluate" or "report".
    config: nested config, as `configs/*.py` make them; None if not given.
    workdir: place of the run; of one that is trained or evaluated, the
      config's own if not given.
    cache: place of compiled programs, as `compilation_cache.enable` takes it.
    compare: further workdirs of a report.
    rest: what stands on the command line beside flags.
  """
  if rest:
    fail(f"unexpected argument {rest[0]!r}; flags are written --name=value")
  if compare and mode != "report":
    fail("--compare is of --mode=report alone")
  try:
    if mode == "report":
      _report(workdir, compare)
    elif config is None:
      fail("--config is missing; try --config=configs/digits.py, or --help")
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
    # Measured on two cores; many threads would wait more for one heap.
    one_arena=config.train.batch_size >= 128 and (os.cpu_count() or 1) <= 4
  )
  compilation_cache.enable(cache)
  act = stages.train if mode == "train" else stages.evaluate_newest
  act(config, workdir or settings.default_workdir(config))


def _report(workdir: str | None, compare: Sequence[str]) -> None:
  """Without the training stack: a report needs the run's files alone."""
  from ovsw_jax import analysis

  if workdir is None:
    raise ValueError("--workdir is missing: the run that the report is about")
  print(f"report {analysis.report(workdir, compare)}")
