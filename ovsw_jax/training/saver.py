"""Checkpoints written while training goes on."""

import pathlib
from concurrent import futures
from typing import Any

import jax

from ovsw_jax.training import checkpoint


class Saver:
  """Saves one checkpoint at a time in a thread of its own.

  What went wrong in saving is raised by the next call of `save` or `wait`. Of
  several processes each saves in the caller's thread, since saving synchronizes
  them: what two threads dispatch runs at once on a process's only CPU device,
  and the processes would take each other's numbers for those of the step that
  is under way.
  """

  def __init__(self, directory: pathlib.Path, keep: int):
    self._directory, self._keep = directory, keep
    self._thread = futures.ThreadPoolExecutor(1, "checkpoint")
    self._saving: futures.Future | None = None

  def save(self, step: int, state: Any) -> None:
    """Begins to save a state whose buffers no step is given."""
    self.wait()
    if jax.process_count() > 1:
      checkpoint.save(self._directory, step, state, keep=self._keep)
      return
    self._saving = self._thread.submit(
      checkpoint.save, self._directory, step, state, keep=self._keep
    )

  def wait(self) -> None:
    """Waits for what is being saved; raises what went wrong."""
    saving, self._saving = self._saving, None
    if saving is not None:
      saving.result()

  def close(self) -> None:
    """Waits, and drops an error that something else is being raised over."""
    self._thread.shutdown(wait=True)
