"""Schedules: the reference's tables, and how they behave on a device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax.training import schedules


def _run(name, step, **args):
  args = {"learning_rate": 0.1, "epochs": 10, "steps_per_epoch": 7} | args
  return schedules.make(name, **args)(step)


def test_tables_equal_the_reference(golden):
  archive = golden("schedules")
  seen = set()
  for name in archive["names"]:
    policy, settings = str(name).split("/")
    epochs, warmup, lr, every, gamma = (
      field.lstrip("abcdefghijklmnopqrstuvwxyz")
      for field in settings.split("_")
    )
    epochs, warmup, every = int(epochs), int(warmup), int(every)
    lr, gamma = float(lr), float(gamma)
    if policy == "cosine_lr":
      table = schedules.cosine_epoch(lr, epochs, warmup)
    elif policy == "constant_lr":
      table = schedules.constant_epoch(lr, epochs, warmup)
    else:
      table = schedules.multistep_epoch(lr, epochs, every, gamma)
    assert table.dtype == np.float64
    np.testing.assert_allclose(table, archive[str(name)], rtol=0, atol=1e-12)
    seen.add(policy)
  assert seen == {"cosine_lr", "constant_lr", "multistep_lr"}
  assert len(archive["names"]) == 21


def test_linear_is_reactnets_and_its_relatives():
  """RBONN's steps after an epoch, ReActNet's code before it."""
  late = [float(_run("linear", step)) for step in range(0, 70, 7)]
  early = [float(_run("linear_early", step)) for step in range(0, 70, 7)]
  np.testing.assert_allclose(late, 0.1 * (1 - np.arange(10) / 10), rtol=1e-6)
  np.testing.assert_allclose(early[:-1], late[1:], rtol=1e-6)
  assert early[-1] == 0.0
  assert _run("linear", 6) == _run("linear", 0)


def test_made_schedule_equals_the_reference_in_float64(golden, x64):
  del x64
  expected = golden("schedules")["cosine_lr/e600_w5_lr0.1_adj30_g0.1"]
  schedule = schedules.make(
    "cosine_epoch",
    learning_rate=0.1,
    epochs=600,
    steps_per_epoch=196,
    warmup_epochs=5,
  )
  got = jax.jit(jax.vmap(schedule))(jnp.arange(600 * 196))
  np.testing.assert_allclose(got, np.repeat(expected, 196), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_traced_and_concrete_steps_agree(name):
  schedule = schedules.make(
    name, learning_rate=0.1, epochs=9, steps_per_epoch=5, warmup_epochs=2
  )
  steps = np.arange(60)
  traced = jax.jit(jax.vmap(schedule))(steps)
  assert traced.dtype == jnp.float32
  concrete = np.array([schedule(int(step)) for step in steps])
  np.testing.assert_allclose(traced, concrete, rtol=0, atol=3e-8)
  assert np.all(traced >= 0)
  assert np.max(traced) <= 0.1 + 1.01e-5


@pytest.mark.parametrize("name", ["cosine_epoch", "constant", "multistep"])
def test_epoch_wise_schedules_change_between_epochs_only(name):
  schedule = schedules.make(
    name, learning_rate=0.1, epochs=9, steps_per_epoch=5, warmup_epochs=2
  )
  rates = np.asarray(jax.vmap(schedule)(jnp.arange(45))).reshape(9, 5)
  np.testing.assert_array_equal(rates, np.repeat(rates[:, :1], 5, axis=1))


def test_step_wise_cosine_has_no_visible_float32_drift():
  # ImageNet's length: 200 epochs of 2503 steps.
  total, warmup = 200 * 2503, 5 * 2503
  schedule = schedules.cosine(0.1, total, warmup)
  steps = np.arange(0, total, 37)
  exact = np.where(
    steps < warmup,
    0.1 * (steps + 1) / warmup,
    0.05 * (1 + np.cos(np.pi * (steps - warmup) / (total - warmup))),
  )
  got = jax.jit(jax.vmap(schedule))(steps)
  np.testing.assert_allclose(got, exact, rtol=0, atol=2e-8)


def test_step_wise_cosine_shape():
  schedule = schedules.cosine(0.1, 1000, 100)
  rates = np.asarray(jax.vmap(schedule)(jnp.arange(1100)))
  assert rates[0] > 0
  assert np.all(np.diff(rates[:100]) > 0)
  assert np.all(np.diff(rates[100:1000]) <= 0)
  assert rates[99] == rates[100] == np.float32(0.1)
  np.testing.assert_allclose(rates[1000:], 0, atol=1e-8)


def test_after_the_end_the_last_epoch_stays():
  assert _run("cosine_epoch", 70) == _run("cosine_epoch", 69)
  assert _run("cosine_epoch", 2**31 - 1) == _run("cosine_epoch", 69)


def test_multistep_ignores_the_warmup():
  assert _run("multistep", 0, warmup_epochs=5) == np.float32(0.1)


def test_multistep_after_a_warmup_is_irnets():
  made = [
    float(_run("multistep_warmup", 7 * epoch, warmup_epochs=4, every=6))
    for epoch in range(10)
  ]
  expected = [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01]
  np.testing.assert_allclose(made, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ({"warmup_epochs": 10}, "warmup_epochs=10 must be below epochs=10"),
    ({"warmup_epochs": 11}, "warmup_epochs=11 must be below epochs=10"),
    ({"warmup_epochs": -1}, "warmup_epochs must be at least 0"),
    ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ({"epochs": -3}, "epochs must be at least 1, got -3"),
    ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, got 0"),
    ({"learning_rate": -0.1}, "learning_rate must be finite and at least 0"),
    ({"learning_rate": float("nan")}, "learning_rate must be finite"),
  ],
)
@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_wrong_values_are_one_clear_error(name, args, message):
  with pytest.raises(ValueError, match=message):
    _run(name, 0, **args)


@pytest.mark.parametrize(
  ("name", "args", "message"),
  [
    ("cosine_epoch", {"floor": -1e-5}, "floor must be finite and at least 0"),
    ("multistep", {"every": 0}, "every must be at least 1 epoch, got 0"),
    ("multistep", {"gamma": -1.0}, "gamma must be finite and at least 0"),
    ("line", {}, "Unknown schedule 'line'; known.*cosine_epoch.*multistep"),
  ],
)
def test_wrong_values_of_one_schedule(name, args, message):
  with pytest.raises(ValueError, match=message):
    _run(name, 0, **args)
