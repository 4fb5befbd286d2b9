"""Images of the streamed run, and its stops, with a main.py that pretends."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks import machine, streamed_run
from ovsw_jax import data
from ovsw_jax.data import image_files

ROOT = machine.ROOT
# Makes a step in 20 ms, or --step, and has a worker, which leaves when it is
# told to.
MAIN = """
import json, os, pathlib, signal, subprocess, sys, time
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
workdir.mkdir(exist_ok=True)
(workdir / "pid").write_text(str(os.getpid()))
worker = subprocess.Popen(
  [sys.executable, "-c", "import sys, time; sys.stdin.read(); "
   + flags["worker_does"]], stdin=subprocess.PIPE
)
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
path = workdir / "metrics.jsonl"
path.touch()
first = len(path.read_text().splitlines())
for step in range(first + 1, 31):
  time.sleep(float(flags.get("step", 0.02)))
  with path.open("a") as file:
    file.write(json.dumps({"kind": "train", "step": step}) + "\\n")
  if told:
    sys.exit(143)
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
  """What runs that main.py, with a worker that does so once it is alone."""
  monkeypatch.setattr(machine, "ROOT", tmp_path)
  (tmp_path / "main.py").write_text(textwrap.dedent(MAIN))
  return lambda does: ["main.py", f"--worker_does={does}"]


def test_a_run_is_stopped_killed_and_gone_on_with(command, tmp_path):
  told = streamed_run.disturbed(
    command("pass"), tmp_path / "run", tmp_path / "log", epoch=10
  )
  stopped, killed = told["ends"]
  assert stopped["signal"] == "SIGTERM" and killed["signal"] == "SIGKILL"
  assert 5 <= stopped["after_step"] < 15 <= killed["after_step"] < 30
  assert streamed_run.last_step(tmp_path / "run") == 30


def test_a_worker_that_stays_is_an_error_and_is_ended(
  command, tmp_path, monkeypatch
):
  monkeypatch.setattr(streamed_run, "_LEAVING", 0.3)
  line = [*command("time.sleep(60)"), f"--workdir={tmp_path / 'run'}"]
  run = streamed_run.Run(line, tmp_path / "log")
  with pytest.raises(ValueError, match="worker processes of group"), run:
    run.wait_for(tmp_path / "run", 1)
    run.process.kill()
    run.end(-signal.SIGKILL)
  ended = time.monotonic() + 10
  while not run.alone() and time.monotonic() < ended:
    time.sleep(0.02)
  assert run.alone()


def test_a_run_that_ends_too_soon_is_an_error(command, tmp_path):
  line = [*command("pass"), f"--workdir={tmp_path / 'run'}"]
  with streamed_run.Run(line, tmp_path / "log") as run:
    with pytest.raises(ValueError, match=r"ended before step 31; see .*log"):
      run.wait_for(tmp_path / "run", 31)
    with pytest.raises(ValueError, match="ended with status 0, not 143"):
      run.end(143)


def test_sigterm_ends_the_run_with_the_benchmark(command, tmp_path):
  script = (
    "import pathlib\n"
    "from benchmarks import arguments, machine, streamed_run\n"
    f"machine.ROOT = pathlib.Path({str(tmp_path)!r})\n"
    "arguments.start(streamed_run.main)\n"
  )
  _, worker = command("time.sleep(60)")
  argv = ["--smoke", "--workdir=runs", "--", worker, "--step=1"]
  benchmark = subprocess.Popen(
    [sys.executable, "-c", script, *argv], cwd=ROOT, stderr=subprocess.DEVNULL
  )
  calm = tmp_path / "runs" / "calm"
  late = time.monotonic() + 60
  while not streamed_run.last_step(calm):
    assert time.monotonic() < late and benchmark.poll() is None
    time.sleep(0.05)
  group = int((calm / "pid").read_text())
  try:
    benchmark.terminate()
    assert benchmark.wait(timeout=30) == 128 + signal.SIGTERM
    late = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
      while time.monotonic() < late:
        os.killpg(group, 0)
        time.sleep(0.02)
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(group, signal.SIGKILL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  source = data.load("digits")
  root = tmp_path_factory.mktemp("images")
  kinds = streamed_run.make_images(root, source, train=400, test=20)
  return root, kinds


def test_images_are_of_all_kinds_and_sizes(folder):
  root, kinds = folder
  assert sum(kinds.values()) == 420
  assert kinds == {"RGB": 300, "grey": 40, "CMYK": 40, "turned": 40}
  train, test, classes = image_files.find(root)
  assert (len(train), len(test), len(classes)) == (400, 20, 10)
  modes, sides, orientations = set(), [], set()
  for path in (root / "train").rglob("*.jpg"):
    with Image.open(path) as image:
      modes.add(image.mode)
      sides += image.size
      orientations.add(image.getexif().get(streamed_run.ORIENTATION))
  assert modes == {"RGB", "L", "CMYK"}
  assert min(sides) < 80 and max(sides) > 500
  assert min(sides) >= 60 and max(sides) <= 600
  assert orientations >= {None, 2, 3}


def test_images_are_the_same_every_time(folder, tmp_path):
  root, _ = folder
  streamed_run.make_images(tmp_path, data.load("digits"), train=20, test=1)
  name = next((tmp_path / "train").rglob("000007.jpg")).relative_to(tmp_path)
  assert (tmp_path / name).read_bytes() == (root / name).read_bytes()


def test_a_picture_shows_its_class():
  small = np.full((3, 8, 8, 1), 200, np.uint8)
  image = streamed_run.picture(small, np.random.default_rng(0))
  assert image.mode == "RGB"
  assert np.asarray(image).mean() == pytest.approx(200, abs=1)
