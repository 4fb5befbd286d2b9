"""Contestants in processes of their own, driven in turns through pipes.

Two frameworks in one process share what decides their speed: the heap and its
settings, the OpenMP and Eigen thread pools with their waiting threads, the
memory that each takes of an accelerator. In processes of their own each has
these to itself, and only one of them works at a time, since the others wait for
their turn in a read. A step is timed inside the worker, so the pipe costs none
of it.
"""

import importlib
import multiprocessing
import os
import traceback
from typing import Any

from benchmarks import timing


class WorkerError(RuntimeError):
  """What went wrong in a worker, in a line; a note has its traceback."""


class Worker:
  """A contestant in a process of its own; use as a context manager.

  Args:
    factory: "module:function" that builds it there: an object with
      `run(steps)`, which waits for the last of them and returns their number,
      and any other methods.
    arguments: of the factory; must pickle.
    threads: so many CPU cores are the process's; None for all.
    allocator: see `ovsw_jax.training.host_memory`.
  """

  def __init__(
    self,
    factory: str,
    arguments: dict[str, Any],
    *,
    threads: int | None = None,
    allocator: str = "tuned",
  ):
    context = multiprocessing.get_context("spawn")
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(
      target=_serve,
      args=(theirs, factory, arguments, threads, allocator),
      daemon=True,
    )
    self._process.start()
    theirs.close()

  def __enter__(self) -> "Worker":
    try:
      self._answer()  # built, or not
    except BaseException:
      self.close()
      raise
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def time(self, steps: int) -> float:
    """Seconds a step, over at least so many; a `timing.Turn`."""
    self._pipe.send(("time", steps))
    return self._answer()

  def call(self, name: str, *arguments) -> Any:
    """Calls a method of the contestant."""
    self._pipe.send((name, *arguments))
    return self._answer()

  def close(self) -> None:
    """Ends the process; a second call does nothing."""
    self._pipe.close()
    self._process.join(timeout=10)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()

  def _answer(self) -> Any:
    try:
      good, value, note = self._pipe.recv()
    except EOFError:
      self._process.join(timeout=10)
      raise WorkerError(
        f"a worker died with exit code {self._process.exitcode}; -9 means that "
        "the machine ran out of memory: try a smaller batch"
      ) from None
    if not good:
      error = WorkerError(value)
      if note:
        error.add_note(note)
      raise error
    return value


def _serve(pipe, factory, arguments, threads, allocator) -> None:
  """The worker's side: builds the contestant and does as it is told."""
  try:
    # Before anything starts a thread: both XLA and PyTorch size their pools by
    # the cores that the process may use.
    if threads and hasattr(os, "sched_setaffinity"):
      cores = sorted(os.sched_getaffinity(0))[:threads]
      os.sched_setaffinity(0, cores)
    if allocator == "tuned":
      from ovsw_jax.training import host_memory

      host_memory.keep_freed_memory(one_arena=True)
    # Or the first on an accelerator would take most of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    module, _, function = factory.partition(":")
    contestant = getattr(importlib.import_module(module), function)(**arguments)
    pipe.send((True, None, ""))
    while True:
      try:
        name, *rest = pipe.recv()
      except EOFError:
        return
      if name == "time":
        pipe.send((True, timing.measure(contestant.run, *rest), ""))
      else:
        pipe.send((True, getattr(contestant, name)(*rest), ""))
  except KeyboardInterrupt:
    return
  except Exception as error:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    foreseen = isinstance(error, ValueError | ImportError | OSError)
    pipe.send((False, text, "" if foreseen else traceback.format_exc()))
