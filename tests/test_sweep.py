"""Sweeps: what is planned, made, made again, and written down."""

import contextlib
import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from ml_collections import ConfigDict

from ovsw_jax import commands
from ovsw_jax.training import (
  child,
  settings,
  sweep,
  sweep_table,
  workdir_lock,
)

# ml_collections loads config files in a way that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")

ROOT = pathlib.Path(__file__).parent.parent
BASE = sweep.Base(f"{ROOT}/configs/digits.py:smoke", ())
GRID = {"optimizer.learning_rate": ["0.03", "0.1"], "seed": ["0", "1"]}

# A main.py without JAX: it locks its workdir and writes what a run leaves, or
# fails, or hangs.
PROGRAM = """
import fcntl, json, os, pathlib, sys, time
arguments = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[1:])
workdir = pathlib.Path(arguments["workdir"])
here = pathlib.Path(__file__).parent
workdir.mkdir(parents=True, exist_ok=True)
lock = (workdir / "lock").open("a+")
try:
  fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
  sys.exit("error: in use")
lock.truncate(0)
print("process", os.getpid(), "on earth", file=lock, flush=True)
(workdir / "config.json").write_text(
  json.dumps(json.loads((here / "configs.json").read_text())[workdir.name])
)
with (here / "made.txt").open("a") as file:
  file.write(workdir.name + "\\\\n")
print("begins")
rate = float(arguments["config.optimizer.learning_rate"])
if (here / "bad").exists() and rate == 0.03:
  print("error: no luck", file=sys.stderr)
  sys.exit(2)
while (here / "slow").exists():
  time.sleep(0.05)
seed = int(arguments["config.seed"])
with (workdir / "metrics.jsonl").open("w") as file:
  for epoch, accuracy in ((1, 0.9), (2, rate + seed / 10)):
    record = {"kind": "eval", "step": epoch, "epoch": epoch, "seconds": 4.0}
    record |= {"accuracy": accuracy, "never_flipped_fraction": 0.5}
    file.write(json.dumps(record) + "\\\\n")
result = {"accuracy": rate + seed / 10, "seconds": 8.0}
(workdir / "result.json").write_text(json.dumps(result))
""".replace("\\\\n", "\\n")


@pytest.fixture
def planned(tmp_path):
  """Place, runs and the program that makes them."""
  place, runs = sweep.plan(BASE, GRID, tmp_path / "sw", commands.config_of)
  program = tmp_path / "fake.py"
  program.write_text(PROGRAM)
  configs = {r.workdir.name: settings.resolved(r.config) for r in runs}
  (tmp_path / "configs.json").write_text(json.dumps(configs))
  return place, runs, [str(program)]


@pytest.fixture(autouse=True)
def signals():
  """A sweep sets what SIGTERM does."""
  before = signal.getsignal(signal.SIGTERM)
  yield
  signal.signal(signal.SIGTERM, before)


def make(planned):
  place, runs, program = planned
  return sweep.run(BASE, GRID, place, runs, program)


def made(tmp_path):
  return (tmp_path / "made.txt").read_text().split()


def rows(place):
  with (place / sweep_table.CSV_FILE).open() as file:
    return list(csv.DictReader(file))


def test_every_combination_is_planned_once(planned):
  place, runs, _ = planned
  assert [tuple(run.fields.values()) for run in runs] == [
    (0.03, 0),
    (0.03, 1),
    (0.1, 0),
    (0.1, 1),
  ]
  assert len({run.workdir for run in runs}) == 4
  assert all(run.workdir.parent == place for run in runs)
  # --compare takes workdirs apart at commas.
  assert not any("," in run.workdir.name for run in runs)
  assert runs[3].config.optimizer.learning_rate == 0.1


def test_a_method_brings_its_own_arguments():
  grid = {"method": ["vanilla", "irnet+ovsw"]}
  base = BASE._replace(overrides=("--config.train.epochs=3",))
  place, runs = sweep.plan(base, grid, None, commands.config_of)
  assert place == pathlib.Path("runs/digits_smoke_sweep")
  assert [run.config.method for run in runs] == ["vanilla", "irnet+ovsw"]
  assert (
    not runs[0].config.method_args and "delta" in runs[1].config.method_args
  )
  assert all(run.config.train.epochs == 3 for run in runs)


def test_results(planned, tmp_path, capsys):
  assert make(planned) == []
  place = planned[0]
  found = rows(place)
  assert [row["test_accuracy"] for row in found] == [
    "0.03",
    "0.13",
    "0.1",
    "0.2",
  ]
  assert {row["best_on_test"] for row in found} == {"0.9"}
  assert {row["status"] for row in found} == {"finished"}
  assert (
    found[1]["optimizer.learning_rate"] == "0.03" and found[1]["seed"] == "1"
  )
  table = (place / sweep_table.MARKDOWN_FILE).read_text()
  assert "| 0.03 | 2 | 8.00 ± 7.07 | 50.00 ± 0.00 | 8 | finished |" in table
  assert table in capsys.readouterr().out
  # Again: nothing is made, and the tables are there as before.
  before = made(tmp_path)
  assert make(planned) == [] and made(tmp_path) == before
  assert rows(place) == found


def test_values_are_not_read_off_directories(planned):
  make(planned)
  place, runs, _ = planned
  renamed = place / "whatever"
  runs[0].workdir.rename(renamed)
  sweep_table.write(place, [({"seed": 7}, renamed)], {})
  (row,) = rows(place)
  assert row["seed"] == "7" and row["test_accuracy"] == "0.03"


def test_a_run_that_fails_stops_no_other(planned, tmp_path):
  (tmp_path / "bad").touch()
  failed = make(planned)
  assert len(failed) == 2 and all(
    "no luck (status 2" in line for line in failed
  )
  assert [row["status"][:8] for row in rows(planned[0])] == [
    "failed: ",
    "failed: ",
    "finished",
    "finished",
  ]
  (tmp_path / "bad").unlink()
  assert make(planned) == []
  assert len(made(tmp_path)) == 6  # the two that failed once more


def in_its_first_run(planned, tmp_path):
  """A process that sweeps, whose first run goes on until `slow` is gone."""
  (tmp_path / "slow").touch()
  place, runs, program = planned
  script = (
    # Tests that run in the background of a shell are not interrupted.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "import pathlib; from ovsw_jax import commands; "
    "from ovsw_jax.training import sweep; "
    f"base = sweep.Base({BASE.config!r}, ()); grid = {GRID!r}; "
    f"place = pathlib.Path({str(place)!r}); "
    "place, runs = sweep.plan(base, grid, place, commands.config_of); "
    f"sweep.run(base, grid, place, runs, {program!r})"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL
  )
  log = runs[0].workdir.with_name(f"{runs[0].workdir.name}.log")
  deadline = time.monotonic() + 60
  while not (log.exists() and "begins" in log.read_text()):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.05)
  return process


@pytest.mark.parametrize(
  "sign", (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
)
def test_a_sweep_that_is_stopped_goes_on(planned, tmp_path, sign):
  place, runs, program = planned
  process = in_its_first_run(planned, tmp_path)
  process.send_signal(sign)
  assert process.wait(timeout=30) != 0
  (tmp_path / "slow").unlink()
  assert sweep.run(BASE, GRID, place, runs, program) == []
  assert (
    len(rows(place)) == 4 and made(tmp_path).count(runs[1].workdir.name) == 1
  )


@pytest.mark.parametrize("ends_well", (True, False))
def test_a_sweep_waits_for_the_run_that_a_killed_one_left(
  planned, tmp_path, capsys, ends_well
):
  runs = planned[1]
  process = in_its_first_run(planned, tmp_path)
  process.kill()
  process.wait()
  holder = workdir_lock.holder(runs[0].workdir)
  assert re.fullmatch(r"process \d+ on earth", holder)
  left = int(holder.split()[1])

  def end():
    if not ends_well:
      os.kill(left, signal.SIGKILL)
    (tmp_path / "slow").unlink()

  timer = threading.Timer(1.0, end)
  timer.start()
  try:
    assert make(planned) == []
  finally:
    timer.join()
  said = capsys.readouterr().out
  assert said.count(f"still going in {holder}; waiting for it\n") == 1
  assert said.count("without a result; goes on here\n") == 1 - ends_well
  # Its own result is taken, if it has one.
  assert made(tmp_path).count(runs[0].workdir.name) == 2 - ends_well
  assert {row["status"] for row in rows(planned[0])} == {"finished"}


def test_a_run_that_another_process_begins_just_before_is_waited_for(
  planned, tmp_path, monkeypatch
):
  """Nobody holds the lock when the sweep looks, and it is refused."""
  run, timers = child.run, []

  def late(*args):
    if not timers:
      lock = contextlib.ExitStack()
      lock.enter_context(workdir_lock.held(planned[1][0].workdir))
      timers.append(threading.Timer(1.0, lock.close))
      status = run(*args)
      timers[0].start()
      return status
    return run(*args)

  monkeypatch.setattr(child, "run", late)
  assert make(planned) == []
  log = planned[1][0].workdir.with_name(f"{planned[1][0].workdir.name}.log")
  assert log.read_text().splitlines() == ["error: in use", "begins"]


def test_a_stage_that_another_process_trains_is_the_run(tmp_path):
  config = ConfigDict({"stages": {"1_first": {}, "2_second": {}}})
  one = sweep.Planned({}, (), tmp_path, config)
  assert sweep._holder(one) is None
  with workdir_lock.held(tmp_path / "2_second"):
    assert sweep._holder(one).startswith(f"process {os.getpid()} on ")
  assert sweep._holder(one) is None


def test_dry_run(planned):
  place, runs, program = planned
  text = sweep.dry_run(runs, program)
  assert text.count("python ") == 4 and "known once one is finished" in text
  assert not place.exists()
  make(planned)
  assert sweep.dry_run(runs, program) == "all 4 runs are finished"
  (runs[2].workdir / "result.json").unlink()
  text = sweep.dry_run(runs, program)
  assert "1 of 4 runs are left, about 8s at the 8s of those finished" in text


def test_a_sweep_may_gain_values_and_no_more(planned):
  place = planned[0]
  make(planned)
  more = GRID | {"seed": ["0", "1", "2"]}
  sweep.check_place(BASE, more, place)
  other = sweep.Base(BASE.config, ("--config.train.epochs=9",))
  for base, grid in (
    (other, GRID),
    (BASE, GRID | {"seed": ["0"]}),
    (BASE, {"seed": ["0", "1"]}),
  ):
    with pytest.raises(ValueError, match="holds another sweep, --config="):
      sweep.check_place(base, grid, place)


def test_places_that_are_no_sweep(tmp_path):
  (tmp_path / "file").touch()
  for place in (tmp_path, tmp_path / "file"):
    with pytest.raises(ValueError, match="holds no sweep; choose a new one"):
      sweep.check_place(BASE, GRID, place)
  (tmp_path / "d").mkdir()
  (tmp_path / "d" / sweep.SWEEP_FILE).write_text("{")
  with pytest.raises(ValueError, match=r"sweep\.json is damaged"):
    sweep.check_place(BASE, GRID, tmp_path / "d")


def test_a_run_of_another_config_is_refused(planned):
  make(planned)
  path = planned[1][0].workdir / "config.json"
  path.write_text(path.read_text().replace('"epochs": 2', '"epochs": 5'))
  with pytest.raises(ValueError, match=r"run of another config: train\.epochs"):
    make(planned)


@pytest.mark.parametrize(
  ("sweeps", "message"),
  (
    ([], "--sweep is missing"),
    (["seed"], "--sweep=seed is not FIELD=VALUE"),
    (["seed=1,"], "is not FIELD=VALUE"),
    (["seed=1,1"], "has the value 1 twice"),
    (["seed=1", "config.seed=2"], "names seed twice"),
  ),
)
def test_sweeps_that_are_written_wrong(sweeps, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    sweep.axes(sweeps)


@pytest.mark.parametrize(
  ("field", "values", "message"),
  (
    ("lr", ["1"], "with lr=1: unknown config field 'lr'"),
    ("seed", ["a"], "invalid literal for int"),
    ("seed", ["-1"], "seed must be a whole number >= 0, got -1"),
    ("optimizer.learning_rate", ["0.1", "0.10"], "written differently"),
    ("method", ["vanilla", "foo"], "unknown config argument 'foo'"),
  ),
)
def test_values_that_no_config_has(field, values, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    sweep.plan(BASE, {field: values}, None, commands.config_of)


def test_a_real_sweep(tmp_path):
  arguments = [
    "main.py",
    f"--config={ROOT}/configs/digits.py:smoke",
    "--config.train.epochs=1",
    "--config.schedule.warmup_epochs=0",
    "--mode=sweep",
    "--sweep=seed=3",
    f"--compilation_cache={tmp_path}/xla",
    f"--workdir={tmp_path}/sw",
  ]
  run = subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert run.returncode == 0, run.stderr
  assert "sweep    1 run, 0 finished" in run.stdout
  (row,) = rows(tmp_path / "sw")
  assert row["status"] == "finished" and row["seed"] == "3"
  workdir = tmp_path / "sw" / row["workdir"]
  result = json.loads((workdir / "result.json").read_text())
  accuracy = pytest.approx(result["accuracy"], abs=1e-6)
  assert float(row["test_accuracy"]) == accuracy
