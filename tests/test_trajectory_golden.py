"""Forty training steps against the authors' trainer, in float64.

ResNet-20, SGD with momentum and weight decay, the reference's epoch-wise
schedule, with and without AGS and SAD. At learning rate 0.01 all 40 steps
agree. At 0.1 training is chaotic: a difference in the last bit doubles with
every step until a sign flips, so that only the first 20 steps can be compared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import methods, models
from ovsw_jax.training import optimizer, schedules
from ovsw_jax.training import step as training_step
from ovsw_jax.training.state import TrainState
from tests import torch_layout
from tests.golden import recipe

ARCHITECTURE = "cifar_resnet20"
EPOCHS, STEPS_PER_EPOCH, BATCH = 10, 4, 32
METHODS = {"vanilla": {}, "ags": {"delta": 0.04}, "sad": {"weight": 9e-4}}
METHODS["ovsw"] = METHODS["ags"] | METHODS["sad"]


@functools.cache
def _data():
  images, labels = recipe.gen_train_data()
  return images.transpose(0, 2, 3, 1).astype(np.float64), labels


@functools.cache
def _stepper(decay_1d):
  """One compiled step for every method: without AGS delta is 0, and so on."""
  model = models.make(ARCHITECTURE, num_classes=10, dtype=jnp.float64)

  def make(delta, weight, base):
    schedule = schedules.make(
      "cosine_epoch",
      learning_rate=1.0,
      epochs=EPOCHS,
      steps_per_epoch=STEPS_PER_EPOCH,
      warmup_epochs=2,
      floor=0.0,
    )

    def rate(step):
      floor = jnp.where(step < 2 * STEPS_PER_EPOCH, 0.0, 1e-5)
      return base * schedule(step) + floor

    return training_step.Recipe(
      model=model,
      tx=optimizer.make(
        "sgd",
        rate,
        momentum=0.9,
        weight_decay=5e-4,
        decay_1d=decay_1d,
        transform=methods.make("ovsw", delta=delta, weight=weight).transform,
      ),
      schedule=rate,
      total_steps=EPOCHS * STEPS_PER_EPOCH,
      mean=(0.0,),
      std=(1.0,),
    )

  @jax.jit
  def step(state, images, labels, delta, weight, base):
    return training_step.update(
      state, images, labels, make(delta, weight, base)
    )

  return step, make(0.0, 0.0, 0.1).tx


def _initial(reference, tx):
  shapes = [
    tuple(int(d) for d in text.strip("()").split(",") if d.strip())
    for text in reference["sd_shapes"].tolist()
  ]
  state = recipe.gen_state(reference["sd_keys"].tolist(), shapes, 2001)
  np.testing.assert_array_equal(
    recipe.state_check(state)[1], reference["sd_sum"]
  )
  variables = jax.tree.map(
    jnp.asarray, torch_layout.convert(state, ARCHITECTURE)
  )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    opt_state=tx.init(variables["params"]),
  )


def _per_layer(opt_state, name, reference):
  """A per-leaf statistic in the reference's order of layers."""
  tree = optax.tree.get(opt_state, name)
  return [
    float(
      np.squeeze(
        torch_layout.find({"params": tree}, f"{layer}.weight", ARCHITECTURE)
      )
    )
    for layer in reference["ovsw_layers"].tolist()
  ]


# steps, loss, gradient norm, weight entries after k steps
STEADY = (40, 1e-11, 1e-9, dict.fromkeys((1, 2, 5, 10, 20, 30, 40), 1e-9))
CHAOTIC = (20, 1e-9, 1e-5, {1: 1e-11, 2: 1e-11, 5: 1e-10, 10: 1e-8, 20: 1e-4})


CASES = [(method, True) for method in METHODS] + [("ovsw", False)]


@pytest.mark.parametrize(("method", "decay_1d"), CASES)
@pytest.mark.parametrize("base", (0.01, 0.1), ids=("steady", "chaotic"))
def test_trajectory(base, method, decay_1d, golden, x64):
  steps, loss_bound, norm_bound, marks = STEADY if base == 0.01 else CHAOTIC
  reference = golden(
    "train_resnet20_lr0.01" if base == 0.01 else "train_resnet20"
  )
  prefix = f"{'both' if method == 'ovsw' else method}/nbd{0 if decay_1d else 1}"
  step, tx = _stepper(decay_1d)
  state = _initial(reference, tx)
  images, labels = _data()
  hyperparameters = (
    METHODS[method].get("delta", 0.0),
    METHODS[method].get("weight", 0.0),
    base,
  )
  for t in range(steps):
    batch = slice(
      t % STEPS_PER_EPOCH * BATCH, (t % STEPS_PER_EPOCH + 1) * BATCH
    )
    state, metrics = step(state, images[batch], labels[batch], *hyperparameters)
    assert abs(metrics["loss"] - reference[f"{prefix}/loss"][t]) < loss_bound, t
    np.testing.assert_allclose(
      metrics["learning_rate"],
      reference[f"{prefix}/lr"][t],
      rtol=1e-12,
    )
    np.testing.assert_allclose(
      metrics["gradient_norm"],
      reference[f"{prefix}/gn_before"][t],
      rtol=norm_bound,
    )
    if method in ("sad", "ovsw"):
      np.testing.assert_allclose(
        _per_layer(state.opt_state, "silent_fraction_per_leaf", reference),
        reference[f"{prefix}/silent"][t],
        rtol=1e-6,
      )
    if method in ("ags", "ovsw"):
      np.testing.assert_allclose(
        _per_layer(state.opt_state, "ags_ratio", reference),
        reference[f"{prefix}/ags_ratio"][t],
        rtol=norm_bound,
      )
    if t + 1 in marks:
      for i, key in enumerate(reference["param_keys"].tolist()):
        value = torch_layout.find({"params": state.params}, key, ARCHITECTURE)
        np.testing.assert_allclose(
          recipe.sample(value, 8),
          reference[f"{prefix}/w{t + 1}/sample"][i],
          atol=marks[t + 1],
          rtol=0,
          err_msg=f"{key} after {t + 1} steps",
        )
