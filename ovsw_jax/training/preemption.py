"""A request to stop, SIGTERM, that is heard between two dispatches."""

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

STATUS = 128 + signal.SIGTERM  # exit status, as of a process that it ended


class Preemption:
  """Hears SIGTERM while it is open; use as a context manager.

  Of several processes all stop at the same step, whichever was told to.
  """

  def __init__(self):
    self._told = False
    self._before: Any = None

  def __enter__(self) -> "Preemption":
    # Python hears signals in the main thread alone; JAX's own handler serves
    # where several processes have to agree.
    if self._alone() and self._main_thread():
      self._before = signal.signal(signal.SIGTERM, self._hear)
    return self

  def __exit__(self, *_) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
      self._before = None

  def requested(self, step: int) -> bool:
    """Whether to stop after `step` steps; to be asked by every process."""
    if self._alone():
      return self._told
    return multihost_utils.reached_preemption_sync_point(step)

  def _hear(self, *_) -> None:
    self._told = True

  @staticmethod
  def _alone() -> bool:
    return jax.process_count() == 1

  @staticmethod
  def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
