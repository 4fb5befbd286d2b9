"""The command line, as a user meets it: in a process of its own."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
  """The user's own cache of compiled programs stays as it is."""
  with pytest.MonkeyPatch.context() as patch:
    directory = tmp_path_factory.mktemp("cache")
    patch.setenv("XDG_CACHE_HOME", str(directory))
    patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    yield directory


def main(*arguments, cwd=ROOT):
  return subprocess.run(
    [sys.executable, str(ROOT / "main.py"), *arguments],
    cwd=cwd,
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_train_again_and_evaluate(tmp_path, cache):
  command = (f"--config={ROOT}/configs/digits.py:smoke",)
  # The default workdir, below where the command is given.
  workdir = tmp_path / "runs" / "digits_smoke" / "ovsw" / "seed0"

  first = main(*command, cwd=tmp_path)
  assert first.returncode == 0, first.stderr
  assert "Traceback" not in first.stderr
  result = json.loads((workdir / "result.json").read_text())
  accuracy = f"{result['accuracy']:.2%}"
  assert f"final test accuracy    {accuracy}" in first.stdout
  never = f"{result['never_flipped_fraction']:.2%}"
  assert f"never-flipped fraction {never}" in first.stdout
  figure = re.search(r"figure +(\S+)", first.stdout)[1]
  assert (tmp_path / figure).exists()
  assert "main.py" in result["command"]
  assert f"cache    {cache}/ovsw_jax/xla, of compiled" in first.stdout
  assert "first step after" in first.stdout

  again = main(*command, cwd=tmp_path)
  assert again.returncode == 0, again.stderr
  assert "is finished" in again.stdout
  assert f"final test accuracy    {accuracy}" in again.stdout
  assert "epoch 1/2" not in again.stdout

  evaluated = main(*command, "--mode=evaluate", cwd=tmp_path)
  assert evaluated.returncode == 0, evaluated.stderr
  assert f"top-1 {accuracy}, top-5 {result['top5']:.2%}" in evaluated.stdout
  reported = main("--mode=report", f"--workdir={workdir}", cwd=tmp_path)
  assert reported.stdout == f"report {workdir / 'report.html'}\n"
  assert accuracy[:-1] in (workdir / "report.html").read_text()

  exported = main("--mode=export", f"--workdir={workdir}")
  network = workdir / "network.safetensors"
  size = network.stat().st_size
  assert exported.stdout == f"{network}, {size:,} bytes\n", exported.stderr
  image = ROOT / "docs" / "silent_weights.png"
  for source in (workdir, network):
    told = main("--mode=predict", f"--workdir={source}", str(image)).stdout
    assert re.fullmatch(rf"{image}: (\d [\d.]+%,? ?){{5}}\n", told)


def test_help_shows_commands_and_flags():
  answer = main("--help")
  assert "python main.py --config=configs/digits.py" in answer.stdout
  for flag in ("--config", "--workdir", "--mode", "--compilation_cache"):
    assert f"  {flag}:" in answer.stdout


CONFIG = "--config=configs/digits.py"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--config is missing; try --config=configs/digits.py"),
    (["--config=configs/digit.py"], "no file 'configs/digit.py'.*, digits.py"),
    (["--config=confs/digits.py"], "no file 'confs/digits.py'; confs has no"),
    ([f"{CONFIG}:ovws"], "unknown config argument 'ovws'; known: smoke, .*ags"),
    ([CONFIG, "--config.train.epoch=3"], 'unknown config field.*"epochs"'),
    ([CONFIG, "--config.epochs=3"], "unknown config field 'epochs'.*base.py"),
    ([CONFIG, "--config.train.epochs=x"], "--config.train.epochs=x"),
    ([CONFIG, "--mode=fly"], r"--mode=fly.*<train\|evaluate\|sweep\|report\|"),
    ([CONFIG, "--wrokdir=x"], "wrokdir"),
    ([CONFIG, "--compilation_cache=main.py/x"], "main.py/x cannot be made"),
    ([CONFIG, "--config.replicas=0", "W"], "replicas must be.*>= 1, got 0"),
    ([CONFIG, "workdir"], "unexpected argument 'workdir'"),
    ([CONFIG, "--config.model.name=vgg19", "W"], "'vgg19'.*vgg_small"),
    ([CONFIG, "--config.distributed=True", "W"], "processes.* were not found"),
    (["--mode=report"], "--workdir is missing"),
    (["--mode=export"], "--workdir is missing"),
    (["--mode=export", "W"], "holds no finished run"),
    (["--mode=export", "--format=tf"], "--format=tf.*<packed"),
    (["--mode=predict", "W", "a.png"], "holds no network.safetensors; run --m"),
    (["--mode=predict", "W"], "no image is named"),
    (["--mode=report", "W"], "There is no directory .*name a workdir"),
    ([CONFIG, "--compare=a"], "--compare is of --mode=report alone"),
    ([CONFIG, "--mode=evaluate", "W"], "no checkpoint; train first"),
  ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, arguments, message):
  workdir = tmp_path / "run"
  arguments = [f"--workdir={workdir}" if a == "W" else a for a in arguments]
  answer = main(*arguments)
  assert answer.returncode == 2
  assert re.fullmatch(rf"error: .*{message}.*\n", answer.stderr)
  assert not workdir.exists()


def test_main_is_short():
  text = (ROOT / "main.py").read_text()
  assert len(text.splitlines()) < 70


def test_a_missing_extra_names_the_command_that_installs_it(tmp_path):
  (tmp_path / "ml_collections.py").write_text("raise ImportError('gone')\n")
  result = subprocess.run(
    [sys.executable, str(ROOT / "main.py")],
    env=os.environ | {"PYTHONPATH": str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 1
  assert result.stderr == (
    "error: gone; install it with: pip install -e '.[train]'\n"
  )
