"""Every benchmark's script at a tiny size, end to end, and its command line."""

import importlib.util
import json
import re
import shlex
import signal

import jax
import numpy as np
import pytest

from benchmarks import (
  arguments,
  convolution_forms,
  decode,
  device_layouts,
  epoch_time,
  gpu_program,
  kernels,
  kill_storm,
  layout,
  machine,
  memory,
  optimizer_cost,
  peak,
  report_cost,
  reproduce,
  step_time,
  streamed_run,
  table,
  timing,
)


@pytest.fixture
def quick(monkeypatch):
  """Workers that compile without optimizing: nothing here is about speed."""
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture
def signals():
  """A script sets what SIGTERM does."""
  before = signal.getsignal(signal.SIGTERM)
  yield
  signal.signal(signal.SIGTERM, before)


def cells(text):
  """The cells of a Markdown table, by row, without the rule."""
  lines = [line for line in text.splitlines() if line.startswith("|")]
  rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
  return [rows[0], *rows[2:]]


def run(script, path, capsys, *argv):
  """A script's report, and the table that it printed, checked against it."""
  script.main([*argv, f"--out={path}"])
  printed = cells(capsys.readouterr().out)
  content = json.loads(path.read_text())
  assert content["benchmark"] == script.__name__.split(".")[1]
  assert content["commit"] and content["versions"]["jax"] == jax.__version__
  assert content["device"].startswith("cpu") and content["cores"] >= 1
  # The README's tables are made from the file.
  assert cells(table.of_file(path)) == printed
  return content, printed


def test_step_time(quick, tmp_path, capsys):
  content, printed = run(
    step_time, tmp_path / "x.json", capsys, "--smoke", "--peers=linen", "--peak"
  )
  (row,) = content["rows"]
  assert row["network"] == "cifar_resnet20" and row["blocks"] == [1, 1]
  assert row["ours_over"]["linen"]["samples"] == 2
  assert row["seconds"]["ours"]["median"] > 0
  assert row["contestants"]["linen"]["jax"] == jax.__version__
  assert printed[0][-4:] == ["linen, ms", "ours / linen", "TFLOP/s", "of peak"]
  ms = row["seconds"]["ours"]["median"] * 1e3
  assert float(printed[1][3]) == pytest.approx(ms, rel=0.01)


def test_optimizer_cost(quick, tmp_path, capsys):
  content, printed = run(
    optimizer_cost,
    tmp_path / "x.json",
    capsys,
    "--smoke",
    "--variants=ovsw+flips",
  )
  plain, ovsw = content["rows"]
  assert plain["state_bytes"] == 0
  # A float and a bool for SAD, an integer and a bool for the flips; scalars.
  assert 10 <= ovsw["state_bytes_per_binary_weight"] < 10.1
  assert ovsw["over_sgd"]["samples"] == 2
  assert printed[2][3] == "ovsw+flips"


def test_optimizer_cost_over_processes(quick, tmp_path, capsys):
  content, printed = run(
    optimizer_cost,
    tmp_path / "x.json",
    capsys,
    "--smoke",
    "--variants=sad/compact",
    "--processes=2",
  )
  plain, sad = content["rows"]
  assert sad["over_sgd"]["samples"] == len(sad["samples"]) == 2
  # The median of two is between their medians, its interval their range.
  low, high = sorted(
    timing.ratio(of_one)["median"]
    for of_one in (
      [timing.Triple(*triple) for triple in one] for one in sad["samples"]
    )
  )
  assert (sad["over_sgd"]["low"], sad["over_sgd"]["high"]) == (low, high)
  assert sad["over_sgd"]["median"] == pytest.approx((low + high) / 2)
  assert len(plain["samples"]) == 2
  assert [line[3] for line in printed[1:]] == ["sgd", "sad/compact"]


def test_memory(quick, tmp_path, capsys):
  content, printed = run(memory, tmp_path / "x.json", capsys, "--smoke")
  ours = content["rows"][0]["contestants"]["ours"]
  linen = content["rows"][0]["contestants"]["linen"]
  # The inputs of the four binary layers, a bit each; plain linen has floats.
  values = 4 * (3 * 8 * 8 * 16 + 4 * 4 * 32)
  packed = sum(
    count for name, count in ours["kept_bytes"].items() if "uint" in name
  )
  assert packed >= values // 8
  assert "uint8" not in linen["kept_bytes"]
  assert sum(ours["kept_bytes"].values()) < sum(linen["kept_bytes"].values())
  assert ours["temporary_bytes"] > 0
  assert [line[3] for line in printed[1:]] == ["ours", "linen"]


def test_layout(quick, tmp_path, capsys):
  content, printed = run(layout, tmp_path / "x.json", capsys, "--smoke")
  assert [row["variant"] for row in content["rows"]] == [
    "sgd",
    "ovsw+flips/compact",
  ]
  assert all(row["temporary_bytes"] > 0 for row in content["rows"])
  shares = [row["in_whole_pages"] for row in content["rows"]]
  assert all(0 <= share <= 1 for share in shares)
  assert [line[5] for line in printed[1:]] == [f"{x:.0%}" for x in shares]


def test_convolution_forms(tmp_path, capsys):
  content, printed = run(
    convolution_forms, tmp_path / "x.json", capsys, "--smoke"
  )
  parts = [row["part"] for row in content["rows"]]
  assert parts == 2 * ["forward", "gradients"]
  # Columns of ratios: on packed bits, in tiles, apart by stride.
  there = [[line[i].endswith(")") for i in (4, 6, 8)] for line in printed[1:]]
  plain, strided = [True, True, False], [True, False, True]
  forward = [True, False, False]
  assert there == [forward, plain, forward, strided]
  assert printed[3][0] == "2, 5x5, 8 / 2"


def test_kernels(tmp_path, capsys):
  content, printed = run(kernels, tmp_path / "x.json", capsys, "--smoke")
  (row,) = content["rows"]
  assert row["milliseconds"] > 0 and len(row["kernels"]) > 20
  times = [kernel["milliseconds"] for kernel in row["kernels"]]
  assert times == sorted(times, reverse=True)
  assert printed[1][0] == row["kernels"][0]["name"]


def test_peak(tmp_path, capsys):
  content, _ = run(peak, tmp_path / "x.json", capsys, "--smoke")
  assert [row["dtype"] for row in content["rows"]] == list(peak.DTYPES)
  assert all(row["flops_per_second"] > 1e6 for row in content["rows"])


def test_epoch_time(quick, tmp_path, capsys):
  content, printed = run(
    epoch_time,
    tmp_path / "x.json",
    capsys,
    "--smoke",
    "--epochs=2",
    "--replicas=2",
  )
  (row,) = content["rows"]
  assert row["steps_per_epoch"] == 16 and row["data"] == "random images"
  assert 0 < row["training_seconds"] < row["start_seconds"]
  assert row["replicas"] == 2 and printed[1][4] == "2"
  images = float(printed[1][6].replace(",", ""))
  assert images == pytest.approx(2 * 64 / row["training_seconds"], rel=0.01)


def test_decode(tmp_path, capsys):
  content, printed = run(decode, tmp_path / "x.json", capsys, "--smoke")
  ours, pillow, stream = content["rows"]
  assert ours["over_pillow"]["samples"] == 2 and stream["cores"] == 1
  assert min(row["images_per_cpu_second"] for row in (ours, pillow)) > 0
  assert [line[0] for line in printed[1:]] == [
    "ours",
    "pillow",
    "stream, 1 workers",
  ]
  assert min(row["images_per_second"] for row in content["rows"]) > 0


SCRIPTS = {
  script.__name__.split(".")[1]: script
  for script in (
    convolution_forms,
    decode,
    device_layouts,
    epoch_time,
    gpu_program,
    kill_storm,
    layout,
    memory,
    optimizer_cost,
    peak,
    reproduce,
    step_time,
    streamed_run,
    table,
  )
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_how_to_call_it(name, capsys):
  with pytest.raises(SystemExit) as end:
    SCRIPTS[name].main(["--help"])
  text = capsys.readouterr().out
  assert end.value.code == 0
  assert re.search(rf"^  python -m benchmarks.{name}\b", text, re.MULTILINE)


@pytest.mark.parametrize(
  ("name", "argument", "message"),
  [
    ("step_time", "--models=vgg19", "unknown 'vgg19'; known: .*vgg_small"),
    ("step_time", "--batches=1,2,3", "3 batch sizes for 2 networks"),
    ("step_time", "--batches=0", "'0' is no whole number above 0"),
    ("step_time", "--dtypes=float8", "unknown 'float8'; known: float32"),
    ("step_time", "--peers=tf", "unknown 'tf'; known: torch, linen"),
    ("step_time", "--turn-seconds=-1", "'-1' is no number from 0 on"),
    ("optimizer_cost", "--variants=bop", "unknown 'bop'; known: flips, ags"),
    ("gpu_program", "--variants=bop", "unknown 'bop'; known: sgd, flips"),
    ("layout", "--variants=bop", "unknown 'bop'; known: sgd, flips"),
    ("epoch_time", "--epochs=1", "at least 2, as the first one compiles"),
    ("epoch_time", "--models=resnet18", "unknown 'resnet18'; known: cifar_"),
    ("convolution_forms", "--layers=3x4", "'3x4' is no list of"),
    ("convolution_forms", "--layers=3x4x5/2/2", "'3x4x5/2/2' is no list of"),
    ("decode", "--batch=999", "--batch=999 is more than --count=256"),
    ("device_layouts", "--batch=0", "'0' is no whole number above 0"),
    ("streamed_run", "--train=100", "--train=100 are too few for a stop"),
    ("kill_storm", "--kills=0", "--kills=0 must be at least 1"),
    ("peak", "--sizes=big", "'big' is no whole number above 0"),
    ("reproduce", "--methods=bop", "unknown 'bop'; known: ags, bireal"),
    ("reproduce", "--seeds=a", "'a' is no list of whole numbers"),
    ("reproduce", "--config=configs/x.py", "no file configs/x.py"),
    ("reproduce", "lr=1", "'lr=1' is no --config.FIELD=VALUE of main.py"),
    ("table", "--into=", "name a file of results/, or --into=README.md"),
  ],
)
def test_a_mistake_is_named(name, argument, message, capsys):
  with pytest.raises(SystemExit) as end:
    SCRIPTS[name].main([argument] if argument != "--into=" else [])
  assert end.value.code == 2
  assert re.search(message, capsys.readouterr().err)


def test_commands_of_the_readme_are_understood(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # torch
  text = (machine.ROOT / "benchmarks" / "README.md").read_text()
  commands = re.findall(
    r"python -m benchmarks\.([a-z_]+)([^`;\n]*)", text.replace("\\\n", " ")
  )
  assert len(commands) > 20
  for name, rest in commands:
    argv = shlex.split(rest)
    if name == "table":
      argv = argv or ["results/digits.jsonl"]
    if name in SCRIPTS:  # `machine` takes no arguments
      SCRIPTS[name].parse(argv)


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capsys, signals):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(SystemExit) as end:
    arguments.start(lambda: step_time.main(["--smoke"]))
  assert end.value.code == 2
  error = capsys.readouterr().err
  assert "error: the peer `torch` needs PyTorch: pip install torch" in error


@pytest.mark.skipif(
  importlib.util.find_spec("jax_plugins") is not None, reason="has a plugin"
)
def test_a_missing_compiler_for_gpus_is_named(signals, capsys):
  with pytest.raises(SystemExit) as end:
    arguments.start(lambda: gpu_program.main(["--smoke"]))
  assert end.value.code == 2
  error = capsys.readouterr().err
  assert re.search(r"no CUDA plugin .* jax-cuda13-plugin==\d", error)


def test_report_cost(tmp_path, capsys):
  out = tmp_path / "x.json"
  ours = np.ones(2**27)  # 1 GiB, which is not the report's
  report_cost.main(["--smoke", "--epochs=3", f"--out={out}"])
  assert ours.nbytes == 2**30
  (row,) = json.loads(out.read_text())["rows"]
  assert row["weights"] == 10_368 and row["epochs"] == 3
  assert 0 < row["seconds"] < 60 and row["peak_bytes"] < 2**30
  assert "| 3 epochs, 10,368 binary weights |" in capsys.readouterr().out
  with pytest.raises(ValueError, match=r"the report failed: .*no directory"):
    report_cost.measure(tmp_path / "nowhere")
