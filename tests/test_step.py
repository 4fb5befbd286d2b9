"""The step: what it computes, what it leaves alone, and where it may run."""

import dataclasses
import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import methods
from ovsw_jax import nn as layers
from ovsw_jax.training import optimizer, state, step

DEVICES = 4


class Tiny(nn.Module):
  """One real and one binary convolution: all kinds of parameters, no time."""

  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train=False, progress=0.0):
    norm = functools.partial(layers.BatchNorm, axis_name=self.axis_name)
    x = nn.Conv(4, (3, 3), strides=2, name="stem")(x)
    x = layers.hardtanh(norm(name="norm1")(x, train))
    x = layers.BinaryConv(8, 3, dtype=self.dtype, name="conv")(
      x, train, progress
    )
    x = norm(name="norm2")(x, train)
    return nn.Dense(10, name="head")(jnp.mean(x, axis=(1, 2)))


def recipe(model=None, method="ovsw", **kwargs):
  schedule = optax.constant_schedule(0.1)
  transform = methods.make(method).transform
  tx = optimizer.make("sgd", schedule, weight_decay=5e-4, transform=transform)
  kwargs = {"pad": 1, "flip": True} | kwargs
  return step.Recipe(
    model or Tiny(), tx, schedule, 10, (0.5,) * 3, (0.25,) * 3, **kwargs
  )


def start(r):
  return state.create(r.model, r.tx, jax.random.key(0), (8, 8, 3))


def batch(n=16, seed=0):
  rng = np.random.default_rng(seed)
  images = jnp.asarray(rng.integers(0, 256, (n, 8, 8, 3)), jnp.uint8)
  return images, jnp.asarray(rng.integers(0, 10, n), jnp.int32)


def compiled(r):
  return jax.jit(functools.partial(step.train_step, recipe=r))


def assert_same(a, b, **kwargs):
  check = (
    np.testing.assert_allclose if kwargs else np.testing.assert_array_equal
  )
  jax.tree.map(functools.partial(check, **kwargs), a, b)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_definition(smoothing):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(5, 7)), rng.integers(0, 7, 5)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  target = np.eye(7)[labels] * (1 - smoothing) + smoothing / 7
  actual = step.cross_entropy(jnp.float32(logits), labels, smoothing)
  np.testing.assert_allclose(actual, -(target * log_p).sum(-1), rtol=1e-5)


def test_cross_entropy_widens_half_precision():
  logits = jnp.zeros((1, 3), jnp.bfloat16)
  assert step.cross_entropy(logits, jnp.array([0])).dtype == jnp.float32


def test_metrics_of_the_first_step():
  r = recipe()
  before = start(r)
  after, metrics = compiled(r)(before, *batch(), jax.random.key(1))
  assert set(metrics) == {
    "loss",
    "accuracy",
    "learning_rate",
    "gradient_norm",
    *step.STATISTICS,
    step.BY_LAYER,
  }
  assert all(m.dtype == jnp.float32 for m in metrics.values())
  # One binary layer.
  assert metrics.pop(step.BY_LAYER).tolist() == [0.0]
  assert all(m.shape == () for m in metrics.values())
  np.testing.assert_allclose(metrics["learning_rate"], 0.1)
  # Nothing has had a chance to flip, and SAD calls every weight silent.
  assert float(metrics["flip_rate"]) == 0.0
  assert float(metrics["silent_fraction"]) == 1.0
  assert float(metrics["never_flipped_fraction"]) == 1.0
  assert int(after.step) == 1
  moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after)
  assert all(jax.tree.leaves(moved.params))
  assert all(jax.tree.leaves(moved.batch_stats))


def test_gradient_norm_is_that_of_optax_on_a_gpu_too(request):
  rng = np.random.default_rng(0)
  shapes = [(), (7,), (5, 3), (3, 3, 64, 16)]
  tree = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]
  expected = optax.tree.norm(tree)
  np.testing.assert_allclose(step._norm(tree), expected, rtol=1e-6)
  request.getfixturevalue("as_a_gpu")
  np.testing.assert_allclose(step._norm(tree), expected, rtol=1e-6)


def test_gradient_norm_is_of_the_loss_alone():
  """Neither AGS, SAD nor weight decay is in it."""
  r, plain = recipe(), recipe(method="vanilla")
  key, data = jax.random.key(1), batch()
  first, second = (
    compiled(x)(start(x), *data, key)[1]["gradient_norm"] for x in (r, plain)
  )
  assert float(first) == float(second)


def test_vanilla_has_no_silent_fraction():
  r = recipe(method="vanilla")
  _, metrics = compiled(r)(start(r), *batch(), jax.random.key(1))
  assert "silent_fraction" not in metrics
  assert "flip_rate" in metrics


class Clock(nn.Module):
  """Keeps the progress that it was called with."""

  @nn.compact
  def __call__(self, x, train=False, progress=0.0):
    clock = self.variable("batch_stats", "progress", lambda: jnp.zeros(()))
    if train:
      clock.value = jnp.asarray(progress)
    weight = self.param("latent", nn.initializers.ones, (3, 10))
    return jnp.mean(x, axis=(1, 2)) @ weight


def test_progress_is_the_share_of_steps_made():
  r = recipe(Clock(), method="vanilla")
  s, seen = start(r), []
  take = compiled(r)
  for _ in range(3):
    s, _ = take(s, *batch(4), jax.random.key(1))
    seen.append(float(s.batch_stats["progress"]))
  np.testing.assert_allclose(seen, [0.0, 0.1, 0.2], rtol=1e-6)


def test_augmentation_differs_from_step_to_step_and_repeats():
  r = recipe()
  s, data, key = start(r), batch(), jax.random.key(1)
  later = dataclasses.replace(s, step=s.step + 1)
  take = compiled(r)
  loss = lambda s: float(take(s, *data, key)[1]["loss"])
  assert loss(s) == loss(s)
  assert loss(s) != loss(later)


def test_scanned_and_single_steps_agree():
  r = recipe()
  data, key = batch(), jax.random.key(1)

  def body(s, _):
    return step.train_step(s, *data, key, r)

  scanned, metrics = jax.jit(lambda s: jax.lax.scan(body, s, length=3))(
    start(r)
  )
  s = start(r)
  for i in range(3):
    s, single = jax.jit(body)(s, None)
    np.testing.assert_allclose(metrics["loss"][i], single["loss"], rtol=1e-5)
  assert_same(scanned.params, s.params, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("binary", [True, False])
def test_a_donated_step_copies_no_latent_weight(binary):
  """Whatever reads them is known to come before they change."""
  r = recipe()
  tx = optimizer.make("sgd", r.schedule, transform=None, binary=binary)
  r = dataclasses.replace(r, tx=tx)
  train = jax.jit(
    functools.partial(step.train_step, recipe=r), donate_argnums=0
  )
  arguments = start(r), *batch(), jax.random.key(0)
  program = train.lower(*arguments).compile().as_text()
  latent = r"state_params__conv____latent__[.\d]*"
  assert re.search(latent, program)
  assert not re.search(rf" copy\(%?{latent}\)", program)


@pytest.mark.parametrize("how", ["pmap", "shard_map", "shard_map_unchecked"])
def test_devices_share_a_batch_as_one_device_would_take_it(how):
  """Batch statistics are synchronised by `axis_name`, so results are equal.

  Crops and flips are off: every device draws its own.
  """
  fixed = {"pad": 0, "flip": False}
  one = recipe(Tiny(), **fixed)
  many = recipe(Tiny("data"), **fixed)
  key, data = jax.random.key(1), batch(4 * DEVICES)
  split = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), data)
  devices = jax.devices()[:DEVICES]

  def take(s, images, labels):
    return step.train_step(s, images, labels, key, many, "data")

  # The axis is unbound outside of the map: initialise with the twin.
  expected = actual = start(one)
  if how == "pmap":
    mapped = jax.pmap(
      take, "data", in_axes=(None, 0, 0), out_axes=None, devices=devices
    )
    run = lambda s: mapped(s, *split)
  else:
    mesh = jax.make_mesh(
      (DEVICES,),
      ("data",),
      devices=devices,
      axis_types=(jax.sharding.AxisType.Auto,),
    )
    P = jax.P
    run = jax.jit(
      jax.shard_map(
        take,
        mesh=mesh,
        in_specs=(P(), P("data"), P("data")),
        out_specs=(P(), P()),
        check_vma=how == "shard_map",
      )
    )
    run = functools.partial(lambda f, s: f(s, *data), run)
  for _ in range(2):
    expected, wanted = jax.jit(lambda s: step.train_step(s, *data, key, one))(
      expected
    )
    actual, metrics = run(actual)
    assert_same(metrics, wanted, rtol=2e-5, atol=1e-6)
    assert_same(actual.params, expected.params, rtol=1e-4, atol=1e-6)
    assert_same(actual.batch_stats, expected.batch_stats, rtol=1e-4, atol=1e-6)


def test_eval_counts_no_padding():
  r = recipe()
  s = start(r)
  images, labels = batch(6)
  sums = jax.jit(functools.partial(step.eval_step, s.variables, recipe=r))
  whole = sums(images, labels, jnp.ones(6))
  padded = sums(
    jnp.concatenate([images, images[:2]]),
    jnp.concatenate([labels, labels[:2]]),
    jnp.array([1.0] * 6 + [0.0] * 2),
  )
  assert_same(padded, whole, rtol=1e-6)
  assert float(whole["weight"]) == 6.0


def test_parameter_counts():
  params = start(recipe()).params
  total, binary = state.parameter_counts(params)
  assert binary == 3 * 3 * 4 * 8
  assert total == sum(x.size for x in jax.tree.leaves(params))


def test_abstract_state_has_the_shapes_of_the_real_one():
  r = recipe()
  describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  abstract = state.abstract(r.model, r.tx, (8, 8, 3))
  assert describe(abstract) == describe(start(r))
