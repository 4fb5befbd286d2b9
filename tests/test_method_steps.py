"""What a step does beside the gradient: views, refreshes, teachers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax import methods
from ovsw_jax import nn as layers
from ovsw_jax.training import loop, optimizer, state, step
from tests.test_step import Tiny, batch, compiled, recipe, start

KEY = jax.random.key(1)


def halved(overwrite):
  """Half of the weights, and a little of the last gradient."""
  return methods.View(
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    apply=lambda params, memory, progress: jax.tree.map(
      lambda p, m: 0.5 * p + 0.01 * (1 + progress) * m, params, memory
    ),
    remember=lambda params, gradient: gradient,
    overwrite=overwrite,
  )


def begun(r):
  return state.create(
    r.model, r.tx, jax.random.key(0), (8, 8, 3), view=r.view, refresh=r.refresh
  )


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_view_is_what_the_loss_sees(overwrite):
  r = recipe(view=halved(overwrite), pad=0, flip=False)
  s, data = begun(r), batch()
  take = compiled(r)
  for index in range(2):
    plain = recipe(pad=0, flip=False)
    seen = r.view.apply(s.params, s.memory, index / 10)

    def loss(params, s=s, plain=plain):
      logits, _ = plain.model.apply(
        {"params": params, "batch_stats": s.batch_stats},
        (data[0] / 255.0 - 0.5) / 0.25,
        train=True,
        mutable=["batch_stats"],
      )
      return jnp.mean(step.cross_entropy(logits, data[1]))

    # The view is half the parameters, so is its derivative.
    gradient = jax.tree.map(lambda g: 0.5 * g, jax.grad(loss)(seen))
    base = seen if overwrite else s.params
    updates, _ = r.tx.update(gradient, s.opt_state, base)
    wanted = optax.apply_updates(base, updates)
    after, metrics = take(s, *data, KEY)
    np.testing.assert_allclose(metrics["loss"], loss(seen), rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, after.params, wanted)
    jax.tree.map(close, after.memory, gradient)
    s = after


def test_without_a_view_nothing_is_remembered():
  s, _ = compiled(recipe())(start(recipe()), *batch(), KEY)
  assert s.memory == ()
  assert s.constants == {}


def doubled(variables, progress):
  """All parameters doubled, and one more for the progress."""
  params = jax.tree.map(lambda p: 2 * p + progress, variables["params"])
  return {**variables, "params": params}


def test_a_refresh_precedes_the_first_step_and_its_optimizer_state():
  plain = recipe()
  r = recipe(refresh=doubled)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, 2 * b),
    begun(r).params,
    start(plain).params,
  )
  flipped = recipe(
    refresh=lambda variables, progress: {
      **variables,
      "params": jax.tree.map(jnp.negative, variables["params"]),
    }
  )
  # SAD's signs are those of the refreshed weights: no flip at the first step.
  _, metrics = compiled(flipped)(begun(flipped), *batch(), KEY)
  assert metrics["flip_rate"] == 0


def test_a_refresh_knows_the_progress():
  r = recipe(refresh=doubled, progress_every=5)
  s = begun(r).replace(step=jnp.int32(7))
  before = jax.tree.map(np.asarray, s.params)
  after = loop.refreshed(s, recipe=r, count=1)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, 2 * b + 0.5, rtol=1e-6),
    after.params,
    before,
  )


def test_progress_moves_with_the_epoch():
  r = recipe(progress_every=4)
  seen = [float(r.progress(jnp.int32(i))) for i in range(10)]
  np.testing.assert_allclose(seen, [0.0] * 4 + [0.4] * 4 + [0.8] * 2, rtol=1e-6)


class Turned(nn.Module):
  """A network with variables that only a refresh changes."""

  @nn.compact
  def __call__(self, x, train=False, progress=0.0):
    turn = self.variable("rotations", "turn", lambda: jnp.ones(3))
    kernel = self.param("latent", nn.initializers.ones, (3, 10))
    return (jnp.mean(x, axis=(1, 2)) * turn.value) @ kernel


def test_further_collections_are_kept_and_evaluated():
  def refresh(variables, progress):
    turn = variables["rotations"]["turn"] + 1 + progress
    return {**variables, "rotations": {"turn": turn}}

  r = recipe(Turned(), "vanilla", refresh=refresh)
  s = begun(r)
  assert s.constants["rotations"]["turn"].tolist() == [2, 2, 2]
  s, _ = compiled(r)(s, *batch(), KEY)
  assert s.constants["rotations"]["turn"].tolist() == [2, 2, 2]
  sums = step.eval_step(s.variables, *batch(), jnp.ones(16), r)
  assert np.isfinite(sums["loss"])


def test_the_distribution_loss_is_least_at_the_teacher():
  teacher = jax.random.normal(jax.random.key(0), (5, 10))
  other = jax.random.normal(jax.random.key(1), (5, 10))
  at = step.distribution_loss(teacher, teacher)
  probabilities = jax.nn.softmax(teacher)
  entropy = -jnp.sum(probabilities * jnp.log(probabilities), axis=-1)
  np.testing.assert_allclose(at, entropy, rtol=1e-5)
  assert np.all(step.distribution_loss(other, teacher) > at)
  # Adding to all logits of an example changes nothing.
  np.testing.assert_allclose(
    step.distribution_loss(other + 3, teacher - 2),
    step.distribution_loss(other, teacher),
    rtol=1e-5,
  )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_teacher_has_its_share_of_the_loss(share):
  module = Tiny()
  taught = module.init(jax.random.key(5), jnp.zeros((1, 8, 8, 3)))
  r = recipe(pad=0, flip=False, teacher=module, teacher_weight=share)
  s, (images, labels) = start(r), batch()
  inputs = (images / 255.0 - 0.5) / 0.25
  logits, _ = r.model.apply(
    s.variables, inputs, train=True, mutable=["batch_stats"]
  )
  soft = step.distribution_loss(
    logits, module.apply(taught, inputs, train=False)
  )
  hard = step.cross_entropy(logits, labels)
  _, metrics = jax.jit(functools.partial(step.train_step, recipe=r))(
    s, images, labels, KEY, teacher=taught
  )
  wanted = jnp.mean(share * soft + (1 - share) * hard)
  np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)


def test_rbonns_memory_is_the_raw_gradient_of_the_step_before():
  method = methods.make("rbonn")

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False, progress=0.0):
      x = method.conv(8, 3, name="conv")(x, train, progress)
      x = layers.BatchNorm(name="norm")(x, train)
      return nn.Dense(10, name="head")(jnp.mean(x, axis=(1, 2)))

  tx = optimizer.make("sgd", 0.1, weight_decay=0.5, tail=method.tail)
  r = step.Recipe(
    Net(),
    tx,
    optax.constant_schedule(0.1),
    10,
    (0.5,) * 3,
    (0.25,) * 3,
    view=method.view,
  )
  s = begun(r)
  assert not np.any(s.memory["conv"]["latent"])
  after, metrics = compiled(r)(s, *batch(), KEY)
  remembered = after.memory["conv"]["latent"]
  assert np.any(remembered)
  # Without the weight decay, which goes into the update.
  assert np.linalg.norm(remembered) <= float(metrics["gradient_norm"]) * 1.001
  again, _ = compiled(r)(after, *batch(), KEY)
  moved = jax.tree.leaves(
    jax.tree.map(lambda a, b: np.any(a != b), again.params, after.params)
  )
  assert all(moved)
