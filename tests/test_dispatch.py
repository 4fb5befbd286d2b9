"""The host keeps out of the way: donation, compilations, order of reading."""

import re

import jax
import jax.monitoring
import numpy as np
import optax
import pytest

from ovsw_jax.training import carried, checkpoint, experiment, loop, records
from ovsw_jax.training import state as train_state
from tests.test_loop import lines, smoke

pytestmark = pytest.mark.usefixtures("tiny")

# Five steps an epoch, in dispatches of three and of two.
UNEVEN = {"train__chunk": 3, "data__limit": 85, "train__log_every": 1}


def dispatch(config, length):
  """The arguments of one dispatch of a new run."""
  run = experiment.build(config)
  train = jax.device_put(run.dataset.train)
  order = loop.epoch_order(run.order_key, 0, n=len(train.labels))
  state = run.initial_state()
  state = carried.pack(state, axes=state.step.ndim)
  positional = (state, train, order, run.augment_key)
  named = {
    "recipe": run.recipe,
    "batch_size": config.train.batch_size,
    "length": length,
  }
  return positional, named


@pytest.mark.parametrize(
  ("replicas", "length"), [(1, 1), (1, 3), (2, 1), (2, 3)]
)
def test_the_state_is_updated_in_its_own_memory(replicas, length):
  """Each array of it in the very place of the one before.

  JAX pairs what is donated with results of the same shape, in their order, so
  one argument that is left out for not being read would move those behind it.
  Warnings are errors here: an unusable donation would be one.
  """
  positional, named = dispatch(smoke(replicas=replicas), length)
  leaves = jax.tree.leaves(positional[0])
  opt_state = carried.unpack(positional[0]).opt_state
  assert optax.tree.get(opt_state, "ags_filter_ratio") is not None
  program = loop.train_chunk.lower(*positional, **named).compile().as_text()
  pairs = re.findall(r"{(\d+)}: \((\d+), {}, \w+-alias\)", program)
  assert [tuple(map(int, pair)) for pair in pairs] == [
    (i, i) for i in range(len(leaves))
  ]
  after, _ = loop.train_chunk(*positional, **named)
  assert all(leaf.is_deleted() for leaf in leaves)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(positional[1:]))
  after = carried.unpack(after)
  assert after.step.shape == (() if replicas == 1 else (replicas,))


def test_a_restored_state_is_donated_like_a_new_one(tmp_path):
  positional, named = dispatch(smoke(), 1)
  state = carried.unpack(positional[0])
  checkpoint.save(tmp_path, 1, state)
  _, state = checkpoint.restore_latest(tmp_path, state)
  state = carried.pack(state)
  loop.train_chunk(state, *positional[1:], **named)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_a_snapshot_outlives_the_state():
  positional, named = dispatch(smoke(), 1)
  state = positional[0]
  before = jax.tree.map(np.array, state)
  copy = records.snapshot((state, None))
  loop.train_chunk(*positional, **named)
  jax.tree.map(np.testing.assert_array_equal, copy, (before, None))


@pytest.mark.parametrize("replicas", [1, 2])
def test_nothing_is_compiled_after_the_first_epoch(
  tmp_path, monkeypatch, replicas
):
  compilations, at_end_of_epoch = [], []

  def listen(event, *_, **__):
    if event == "/jax/core/compile/backend_compile_duration":
      compilations.append(event)

  def save(*_, **__):
    at_end_of_epoch.append(len(compilations))

  monkeypatch.setattr(checkpoint, "save", save)
  jax.monitoring.register_event_duration_secs_listener(listen)
  before = loop.train_chunk._cache_size()
  try:
    loop.train_and_evaluate(
      smoke(train__epochs=4, replicas=replicas, **UNEVEN), tmp_path
    )
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  first, *later = at_end_of_epoch
  assert first > 0
  assert later == [first] * 3
  assert loop.train_chunk._cache_size() == before + 2  # three steps, and two


def test_every_dispatch_precedes_the_reading_of_the_one_before(
  tmp_path, monkeypatch
):
  """Also over the ends of epochs, with evaluation and checkpoint in between."""
  events = []
  train_chunk, read = loop.train_chunk, records.Records._read
  save = checkpoint.save

  def noted_dispatch(state, *args, **kwargs):
    events.append("dispatch")
    return train_chunk(state, *args, **kwargs)

  def noted_read(self, first_step, length, metrics):
    events.append(f"read {first_step}+{length}")
    read(self, first_step, length, metrics)

  def noted_save(directory, step, tree, **kwargs):
    events.append(f"save {step}")
    assert isinstance(tree, train_state.TrainState)
    save(directory, step, tree, **kwargs)

  monkeypatch.setattr(loop, "train_chunk", noted_dispatch)
  monkeypatch.setattr(records.Records, "_read", noted_read)
  monkeypatch.setattr(checkpoint, "save", noted_save)
  loop.train_and_evaluate(smoke(**UNEVEN), tmp_path)
  assert events == [
    "dispatch",
    "dispatch",
    "read 0+3",
    "dispatch",
    "read 3+2",
    "save 5",
    "dispatch",
    "read 5+3",
    "read 8+2",
    "save 10",
  ]
  # And a record for every step, whatever a dispatch makes.
  assert [r["step"] for r in lines(tmp_path, "train")] == list(range(1, 11))
  assert [r["step"] for r in lines(tmp_path, "eval")] == [5, 10]
  assert all(r["seconds"] > 0 for r in lines(tmp_path, "eval"))
