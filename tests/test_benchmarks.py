"""The benchmarks' arithmetic, and every script at a tiny size, end to end."""

import doctest
import functools
import gzip
import json
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
  arguments,
  convolution_forms,
  decode,
  device_layouts,
  epoch_time,
  flops,
  kernels,
  kill_storm,
  machine,
  memory,
  optimizer_cost,
  peak,
  plain_linen,
  report,
  report_cost,
  reproduce,
  step_time,
  streamed_run,
  table,
  timing,
)
from benchmarks.workload import NETWORKS, Workload, workloads
from ovsw_jax import models, nn


class Clock:
  """Contestants on a machine that gets slower by the turn."""

  def __init__(self, drift=1.0):
    self.turns, self.speed, self.drift = [], 1.0, drift

  def contestant(self, name, seconds):
    def turn(steps):
      self.turns.append((name, steps))
      self.speed *= self.drift
      return seconds * self.speed

    return turn


def test_turns_alternate_with_the_base():
  clock = Clock()
  others = {name: clock.contestant(name, 1.0) for name in "bc"}
  times = timing.alternate(
    clock.contestant("a", 1.0), others, rounds=2, warmup=1
  )
  # Twice each to compile and warm up, then the base around each of the others.
  assert "".join(name for name, _ in clock.turns) == "aabbcc" + "abacabaca"
  assert len(times.base) == 5 and len(times.others["c"]) == 2


def test_ratios_survive_a_machine_that_drifts():
  clock = Clock(drift=1.01)
  times = timing.alternate(
    clock.contestant("a", 1.0), {"b": clock.contestant("b", 0.8)}, rounds=40
  )
  ratio = timing.ratio(times.others["b"])
  assert ratio["median"] == pytest.approx(0.8, rel=1e-4)
  assert ratio["high"] - ratio["low"] < 1e-4
  inverse = timing.ratio(times.others["b"], of_base=True)
  assert inverse["median"] == pytest.approx(1.25, rel=1e-4)
  # The two medians, each over the whole drift, say the same here.
  assert ratio["of_medians"] == pytest.approx(0.8, rel=1e-2)


def test_a_turn_makes_steps_for_as_long_as_asked():
  clock = Clock()
  times = timing.alternate(
    clock.contestant("a", 0.01),
    {"b": clock.contestant("b", 0.02)},
    rounds=1,
    seconds=0.2,
  )
  assert times.steps == 20
  assert clock.turns[-3:] == [("a", 20), ("b", 20), ("a", 20)]


@pytest.mark.parametrize("arguments", ({"rounds": 0}, {"warmup": 0}))
def test_no_rounds_is_an_error(arguments):
  with pytest.raises(ValueError, match="at least 1, got"):
    timing.alternate(lambda steps: 1.0, {}, **{"rounds": 1} | arguments)


def test_the_interval_holds_the_median_19_times_in_20():
  noise = np.random.default_rng(0)
  held = [
    spread["low"] <= 0 <= spread["high"]
    for spread in (
      timing.summary(noise.standard_cauchy(30).tolist()) for _ in range(2000)
    )
  ]
  assert 0.93 < np.mean(held) < 0.98


@pytest.mark.parametrize("count", (1, 2, 5, 30))
def test_a_summary_is_in_order(count):
  spread = timing.summary(np.random.default_rng(1).normal(size=count).tolist())
  assert spread["samples"] == count
  assert (
    spread["low"] <= spread["median"] <= spread["high"]
    and spread["q1"] <= spread["median"] <= spread["q3"]
  )


def conv(out_side, size, inputs, outputs):
  return out_side**2 * size**2 * inputs * outputs


def test_operations_of_resnet20_are_counted():
  stem = conv(32, 3, 3, 16)
  layers = (
    6 * conv(32, 3, 16, 16)
    + conv(16, 3, 16, 32)
    + 5 * conv(16, 3, 32, 32)
    + conv(8, 3, 32, 64)
    + 5 * conv(8, 3, 64, 64)
    + 64 * 10
  )
  work = Workload("cifar_resnet20", 7)
  assert flops.forward_products(work)[0] == 7 * stem
  assert sum(flops.forward_products(work)) == 7 * (stem + layers)
  assert flops.training_step(work) == 7 * 2 * (2 * stem + 3 * layers)


def test_every_network_can_be_made():
  assert set(NETWORKS) <= set(models.ARCHITECTURES)


@pytest.mark.parametrize(("size", "strides"), ((3, 2), (1, 1)))
def test_plain_linen_is_the_same_layer(size, strides, x64):
  x = jax.random.normal(jax.random.key(0), (3, 8, 8, 5), jnp.float64)
  latent = jax.random.normal(jax.random.key(1), (size, size, 5, 7), jnp.float64)

  @functools.partial(jax.jit, static_argnums=0)
  def results(layer, latent, x):
    def loss(latent, x):
      y = layer.apply({"params": {"latent": latent}}, x, train=True)
      return jnp.sum(jnp.sin(y)), layer.apply(
        {"params": {"latent": latent}}, x, train=False
      )

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(latent, x)

  ours = nn.BinaryConv(7, size, strides, dtype=jnp.float64)
  plain = plain_linen.PlainBinaryConv(7, size, strides, dtype=jnp.float64)
  for one, other in zip(
    jax.tree.leaves(results(ours, latent, x)),
    jax.tree.leaves(results(plain, latent, x)),
    strict=True,
  ):
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_workloads_pair_networks_with_batches():
  found = workloads(["vgg_small", "resnet18"], [4, 8], ["float32", "bfloat16"])
  assert [(w.network, w.batch) for w in found] == [
    ("vgg_small", 4),
    ("vgg_small", 4),
    ("resnet18", 8),
    ("resnet18", 8),
  ]
  assert found[3].side == 224 and found[3].classes == 1000


@pytest.mark.parametrize("module", (device_layouts, report, table, timing))
def test_examples_hold(module):
  failures, tried = doctest.testmod(module)
  assert tried and not failures


# The scripts -----------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
  """Workers that compile without optimizing: nothing here is about speed."""
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


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


def test_convolution_forms(tmp_path, capsys):
  content, printed = run(
    convolution_forms, tmp_path / "x.json", capsys, "--smoke"
  )
  parts = [row["part"] for row in content["rows"]]
  assert parts == ["forward", "kernel gradient", "input gradient"]
  assert printed[1][-1].endswith(")") and printed[3][-1] == ""


def test_kernels(tmp_path, capsys):
  content, printed = run(kernels, tmp_path / "x.json", capsys, "--smoke")
  (row,) = content["rows"]
  assert row["milliseconds"] > 0 and len(row["kernels"]) > 20
  times = [kernel["milliseconds"] for kernel in row["kernels"]]
  assert times == sorted(times, reverse=True)
  assert printed[1][0] == row["kernels"][0]["name"]


def trace(place, lanes):
  """A trace of a GPU's process with these lanes of (name, microseconds)."""
  events = [
    {"name": "process_name", "pid": 1, "args": {"name": "/device:GPU:0"}},
    {"name": "process_name", "pid": 2, "args": {"name": "/host:CPU"}},
  ]
  for tid, (pid, lane, kernels_) in enumerate(lanes):
    events.append(
      {"name": "thread_name", "pid": pid, "tid": tid, "args": {"name": lane}}
    )
    for name, dur in kernels_:
      events.append(
        {"name": name, "ph": "X", "pid": pid, "tid": tid, "dur": dur}
      )
  with gzip.open(place / "host.trace.json.gz", "wt") as file:
    json.dump({"traceEvents": events}, file)


def test_kernels_of_a_gpu_are_those_of_its_streams(tmp_path):
  stream = (1, "Stream #13(Compute)", [("a", 2.0), ("b", 5.0), ("a", 1.5)])
  scopes = (1, "XLA Ops", [("whole", 9.0)])
  host = (2, "python", [("call", 99.0)])
  trace(tmp_path, [stream, scopes, host])
  assert kernels.kernels(tmp_path) == [("b", (5.0, 1)), ("a", (3.5, 2))]
  trace(tmp_path, [host])
  with pytest.raises(ValueError, match="no event of a device"):
    kernels.kernels(tmp_path)


def test_peak(tmp_path, capsys):
  content, _ = run(peak, tmp_path / "x.json", capsys, "--smoke")
  assert [row["dtype"] for row in content["rows"]] == list(peak.DTYPES)
  assert all(row["flops_per_second"] > 1e6 for row in content["rows"])


def test_epoch_time(quick, tmp_path, capsys):
  content, printed = run(
    epoch_time, tmp_path / "x.json", capsys, "--smoke", "--epochs=2"
  )
  (row,) = content["rows"]
  assert row["steps_per_epoch"] == 16 and row["data"] == "random images"
  assert 0 < row["training_seconds"] < row["start_seconds"]
  images = float(printed[1][5].replace(",", ""))
  assert images == pytest.approx(64 / row["training_seconds"], rel=0.01)


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


def test_epochs_are_told_apart_from_their_evaluation(tmp_path):
  path = tmp_path / "metrics.jsonl"
  lines = [
    {"kind": "train", "epoch": 1, "images_per_second": 10.0},
    {"kind": "train", "epoch": 1, "images_per_second": 5.0},
    {"kind": "eval", "epoch": 1, "seconds": 2.0},
    {"kind": "train", "epoch": 2, "images_per_second": 20.0},
    {"kind": "eval", "epoch": 2, "seconds": 0.3},
    {"kind": "layers", "epoch": 2, "flip_rate": {}},
  ]
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  first, second = epoch_time.epochs(path, batch=4)
  assert first == pytest.approx({"training": 1.2, "evaluation": 0.8})
  assert second == pytest.approx({"training": 0.2, "evaluation": 0.1})


SCRIPTS = {
  script.__name__.split(".")[1]: script
  for script in (
    convolution_forms,
    decode,
    device_layouts,
    epoch_time,
    kill_storm,
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
    ("epoch_time", "--epochs=1", "at least 2, as the first one compiles"),
    ("epoch_time", "--models=resnet18", "unknown 'resnet18'; known: cifar_"),
    ("convolution_forms", "--layers=3x4", "'3x4' is no list of"),
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


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capsys):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(SystemExit) as end:
    arguments.start(lambda: step_time.main(["--smoke"]))
  assert end.value.code == 2
  error = capsys.readouterr().err
  assert "error: the peer `torch` needs PyTorch: pip install torch" in error


def test_report_cost(tmp_path, capsys):
  out = tmp_path / "x.json"
  report_cost.main(["--smoke", "--epochs=3", f"--out={out}"])
  (row,) = json.loads(out.read_text())["rows"]
  assert row["weights"] == 10_368 and row["epochs"] == 3
  assert 0 < row["seconds"] < 60 and row["peak_bytes"] < 2 * 2**30
  assert "| 3 epochs, 10,368 binary weights |" in capsys.readouterr().out
  with pytest.raises(ValueError, match=r"the report failed: .*no directory"):
    report_cost.measure(tmp_path / "nowhere")
