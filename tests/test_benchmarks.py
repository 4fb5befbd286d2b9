"""The benchmarks' arithmetic: turns, ratios, intervals, operations, traces."""

import doctest
import functools
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
  device_layouts,
  epoch_time,
  flops,
  gpu_program,
  kernels,
  machine,
  plain_linen,
  report,
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


def test_a_turn_may_begin_with_steps_that_are_not_timed():
  clock = Clock()
  a, b = clock.contestant("a", 1.0), clock.contestant("b", 1.0)
  times = timing.alternate(a, {"b": b}, rounds=1, seconds=3.0, lead=1)
  of_a, of_b = [("a", 1), ("a", 3)], [("b", 1), ("b", 3)]
  assert clock.turns[-6:] == of_a + of_b + of_a
  assert len(times.base) == 2 and len(times.others["b"]) == 1


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


PROGRAM = """HloModule steps
%fused (p.1: f32[4]) -> f32[4] {
  %p.1 = f32[4]{0} parameter(0)
  ROOT %add.9 = f32[4]{0} add(%p.1, %p.1)
}

%body.2 (arg: (s32[], f32[2,8], u16[16])) -> (s32[], f32[2,8], u16[16]) {
  %arg = (s32[], f32[2,8]{1,0}, u16[16]{0}) parameter(0)
  %gte.1 = f32[2,8]{1,0} get-tuple-element(%arg), index=1
  %gte.2 = u16[16]{0} get-tuple-element(%arg), index=2
  %copy.7 = u16[16]{0} copy(%gte.2)
  %conv.1 = (f32[2,8]{1,0}, u8[0]{0}) custom-call(%gte.1, %gte.1), target="x"
  %sum_fusion.12 = (f32[8]{0}, pred[16]{0}) fusion(%copy.7), kind=kInput
  %sum_fusion = f32[8]{0} fusion(%gte.1), kind=kInput, calls=%fused
  ROOT %tuple.1 = (s32[], f32[2,8]{1,0}, u16[16]{0}) tuple(%gte.1, %copy.7)
}

ENTRY %main (a: f32[2,8]) -> f32[2,8] {
  %while.1 = (s32[], f32[2,8]{1,0}, u16[16]{0}) while(%t), body=%body.2
}
"""


def test_kernels_of_a_program_are_those_of_its_loop():
  assert gpu_program.kernels(PROGRAM) == [
    ("copy", 32 + 32),
    ("conv", 2 * 64 + 64),
    ("sum_fusion", 32 + 32 + 16),
    ("sum_fusion", 64 + 32),
  ]
  with pytest.raises(ValueError, match="no loop over steps"):
    gpu_program.kernels(PROGRAM.replace(" while(", " call("))


def test_a_loop_of_a_program_may_have_several_steps_an_iteration():
  told = '%body.2, backend_config={"known_trip_count":{"n":"25"}}'
  assert gpu_program.steps_an_iteration(PROGRAM, 50) == 1
  twice = PROGRAM.replace("body=%body.2", f"body={told}")
  assert gpu_program.steps_an_iteration(twice, 50) == 2
  second = twice.replace("fusion.12 ", "fusion.12.double_buffer_clone ")
  assert second != twice
  assert gpu_program.kernels(second) == gpu_program.kernels(PROGRAM)


def test_flags_of_the_compiler_are_among_the_circumstances(monkeypatch):
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  plain = machine.describe() | {"device": "cpu"}
  monkeypatch.setenv("XLA_FLAGS", "--xla_some=true")
  content = machine.describe() | {"device": "cpu"}
  assert content.keys() - plain.keys() == {"xla_flags"}
  assert "; XLA_FLAGS=--xla_some=true; 20" in report.circumstances(content)
  assert "XLA_FLAGS" not in report.circumstances(plain)


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
