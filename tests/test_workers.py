"""Processes that the benchmarks drive through pipes."""

import os
import subprocess
import sys

import pytest

from benchmarks import workers


class Contestant:
  """What a worker of these tests builds."""

  def __init__(self, answer=0):
    self.answer = answer

  def run(self, steps):
    return 2 * steps

  def cores(self):
    return len(os.sched_getaffinity(0))

  def fail(self):
    raise KeyError("an error of its own")

  def refuse(self):
    raise ValueError("a bad value\nmore")

  def leave(self):
    os._exit(7)


def contestant(threads=None, **arguments):
  return workers.Worker(
    "tests.test_workers:Contestant", arguments, threads=threads
  )


def test_a_worker_is_timed_and_asked():
  with contestant(threads=1, answer=3) as worker:
    assert 0 <= worker.time(1000) < 1
    assert worker.call("run", 4) == 8
    if hasattr(os, "sched_getaffinity"):
      assert worker.call("cores") == 1
  worker.close()  # a second call does nothing


@pytest.mark.parametrize(
  ("method", "message", "notes"),
  [
    ("fail", "an error of its own", 1),
    ("refuse", "^a bad value$", 0),
    ("leave", "died with exit code 7", 0),
  ],
)
def test_a_worker_that_fails_says_why(method, message, notes):
  with (
    pytest.raises(workers.WorkerError, match=message) as error,
    contestant() as worker,
  ):
    worker.call(method)
  assert len(getattr(error.value, "__notes__", ())) == notes


def test_a_worker_that_cannot_be_built_says_why():
  with (
    pytest.raises(workers.WorkerError, match="unexpected keyword"),
    contestant(question=1),
  ):
    pass


def test_a_benchmark_is_there_without_jax():
  """Its workers import it as well, PyTorch's among them."""
  script = "import sys, benchmarks.step_time; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", script]).returncode == 0
