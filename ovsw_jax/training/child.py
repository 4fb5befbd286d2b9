"""A run in a process of its own, whose output goes into a log."""

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

_TAIL_BYTES = 2000
_PATIENCE = 20  # seconds to save and end, before it is killed


def run(
  command: Sequence[str],
  log: pathlib.Path,
  watch: Callable[[], bool],
  *,
  cwd: pathlib.Path | None = None,
  every: float = 0.2,
) -> int | None:
  """Runs a command to its end, or until `watch` says that it should stop.

  Whatever ends the waiting ends the process, which is asked first.

  Args:
    command: with its arguments.
    log: file that its output is added to.
    watch: called all the time; True stops the command.
    cwd: where it runs.
    every: seconds between calls of `watch`.

  Returns:
    The exit status, or None if `watch` stopped it.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open("a") as file:
    process = subprocess.Popen(
      command,
      cwd=cwd,
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
    )
    try:
      while process.poll() is None:
        if watch():
          return None
        time.sleep(every)
    finally:
      if process.poll() is None:
        process.terminate()
        try:
          process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
          process.kill()
          process.wait()
  return process.returncode


def end_at_sigterm() -> None:
  """Has this process end at SIGTERM as by itself, and its child with it."""
  status = 128 + signal.SIGTERM
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))


def last_lines(log: pathlib.Path, count: int = 1) -> list[str]:
  """The last lines of a log that are not empty; it may be being written."""
  if not log.exists():
    return []
  with log.open("rb") as file:
    file.seek(max(log.stat().st_size - _TAIL_BYTES, 0))
    lines = file.read().decode(errors="replace").splitlines()
  return [line for line in lines if line.strip()][-count:]
