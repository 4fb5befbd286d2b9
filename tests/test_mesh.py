"""One device, eight of one process, four each of two: the same training."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import float64_steps
from configs import digits
from ovsw_jax.training import experiment, loop, mesh
from tests.test_loop import lines
from tests.test_step import batch, compiled, recipe, start

pytestmark = pytest.mark.usefixtures("tiny")

ROOT = pathlib.Path(__file__).parent.parent


def smoke(devices, **fields):
  config = digits.get_config("ovsw,smoke")
  config.mesh.data = devices
  config.train.batch_size = 32
  config.data.limit = 128
  config.update_from_flattened_dict(fields)
  return config


def close(a, b, **tolerance):
  tolerance = {"rtol": 2e-3, "atol": 1e-4} | tolerance
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_devices_change_nothing_but_rounding(tmp_path):
  """Sums over a batch are made in another order; eight steps carry that on."""
  one = loop.train_and_evaluate(smoke(1), tmp_path / "one")
  eight = loop.train_and_evaluate(smoke(8), tmp_path / "eight")
  close(eight.params, one.params)
  close(eight.batch_stats, one.batch_stats)
  for a, b in zip(
    lines(tmp_path / "eight", "train"),
    lines(tmp_path / "one", "train"),
    strict=True,
  ):
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


def test_in_float64_devices_change_nothing_at_all(tmp_path):
  """So what differs in float32 is rounding: no bit of a weight moves here."""
  one, eight = (experiment.build(smoke(devices)) for devices in (1, 8))
  whole = float64_steps.take(one, one.initial_state(), 8)
  cut = float64_steps.take(eight, eight.initial_state(), 8)
  np.testing.assert_array_equal(cut.pop("order"), whole.pop("order"))
  assert whole["loss"].dtype == np.float64
  assert whole["conv/latent"].dtype == np.float64
  close(cut, whole, rtol=1e-11, atol=1e-12)
  np.testing.assert_array_equal(
    cut["conv/latent"] >= 0, whole["conv/latent"] >= 0
  )


def test_what_is_on_the_devices(tmp_path):
  """Every device has the whole state; the batch is cut."""
  state = loop.train_and_evaluate(smoke(4), tmp_path)
  assert all(
    leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == 4
    for leaf in jax.tree.leaves(state)
  )
  sharding = mesh.split(mesh.make(4))
  assert sharding.shard_shape((32, 8, 8, 3)) == (8, 8, 8, 3)


def test_a_run_goes_on_on_other_devices(tmp_path):
  """The order of the data is the same, and results agree."""
  whole = loop.train_and_evaluate(smoke(1), tmp_path / "whole")
  config = smoke(8)
  steps = []

  class Stop(Exception):
    pass

  train_chunk = loop.train_chunk

  def half(*args, **kwargs):
    if len(steps) == 4:  # the first epoch and its checkpoint are done
      raise Stop
    steps.append(1)
    return train_chunk(*args, **kwargs)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "train_chunk", half)
    with pytest.raises(Stop):
      loop.train_and_evaluate(config, tmp_path / "cut")
  resumed = loop.train_and_evaluate(smoke(2), tmp_path / "cut")
  close(resumed.params, whole.params)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_those_of_the_batch(parts):
  """Exactly so but for batch norm, whose statistics are of a part."""
  images, labels = batch(16)
  r = recipe(pad=0, flip=False, accumulate=parts)
  s = start(r)
  after, metrics = compiled(r)(s, images, labels, jax.random.key(1))
  plain = recipe(pad=0, flip=False)
  losses = []
  stats = s.batch_stats
  for part in range(parts):
    moved, own = compiled(plain)(
      s.replace(batch_stats=stats),
      images[part::parts],
      labels[part::parts],
      jax.random.key(1),
    )
    losses.append(float(own["loss"]))
    stats = moved.batch_stats
  assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
  close(after.batch_stats, stats, rtol=1e-5, atol=1e-6)


def test_accumulation_goes_with_devices(tmp_path):
  fields = {"train.accumulate": 2}
  one = loop.train_and_evaluate(smoke(1, **fields), tmp_path / "one")
  four = loop.train_and_evaluate(smoke(4, **fields), tmp_path / "four")
  close(four.params, one.params)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"mesh.data": 9}, "mesh.data=9 devices are wanted and there are 8"),
    (
      {"mesh.data": 8, "train.batch_size": 20},
      "batch_size=20 .* 8 devices and train.accumulate=1; choose 16 or 24",
    ),
    (
      {"mesh.data": 2, "train.accumulate": 3, "train.batch_size": 4},
      "choose 6",
    ),
  ],
)
def test_what_does_not_fit_is_named_with_what_does(tmp_path, fields, message):
  config = smoke(1, **fields)
  with pytest.raises(ValueError, match=message):
    loop.train_and_evaluate(config, tmp_path / "w")
  assert not (tmp_path / "w").exists()


def test_an_environment_that_is_nonsense_is_named(monkeypatch):
  monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
  with pytest.raises(ValueError, match="JAX_NUM_PROCESSES='two' in the env"):
    mesh.start_processes(wanted=True)


def _processes(count, command, devices=4):
  """A command in so many processes; their output and status."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  started = []
  for index in range(count):
    environment = os.environ | {
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
      "JAX_PLATFORMS": "cpu",
    }
    if count > 1:
      environment |= {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
      }
    started.append(
      subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  return [(p.communicate(timeout=400), p.returncode) for p in started]


# Gloo says when it connects a group, in pieces that its threads mix.
_GLOO = re.compile(
  r"\[Gloo\] Rank | is connected to | peer ranks\. "
  r"|Expected number of connected peer ranks is : "
)


def _without_gloo(output):
  said = _GLOO.sub("", output).splitlines()
  return [line for line in said if not re.fullmatch(r"[\d\s]*", line)]


def _training(workdir):
  """main.py on ResNet-20 and digits."""
  return [
    "main.py",
    "--config=configs/digits.py:smoke",
    f"--workdir={workdir}",
    "--compilation_cache=",
  ]


# The second process comes late, and both exchange what a step does.
MEETING = """
import time
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import multihost_utils
from ovsw_jax.training import mesh
mesh.start_processes(wanted=False)
if jax.process_index() == 1:
  time.sleep(1.0)
print("comes", time.time(), flush=True)
mesh.meet()
print("met", time.time(), flush=True)
whole = mesh.make(None)
own = np.full(2, 1.0 + jax.process_index())
batch = jax.make_array_from_process_local_data(mesh.split(whole), own)
total = jax.jit(jnp.sum, out_shardings=mesh.everywhere(whole))(batch)
print("sum", float(total), flush=True)
shared = multihost_utils.process_allgather(np.array(jax.process_index()))
print("gathered", shared.tolist(), flush=True)
"""


def test_processes_wait_for_each_other_and_are_connected_from_then_on():
  """Connecting has 30 s, and compilers lie between meeting and a step."""
  ended = _processes(2, ["-c", MEETING], devices=2)
  assert [code for _, code in ended] == [0, 0], ended
  said = [output for (output, _), _ in ended]
  times = [dict(map(str.split, _without_gloo(one)[:2])) for one in said]
  comes = [float(one["comes"]) for one in times]
  assert comes[1] > comes[0] + 0.5
  assert min(float(one["met"]) for one in times) > comes[1]
  for one in said:
    before, after = one.split("met")
    assert "[Gloo]" in before
    assert after.splitlines()[1:] == ["sum 6.0", "gathered [0, 1]"]


def test_a_process_that_is_alone_meets_nobody(monkeypatch):
  def exchange(_):
    raise AssertionError

  monkeypatch.setattr(mesh.multihost_utils, "sync_global_devices", exchange)
  mesh.meet()


def test_two_processes_are_as_one(tmp_path):
  (first, code), (second, other) = _processes(2, _training(tmp_path / "two"))
  assert (code, other) == (0, 0), (first, second)
  assert "8 x cpu" in first[0] and "of 2 processes" in first[0]
  # One prints and writes for all; the library of the collectives prints too.
  assert not _without_gloo(second[0])
  ((single, code),) = _processes(1, _training(tmp_path / "one"), devices=8)
  assert code == 0, single
  pairs = zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True)
  for a, b in pairs:
    assert a["kind"] == b["kind"]
    if a["kind"] == "train":
      assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
  result = json.loads((tmp_path / "two" / "result.json").read_text())
  assert result["device"].endswith("of 2 processes")
