"""One process trains in a workdir at a time."""

import contextlib
import errno
import os
import pathlib
import socket
from collections.abc import Iterator

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
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise ValueError(
          f"{workdir} is in use by {holder}; wait for it, or choose another "
          "--workdir"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    yield
