"""Checkpoints: the bits that were saved, or one error that says what to do."""

import gc
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ovsw_jax.training import checkpoint


class _Statistics(NamedTuple):
  flip_ema: Any
  positive: Any
  flips: Any
  nothing: Any


@flax.struct.dataclass
class _State:
  step: Any
  key: Any
  params: Any
  batch_stats: Any
  opt_state: Any


def _state(seed=0):
  key = jax.random.key(seed)
  params = {
    "conv": {"latent": jax.random.normal(key, (3, 3, 2, 4))},
    "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)},
  }
  params["head"]["kernel"] *= jnp.float32(1e-40)  # denormals are bits as well
  momentum = optax.masked(
    optax.trace(0.9),
    {"conv": {"latent": True}, "head": {"kernel": False, "bias": False}},
  )
  statistics = _Statistics(
    jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), params),
    jax.tree.map(lambda leaf: leaf > 0, params),
    jax.tree.map(lambda leaf: (leaf * 1e6).astype(jnp.int32), params),
    None,
  )
  return _State(
    step=jnp.int32(7 + seed),
    key=key,
    params=params,
    batch_stats={},
    opt_state=(
      momentum.init(params),
      optax.EmptyState(),
      statistics,
      [jnp.arange(5, dtype=jnp.uint8), jnp.ones(3, jnp.bfloat16) / 3],
      jnp.zeros((0, 4)),
      jax.random.split(jax.random.key(3, impl="rbg"), 2),
    ),
  )


def _assert_same_bits(got, expected):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for left, right in zip(
    jax.tree.leaves(got), jax.tree.leaves(expected), strict=True
  ):
    assert isinstance(left, jax.Array)
    assert left.dtype == right.dtype
    if jnp.issubdtype(right.dtype, jax.dtypes.prng_key):
      left, right = jax.random.key_data(left), jax.random.key_data(right)
    left, right = np.asarray(left), np.asarray(right)
    assert left.shape == right.shape
    assert left.tobytes() == right.tobytes()


def _abstract(tree):
  return jax.eval_shape(lambda: tree)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """One checkpoint to damage copies of."""
  directory = tmp_path_factory.mktemp("saved")
  checkpoint.save(directory, 10, _state())
  return directory


def test_round_trip_is_bit_for_bit(saved):
  step, tree = checkpoint.restore_latest(saved, _abstract(_state()))
  assert step == 10
  _assert_same_bits(tree, _state())


def test_a_concrete_template_works_and_is_not_changed(saved):
  template = _state(seed=5)
  _assert_same_bits(checkpoint.restore(saved, 10, template), _state())
  _assert_same_bits(template, _state(seed=5))


def test_restored_state_trains_on_under_jit(saved):
  state = checkpoint.restore(saved, 10, _abstract(_state()))
  doubled = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree))(
    state.params
  )
  np.testing.assert_array_equal(
    doubled["conv"]["latent"], 2 * _state().params["conv"]["latent"]
  )


def test_some_top_level_keys_can_be_read_alone(saved):
  state = _state()
  template = {
    "params": _abstract(state.params),
    "batch_stats": state.batch_stats,
  }
  part = checkpoint.restore(saved, 10, template)
  _assert_same_bits(
    part, {"params": state.params, "batch_stats": state.batch_stats}
  )
  with pytest.raises(ValueError, match=r"leaf '.*is in it and not wanted"):
    checkpoint.restore_latest(saved, template)


def test_variables_need_no_template(saved):
  state = _state()
  parts = checkpoint.variables(saved, 10, ("params", "batch_stats", "absent"))
  assert parts.pop("absent") == {}
  _assert_same_bits(
    parts, {"params": state.params, "batch_stats": state.batch_stats}
  )
  with pytest.raises(FileNotFoundError, match="No checkpoint of step 11"):
    checkpoint.variables(saved, 11, ("params",))


def test_sharding_of_the_template_is_the_sharding_of_the_result(tmp_path):
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharded = jax.NamedSharding(mesh, jax.P("data"))
  replicated = jax.NamedSharding(mesh, jax.P())
  tree = {
    "a": jax.device_put(jnp.arange(16.0), sharded),
    "b": jax.device_put(jnp.arange(3), replicated),
    "key": jax.device_put(jax.random.key(0), replicated),
  }
  checkpoint.save(tmp_path, 1, tree)
  restored = checkpoint.restore(tmp_path, 1, tree)
  _assert_same_bits(restored, tree)
  for name in tree:
    assert restored[name].sharding.is_equivalent_to(
      tree[name].sharding, tree[name].ndim
    )
  # And onto another layout: what was sharded over eight comes back on one.
  _assert_same_bits(checkpoint.restore(tmp_path, 1, _abstract(tree)), tree)


def test_python_and_numpy_scalars(tmp_path):
  tree = {"a": 3, "b": 0.5, "c": np.float32(2), "d": True, "e": np.arange(3)}
  tree["e"] = tree["e"].astype(np.uint8)
  checkpoint.save(tmp_path, 1, tree)
  restored = checkpoint.restore(tmp_path, 1, tree)
  assert [int(restored[k]) for k in "ac"] == [3, 2]
  assert restored["d"].dtype == bool
  assert restored["e"].dtype == np.uint8


def test_no_checkpoint_is_none(tmp_path):
  assert checkpoint.restore_latest(tmp_path, {}) is None
  assert checkpoint.restore_latest(tmp_path / "absent", {}) is None
  assert checkpoint.steps(tmp_path / "absent") == []
  assert not (tmp_path / "absent").exists()


def test_only_the_newest_are_kept(tmp_path):
  for step in (1, 2, 10, 30):
    checkpoint.save(tmp_path, step, {"x": jnp.int32(step)}, keep=2)
  assert checkpoint.steps(tmp_path) == [10, 30]
  assert sorted(entry.name for entry in tmp_path.iterdir()) == ["10", "30"]
  assert int(checkpoint.restore(tmp_path, 10, {"x": 0})["x"]) == 10
  step, tree = checkpoint.restore_latest(tmp_path, {"x": 0})
  assert (step, int(tree["x"])) == (30, 30)


def test_leavings_of_a_killed_save_are_ignored_and_swept(tmp_path):
  checkpoint.save(tmp_path, 1, {"x": 1})
  stale = tmp_path / "2.writing.orbax-checkpoint-tmp"
  shutil.copytree(tmp_path / "1", stale)
  shutil.copytree(tmp_path / "1", tmp_path / "2.writing")
  shutil.copytree(tmp_path / "1", tmp_path / "0.deleted")
  assert checkpoint.steps(tmp_path) == [1]
  step, _ = checkpoint.restore_latest(tmp_path, {"x": 0})
  assert step == 1
  checkpoint.save(tmp_path, 2, {"x": 2}, keep=2)
  assert sorted(entry.name for entry in tmp_path.iterdir()) == ["1", "2"]


def test_saving_makes_no_noise(tmp_path, caplog):
  caplog.set_level("INFO", logger="absl")
  checkpoint.save(tmp_path, 1, {"x": 1})
  checkpoint.restore_latest(tmp_path, {"x": 0})
  assert not caplog.records


def _files(directory):
  return sorted(
    str(path.relative_to(directory))
    for path in pathlib.Path(directory).rglob("*")
    if path.is_file()
  )


@pytest.mark.parametrize("damage", ["emptied", "truncated", "flipped", "gone"])
def test_every_damaged_file_is_noticed(saved, tmp_path, damage, caplog, capfd):
  template, tried = _abstract(_state()), 0
  for name in _files(saved / "10"):
    directory = tmp_path / name.replace("/", "_")
    shutil.copytree(saved, directory)
    victim = directory / "10" / name
    content = victim.read_bytes()
    if not content:
      continue
    if damage == "gone":
      victim.unlink()
    elif damage == "flipped":
      middle = len(content) // 2
      byte = bytes([content[middle] ^ 128])
      victim.write_bytes(content[:middle] + byte + content[middle + 1 :])
    else:
      os.truncate(victim, len(content) // 2 if damage == "truncated" else 0)
    with pytest.raises(ValueError, match=r"is damaged or was not") as caught:
      checkpoint.restore_latest(directory, template)
    assert str(directory / "10") in str(caught.value)
    assert name in str(caught.value) or name == "manifest.json"
    assert str(caught.value).endswith("Remove that directory to start anew.")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    tried += 1
  assert tried >= 8
  # One error is all there is to see: Orbax and asyncio stay silent.
  gc.collect()
  assert not caplog.records
  assert capfd.readouterr() == ("", "")


def test_a_changed_manifest_is_damage_and_not_another_tree(saved, tmp_path):
  for old, new in (("float32", "float16"), ('"dtype"', '"dtypf"'), ("8", "9")):
    directory = tmp_path / new.strip('"')
    shutil.copytree(saved, directory)
    manifest = directory / "10" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"is damaged .* manifest\.json has"):
      checkpoint.restore_latest(directory, _abstract(_state()))


def _saved_thrice(directory):
  for step in (3, 5, 7):
    checkpoint.save(directory, step, {"x": jnp.arange(4) + step}, keep=3)


def test_damaged_checkpoints_are_put_aside_for_the_good_one_before(tmp_path):
  _saved_thrice(tmp_path)
  for step in (5, 7):
    os.truncate(tmp_path / str(step) / "state" / "manifest.ocdbt", 0)
  with pytest.warns(
    UserWarning, match=r"(5|7) is damaged .* from step 3\."
  ) as w:
    step, tree = checkpoint.restore_latest(tmp_path, {"x": jnp.arange(4)})
  assert (step, len(w)) == (3, 2)
  np.testing.assert_array_equal(tree["x"], np.arange(4) + 3)
  assert checkpoint.steps(tmp_path) == [3]
  # They stay, for whoever wants to look, and a second one of a step as well.
  checkpoint.save(tmp_path, 5, {"x": jnp.arange(4)}, keep=3)
  assert (tmp_path / "5.damaged").is_dir() and (tmp_path / "7.damaged").is_dir()
  os.truncate(tmp_path / "5" / "state" / "manifest.ocdbt", 0)
  with pytest.warns(UserWarning, match=r"It is now .*5\.damaged1"):
    checkpoint.restore_latest(tmp_path, {"x": jnp.arange(4)})


def test_where_all_are_damaged_nothing_is_moved(tmp_path):
  _saved_thrice(tmp_path)
  for step in (3, 5, 7):
    os.truncate(tmp_path / str(step) / "state" / "manifest.ocdbt", 0)
  with pytest.raises(ValueError, match=r"7 is damaged .* go on from step 5\."):
    checkpoint.restore_latest(tmp_path, {"x": jnp.arange(4)})
  assert checkpoint.steps(tmp_path) == [3, 5, 7]


def test_another_trees_checkpoint_is_no_reason_to_go_back(tmp_path):
  _saved_thrice(tmp_path)
  with pytest.raises(ValueError, match="7"):
    checkpoint.restore_latest(tmp_path, {"y": jnp.arange(4)})
  assert checkpoint.steps(tmp_path) == [3, 5, 7]


@pytest.mark.parametrize("content", [{}, {"10/notes.txt": "hello"}])
def test_a_foreign_directory_is_refused(tmp_path, content):
  (tmp_path / "10").mkdir()
  for name, text in content.items():
    (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match="was not written by ovsw_jax"):
    checkpoint.restore_latest(tmp_path, {"x": 0})


def test_a_foreign_orbax_checkpoint_is_refused(tmp_path):
  checkpoint.ocp.save(tmp_path / "10", {"x": jnp.arange(3)})
  with pytest.raises(ValueError, match="not written by ovsw_jax"):
    checkpoint.restore_latest(tmp_path, {"x": jnp.arange(3)})


def _another(change):
  state = _state()
  params = dict(state.params)
  if change == "shape":
    params["conv"] = {"latent": jnp.ones((3, 3, 2, 5))}
  elif change == "dtype":
    params["conv"] = {"latent": jnp.ones((3, 3, 2, 4), jnp.bfloat16)}
  elif change == "missing":
    del params["conv"]
  elif change == "extra":
    params["stem"] = {"kernel": jnp.ones(3)}
  elif change == "key":
    return state.replace(key=jax.random.key(0, impl="rbg"))
  return state.replace(params=params)


@pytest.mark.parametrize(
  ("change", "leaf", "text"),
  [
    (
      "shape",
      "params/conv/latent",
      r"float32\[3, 3, 2, 4\] in it, and float32\[3, 3, 2, 5\] is wanted",
    ),
    ("dtype", "params/conv/latent", r"and bfloat16\[3, 3, 2, 4\] is wanted"),
    ("missing", "params/conv/latent", "is in it and not wanted"),
    ("extra", "params/stem/kernel", "is wanted and not in it"),
    ("key", "key", r"key<fry>\[\] in it, and key<rbg>\[\] is wanted"),
  ],
)
def test_another_tree_names_the_first_leaf_that_differs(
  saved, change, leaf, text
):
  with pytest.raises(ValueError, match=rf"leaf '{leaf}' is.*{text}|{text}"):
    checkpoint.restore_latest(saved, _abstract(_another(change)))
  with pytest.raises(ValueError, match=rf"10 does not fit: leaf '{leaf}' is"):
    checkpoint.restore(saved, 10, _abstract(_another(change)))


def test_an_absent_step_lists_those_that_exist(saved):
  with pytest.raises(
    FileNotFoundError, match=r"step 11 in .*; steps there: 10"
  ):
    checkpoint.restore(saved, 11, {"x": 0})


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ({"keep": 0}, "keep must be at least 1 checkpoint, got 0"),
    ({"step": -1}, "step must be at least 0, got -1"),
    ({"step": 4}, "step 4 does not follow step 4"),
    ({"step": 3}, "step 3 does not follow step 4"),
    ({"tree": {"name": "resnet"}}, "Leaf 'name' is a str"),
    ({"tree": {"x": np.arange(3.0)}}, "Leaf 'x' is float64, which JAX would"),
    ({"tree": {"a/b": 1, "a": {"b": 2}}}, "Two leaves .* have the same path"),
  ],
)
def test_wrong_input_is_one_error_and_changes_nothing(tmp_path, args, message):
  checkpoint.save(tmp_path, 4, {"x": 1})
  args = {"step": 5, "tree": {"x": 1}} | args
  with pytest.raises(ValueError, match=message):
    checkpoint.save(tmp_path, **args)
  assert [entry.name for entry in tmp_path.iterdir()] == ["4"]


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
  checkpoint.save(tmp_path, 4, {"x": 1})

  def full_disk(path, *_, **__):
    path.with_name(f"{path.name}.orbax-checkpoint-tmp").mkdir()
    raise RuntimeError("No space left on device\nand forty more lines")

  monkeypatch.setattr(checkpoint.ocp, "save", full_disk)
  with pytest.raises(OSError, match=r"written: No space left on device. Free"):
    checkpoint.save(tmp_path, 5, {"x": 1})
  assert [entry.name for entry in tmp_path.iterdir()] == ["4"]


def test_a_file_in_the_place_of_the_directory(tmp_path):
  (tmp_path / "checkpoints").write_text("")
  with pytest.raises(OSError, match="could not be written"):
    checkpoint.save(tmp_path / "checkpoints", 5, {"x": 1})
