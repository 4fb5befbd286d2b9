"""Command-line arguments that several benchmarks have."""

import argparse
import pathlib
import sys
from collections.abc import Callable, Iterable

from benchmarks import machine, workers, workload


def parser(name: str, text: str) -> argparse.ArgumentParser:
  """A parser whose help is a module's docstring."""
  return argparse.ArgumentParser(
    prog=f"python -m benchmarks.{name}",
    description=text,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )


def names(known: Iterable[str]) -> Callable[[str], list[str]]:
  """Comma-separated names out of those known; an empty text is none."""
  known = list(known)

  def parse(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    for name in chosen:
      if name not in known:
        raise argparse.ArgumentTypeError(
          f"unknown {name!r}; known: {', '.join(known)}"
        )
    return chosen

  return parse


def count(text: str) -> int:
  """A whole number above 0."""
  if not text.strip().isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
  return int(text)


def counts(text: str) -> list[int]:
  """Comma-separated whole numbers above 0."""
  return [count(part) for part in text.split(",")]


def seconds(text: str) -> float:
  """A number of seconds, or of minutes, not below 0."""
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value < float("inf"):
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
  return value


def add_workloads(
  parser: argparse.ArgumentParser,
  *,
  known: Iterable[str] = tuple(workload.NETWORKS),
  models: str = "cifar_resnet20,cifar_resnet18",
  batches: str = "128,32",
) -> None:
  """Adds what `workloads` reads, with these defaults."""
  parser.add_argument(
    "--models",
    type=names(known),
    default=models,
    metavar="NAMES",
    help=f"comma-separated: {', '.join(known)} (default: %(default)s)",
  )
  parser.add_argument(
    "--batches",
    type=counts,
    default=batches,
    metavar="SIZES",
    help="batch size of each model, or one for all (default: %(default)s)",
  )
  parser.add_argument(
    "--dtypes",
    type=names(workload.DTYPES),
    default="float32",
    metavar="NAMES",
    help=f"comma-separated: {', '.join(workload.DTYPES)} (default: float32)",
  )
  parser.add_argument(
    "--image-size",
    type=count,
    metavar="PIXELS",
    help="side of the images (default: 32, or 224 for resnet18 and resnet34)",
  )
  parser.add_argument(
    "--smoke",
    action="store_true",
    help="seconds instead of minutes, to see that it works here: a short "
    "ResNet on tiny images, and numbers that mean nothing",
  )


def workloads(
  parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> list[workload.Workload]:
  """The workloads that the arguments ask for; a mistake ends the program."""
  blocks = None
  if arguments.smoke:
    arguments.models, arguments.batches = ["cifar_resnet20"], [4]
    arguments.image_size, blocks = 8, (1, 1)
  try:
    return workload.workloads(
      arguments.models,
      arguments.batches,
      arguments.dtypes,
      image_size=arguments.image_size,
      blocks=blocks,
    )
  except ValueError as error:
    parser.error(f"--batches: {error}")


def add_turns(parser: argparse.ArgumentParser) -> None:
  """Adds `--chunk` and `--turn-seconds`."""
  parser.add_argument(
    "--chunk",
    type=count,
    help="steps that one dispatch of ours makes (default: as main.py, 1 on a "
    "CPU and 50 elsewhere)",
  )
  parser.add_argument(
    "--turn-seconds",
    type=seconds,
    default=0.2,
    help="a turn makes so many steps that it takes about as long, at least one "
    "(default: %(default)s)",
  )


def add_rounds(parser: argparse.ArgumentParser, rounds: int = 30) -> None:
  """Adds `--rounds`."""
  parser.add_argument(
    "--rounds",
    type=count,
    default=rounds,
    help="samples of each contestant (default: %(default)s)",
  )


def add_process(parser: argparse.ArgumentParser) -> None:
  """Adds `--threads` and `--allocator`."""
  parser.add_argument(
    "--threads",
    type=count,
    help=f"CPU cores to use (default: all, {machine.cores()} here)",
  )
  parser.add_argument(
    "--allocator",
    choices=("tuned", "default"),
    default="tuned",
    help="glibc's malloc as the trainer sets it, or as it comes; of all "
    "contestants alike (default: %(default)s)",
  )


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
  """Adds `--out`, for the benchmark of that name."""
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path("runs", "benchmarks", f"{name}.json"),
    help="JSON file to write (default: %(default)s)",
  )


def start(main: Callable[[], None]) -> None:
  """Runs a script; what goes wrong is a line, not a traceback, and status 2.

  SIGTERM ends it as by itself, so that it ends the processes it has started.
  """
  # Here, as a worker imports this module too, and PyTorch's has no use for JAX.
  from ovsw_jax.training import child

  child.end_at_sigterm()
  try:
    main()
  except (workers.WorkerError, ValueError, OSError) as error:
    for note in getattr(error, "__notes__", ()):
      print(note, file=sys.stderr)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    sys.exit(130)
