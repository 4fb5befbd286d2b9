"""Layouts of devices compared: who is started how, and what counts as equal."""

import json
import time

import jax
import numpy as np
import pytest

from benchmarks import device_layouts, float64_steps
from benchmarks.device_layouts import Layout
from configs import cifar10_resnet20
from ovsw_jax.training import checkpoint, experiment, loop, networks
from tests.test_benchmark_scripts import cells
from tests.test_step import Tiny


@pytest.fixture
def in_this_process(monkeypatch):
  """Layouts as so many devices of this process, and a small network."""
  monkeypatch.setattr(
    networks.models, "make", lambda name, **_: Tiny(name=None)
  )
  experiments = experiment.build
  count = 1

  def build(config, **kwargs):
    config.mesh.data = count
    return experiments(config, **kwargs)

  def run(layout, command, log):
    nonlocal count
    count, log = layout.processes * layout.devices, log
    if command[0] == "-m":
      float64_steps.main(command[2:])
      return 1.0
    given = dict(argument[2:].split("=", 1) for argument in command[1:])
    config = cifar10_resnet20.get_config()
    for name, text in given.items():
      if name.startswith("config."):
        value = int(text) if text.isdecimal() else text
        config.update_from_flattened_dict({name.removeprefix("config."): value})
    loop.train_and_evaluate(config, given["workdir"])
    return 1.0

  monkeypatch.setattr(experiment, "build", build)
  monkeypatch.setattr(device_layouts, "run", run)


def test_a_report_of_layouts(in_this_process, tmp_path, capsys):
  path = tmp_path / "x.json"
  device_layouts.main(
    ["--smoke", f"--out={path}", f"--workdir={tmp_path / 'runs'}"]
  )
  one, two = json.loads(path.read_text())["rows"]
  assert one["largest_loss_difference"] == 0
  assert one["apart"]["4"] == {"parameters": 0, "bits": 0}
  assert set(two["float64"]) == {"0", "2"}
  for value in two["float64"].values():
    assert value["same_order"] and value["bits"] == 0
    assert value["loss"] < 1e-12
  assert 0 <= two["loss_differences"]["1"] < 1e-5
  # In float64 a step from the checkpoint is the run's own, up to rounding.
  base = tmp_path / "runs" / "0"
  assert checkpoint.steps(base / networks.CHECKPOINTS) == [2, 4]
  losses = [line["loss"] for line in device_layouts.records(base, "train")]
  with np.load(tmp_path / "runs" / "0.npz") as wide:
    assert float(wide["2:loss"][0]) == pytest.approx(losses[2], rel=1e-3)
    assert float(wide["0:loss"][0]) == pytest.approx(losses[0], rel=1e-5)
  header, first, second = cells(capsys.readouterr().out)
  assert first[0] == "1 process of 1" and second[0] == "2 processes of 1"
  assert len(header) == len(second)


def test_a_layout_that_trains_on_other_data_is_found(
  in_this_process, tmp_path, monkeypatch
):
  """Its device draws another order."""
  build = experiment.build

  def other(config, **kwargs):
    run = build(config, **kwargs)
    if run.mesh.devices.size == 1:
      return run
    return run._replace(order_key=jax.random.fold_in(run.order_key, 1))

  monkeypatch.setattr(experiment, "build", other)
  with pytest.raises(
    ValueError, match=r"2 processes of 1: .*order of the data"
  ):
    device_layouts.main(
      [
        "--smoke",
        f"--out={tmp_path / 'x.json'}",
        f"--workdir={tmp_path / 'runs'}",
      ]
    )


def row(name, **fields):
  same = {"same_order": True, "loss": 0.0, "parameters": 0.0, "bits": 0.0}
  return {
    "layout": name,
    "first_loss": 2.5,
    "train_loss": 2.0,
    "float64": {"0": same | fields.pop("float64", {})},
  } | fields


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"first_loss": 2.5001}, "b: first_loss 2.5001, not 2.5"),
    ({"train_loss": 2.2}, "b: train_loss 2.2, not 2"),
    ({"float64": {"same_order": False}}, "another order of the data"),
    ({"float64": {"loss": 1e-8}}, "other float64 steps after step 0"),
    ({"float64": {"parameters": 1e-8}}, "other float64 steps after step 0"),
    ({"float64": {"bits": 1e-6}}, "other float64 steps after step 0"),
  ],
)
def test_what_disagrees_is_named(fields, message):
  close = row("b", first_loss=2.50001, train_loss=2.05)
  assert not device_layouts.disagreements([row("a"), close], 0.05)
  (found,) = device_layouts.disagreements([row("a"), row("b", **fields)], 0.05)
  assert message in found


def test_every_process_is_told_its_place(tmp_path):
  # In one write, or the processes' lines would mix.
  code = (
    "import os; e = os.environ; names = ('JAX_PROCESS_ID', 'JAX_NUM_PROCESSES',"
    " 'XLA_FLAGS', 'JAX_COORDINATOR_ADDRESS'); "
    "os.write(1, ' '.join(map(e.get, names)).encode() + b'\\n')"
  )
  log = tmp_path / "log"
  device_layouts.run(Layout("x", 2, 3, "--y"), ["-c", code], log)
  said = sorted(log.read_text().splitlines())
  place = "2 --xla_force_host_platform_device_count=3 --y 127.0.0.1:"
  assert [line[: len(place) + 2] for line in said] == [
    f"0 {place}",
    f"1 {place}",
  ]
  assert said[0].split(":")[-1] == said[1].split(":")[-1]


def test_a_process_that_fails_ends_the_others(tmp_path):
  code = (
    "import os, sys, time\n"
    "sys.exit(3) if os.environ['JAX_PROCESS_ID'] == '1' else time.sleep(60)"
  )
  began = time.monotonic()
  with pytest.raises(ValueError, match=r"x: -c failed; see .*log"):
    device_layouts.run(Layout("x", 2, 1), ["-c", code], tmp_path / "log")
  assert time.monotonic() - began < 30
