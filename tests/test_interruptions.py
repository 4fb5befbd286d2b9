"""What may happen to a run: SIGTERM, a second process, infinite losses."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from ovsw_jax.training import (
  checkpoint,
  loop,
  preemption,
  records,
  saver,
  workdir_lock,
)
from tests.test_loop import assert_same_bits, lines, timeless
from tests.test_step import batch, compiled, recipe, start

pytestmark = pytest.mark.usefixtures("tiny")


def smoke(**fields):
  config = digits.get_config("ovsw,smoke")
  config.mesh.data = 1
  config.data.limit = 64
  config.train.epochs = 3
  config.update_from_flattened_dict(fields)
  return config


class StopAt:
  """A preemption that comes after so many steps."""

  def __init__(self, step):
    self._step = step

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def requested(self, step):
    return step >= self._step


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("at", [2, 4, 6])
def test_a_stop_goes_on_to_the_same_bits_and_lines(
  tmp_path, monkeypatch, at, chunk
):
  """Four steps an epoch: within the first, at its end, within the second."""
  config = smoke(**{"train.chunk": chunk})
  whole = loop.train_and_evaluate(config, tmp_path / "whole")
  with monkeypatch.context() as patch:
    patch.setattr(preemption, "Preemption", lambda: StopAt(at))
    with pytest.raises(SystemExit) as stopped:
      loop.train_and_evaluate(config, tmp_path / "cut")
  assert stopped.value.code == 143
  assert checkpoint.steps(tmp_path / "cut" / "checkpoints")[-1] == at
  resumed = loop.train_and_evaluate(config, tmp_path / "cut")
  assert_same_bits(resumed, whole)
  assert timeless(lines(tmp_path / "cut")) == timeless(
    lines(tmp_path / "whole")
  )


def test_a_stop_in_the_last_step_is_too_late(tmp_path, monkeypatch):
  monkeypatch.setattr(preemption, "Preemption", lambda: StopAt(12))
  loop.train_and_evaluate(smoke(), tmp_path)
  assert (tmp_path / "result.json").exists()


def test_what_an_epoch_came_to_is_of_its_step_alone(tmp_path):
  chunks = [{"loss": np.array([1.0, 2.0])}, {"loss": np.array([3.0])}]
  records._write_so_far(tmp_path, 7, chunks)
  (found,) = records._read_so_far(tmp_path, 7)
  assert found["loss"].tolist() == [1.0, 2.0, 3.0]
  assert records._read_so_far(tmp_path, 4) == []


def test_sigterm_is_heard_between_dispatches():
  with preemption.Preemption() as stop:
    assert not stop.requested(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested(2)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_workdir_has_one_process(tmp_path):
  """The lock of another process refuses, and ends with it."""
  script = (
    "import pathlib, sys, time\n"
    "from ovsw_jax.training import workdir_lock\n"
    "with workdir_lock.held(pathlib.Path(sys.argv[1])):\n"
    "  print('held', flush=True)\n"
    "  time.sleep(60)\n"
  )
  other = subprocess.Popen(
    [sys.executable, "-c", script, str(tmp_path)],
    stdout=subprocess.PIPE,
    cwd=pathlib.Path(__file__).parent.parent,
  )
  assert other.stdout is not None
  try:
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match=f"in use by process {other.pid} on"):
      loop.train_and_evaluate(smoke(), tmp_path)
    assert not (tmp_path / "config.json").exists()
  finally:
    other.kill()
    other.communicate()
  loop.train_and_evaluate(smoke(), tmp_path)


def test_the_lock_can_be_taken_again(tmp_path):
  assert workdir_lock.holder(tmp_path / "none") is None
  assert not (tmp_path / "none").exists()
  for _ in range(2):
    with workdir_lock.held(tmp_path):
      text = (tmp_path / workdir_lock.LOCK_FILE).read_text()
      assert text.startswith(f"process {os.getpid()} on ")
      assert workdir_lock.holder(tmp_path) == text.strip()
    assert workdir_lock.holder(tmp_path) is None


def test_a_save_that_fails_stops_the_run(tmp_path, monkeypatch):
  def full(directory, step, tree, *, keep):
    raise OSError(f"Checkpoint {step} could not be written: disk full.")

  monkeypatch.setattr(checkpoint, "save", full)
  with pytest.raises(OSError, match="4 could not be written: disk full"):
    loop.train_and_evaluate(smoke(), tmp_path)
  assert not (tmp_path / "result.json").exists()


def test_saving_is_of_the_state_that_was_given(tmp_path):
  writer = saver.Saver(tmp_path, keep=2)
  for step in (1, 2, 3):
    writer.save(step, {"x": jnp.full(5, step)})
  writer.wait()
  writer.close()
  assert checkpoint.steps(tmp_path) == [2, 3]
  _, tree = checkpoint.restore_latest(tmp_path, {"x": jnp.zeros(5, jnp.int32)})
  assert tree["x"].tolist() == [3] * 5


@pytest.mark.parametrize(("processes", "own"), [(1, False), (2, True)])
def test_of_several_processes_saving_is_the_caller_s(
  tmp_path, monkeypatch, processes, own
):
  """Two threads of a process must not both exchange numbers with others."""
  threads = []
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  monkeypatch.setattr(
    checkpoint,
    "save",
    lambda *_, **__: threads.append(threading.current_thread()),
  )
  writer = saver.Saver(tmp_path, keep=2)
  writer.save(1, {})
  writer.wait()
  writer.close()
  (thread,) = threads
  assert (thread is threading.current_thread()) == own


def test_a_step_that_is_no_number_changes_nothing_but_the_count():
  r = recipe(skip_non_finite=True)
  take = compiled(r)
  good, metrics = take(start(r), *batch(), jax.random.key(1))
  assert metrics["skipped"] == 0
  poisoned = good.replace(
    params={
      **good.params,
      "head": jax.tree.map(lambda x: x * jnp.nan, good.params["head"]),
    }
  )
  after, metrics = take(poisoned, *batch(), jax.random.key(1))
  assert metrics["skipped"] == 1
  assert not np.isfinite(metrics["loss"])
  assert int(after.step) == int(poisoned.step) + 1
  assert_same_bits(after.replace(step=poisoned.step), poisoned)


def test_skipping_costs_a_good_step_nothing():
  s, data, key = start(recipe()), batch(), jax.random.key(1)
  plain, _ = compiled(recipe())(s, *data, key)
  skipping, _ = compiled(recipe(skip_non_finite=True))(s, *data, key)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    plain,
    skipping,
  )


def overflowing(monkeypatch, steps):
  """A loss that is infinite in some steps."""
  update = loop.train_step

  def at_times(state, images, labels, key, recipe, **kwargs):
    bad = jnp.isin(state.step, jnp.array(steps))
    scaled = state.replace(
      params=jax.tree.map(lambda p: jnp.where(bad, jnp.inf, p), state.params)
    )
    after, metrics = update(scaled, images, labels, key, recipe, **kwargs)
    # What a skipped step leaves alone is what it was given.
    keep = lambda new, old: jnp.where(bad, old, new)
    return jax.tree.map(keep, after.replace(step=state.step), state).replace(
      step=state.step + 1
    ), metrics

  monkeypatch.setattr(loop, "train_step", at_times)


def test_skipped_steps_are_counted_and_not_averaged(tmp_path, monkeypatch):
  overflowing(monkeypatch, [1, 2, 9])
  loop.train_and_evaluate(smoke(**{"train.skip_non_finite": 2}), tmp_path)
  ends = lines(tmp_path, "eval")
  assert [end["skipped_fraction"] for end in ends] == [0.5, 0.0, 0.25]
  assert all(np.isfinite(end["train_loss"]) for end in ends)
  assert json.loads((tmp_path / "result.json").read_text())["steps"] == 12


def test_too_many_in_a_row_end_the_run(tmp_path, monkeypatch):
  overflowing(monkeypatch, [5, 6, 7])
  with pytest.raises(FloatingPointError, match=r"3 steps in a row, .* step 8;"):
    loop.train_and_evaluate(smoke(**{"train.skip_non_finite": 2}), tmp_path)


def test_without_leave_the_first_ends_the_run(tmp_path, monkeypatch):
  overflowing(monkeypatch, [5])
  with pytest.raises(FloatingPointError, match="at step 6"):
    loop.train_and_evaluate(smoke(), tmp_path)
