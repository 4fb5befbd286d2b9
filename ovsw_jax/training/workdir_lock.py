"""One process trains in a workdir at a time."""

import contextlib
import errno
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import IO

import jax

try:
  import fcntl
except ImportError:  # not a POSIX system
  fcntl = None

LOCK_FILE = "lock"
# Of file systems without locks; there two processes are not told apart.
_WITHOUT = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
  """Holds the workdir's lock, which ends with the process, however it ends.

  Of the processes of one run the first holds it.

  Raises:
    ValueError: if another process holds it.
  """
  if fcntl is None or jax.process_index() != 0:
    yield
    return
  workdir.mkdir(parents=True, exist_ok=True)
  with (workdir / LOCK_FILE).open("a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno not in _WITHOUT:
        raise ValueError(
          f"{workdir} is in use by {_name(file)}; wait for it, or choose "
          "another --workdir"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    yield


def holder(workdir: pathlib.Path) -> str | None:
  """Which process holds the workdir's lock; None if none does.

  One that asks for the lock in this very moment may be refused.
  """
  path = workdir / LOCK_FILE
  if fcntl is None or not path.exists():
    return None
  with path.open() as file:
    try:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
      return None if error.errno in _WITHOUT else _name(file)
  return None


def _name(file: IO[str]) -> str:
  """The process that has written itself into a lock's file."""
  file.seek(0)
  return file.read().strip() or "another process"
