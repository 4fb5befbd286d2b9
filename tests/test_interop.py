"""The OvSW authors' checkpoints: read, used, written back, and refused."""

import gzip
import random
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ovsw_jax as ovsw
from ovsw_jax.interop import _pickles, _torch_file, _torch_names
from ovsw_jax.interop import torch as interop
from tests.golden import recipe
from tests.test_models_golden import REFERENCE

FULL = "full/"  # the expected values of the file with optimizer state


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory):
  """Written by the authors' trainer after four epochs, AGS and SAD on."""
  packed = recipe.__file__.replace("recipe.py", "checkpoint_resnet20.pth.gz")
  path = tmp_path_factory.mktemp("authors") / "epoch_3.state"
  with gzip.open(packed) as source:
    path.write_bytes(source.read())
  return path


@pytest.fixture(scope="module")
def checkpoint(authors_file):
  return interop.load(authors_file)


def state_of(name, golden):
  """A reference's state_dict, keys and shapes as the authors' code has them."""
  reference = golden(f"models_{REFERENCE[name][0]}")
  keys = reference["sd_keys"].tolist()
  shapes = [
    tuple(int(d) for d in text.strip("()").split(",") if d.strip())
    for text in reference["sd_shapes"].tolist()
  ]
  scales = dict(
    zip(reference["bn_keys"].tolist(), reference["bn_scale"], strict=True)
  )
  state = recipe.gen_state(keys, shapes, int(reference["seed"]), scales)
  return {key: np.asarray(value) for key, value in state.items()}, reference


def test_the_authors_own_file(checkpoint, golden):
  expected = golden("checkpoint_resnet20_expected")
  assert checkpoint.architecture == "cifar_resnet20"
  for name in ("epoch", "best_acc1", "best_train_acc5"):
    assert checkpoint.metadata[name] == expected[FULL + name]
  trees = {
    **checkpoint.variables,
    _torch_names.FLIP_EMA: checkpoint.flip_ema,
    _torch_names.PREVIOUS: checkpoint.weight_prev,
  }
  keys = expected[FULL + "keys"].tolist()
  assert len(keys) == 157
  for index, key in enumerate(keys):
    if key.endswith(_torch_names.BATCHES):
      continue
    node = trees
    for part in _torch_names.locate(key, "cifar_resnet20"):
      node = node[part]
    value = _torch_names.to_torch(node, key, "cifar_resnet20")
    assert str(value.shape).replace(" ", "") == expected[FULL + "shapes"][
      index
    ].replace(" ", "")
    np.testing.assert_array_equal(
      recipe.sample(value.astype(np.float64)), expected[FULL + "sample"][index]
    )
  images = jnp.asarray(expected["x"].astype(np.float32).transpose(0, 2, 3, 1))
  logits = jax.jit(checkpoint.model().apply)(checkpoint.variables, images)
  np.testing.assert_allclose(logits, expected[FULL + "logits_f64"], atol=2e-5)


def test_its_optimizer_state(checkpoint, golden):
  expected = golden("checkpoint_resnet20_expected")
  tx = optax.chain(
    ovsw.optax.ovsw(),
    ovsw.optax.sign_flips(),
    optax.add_decayed_weights(5e-4),
    optax.sgd(0.1, momentum=0.9),
  )
  before = tx.init(checkpoint.variables["params"])
  state = interop.restore_optimizer(before, checkpoint)
  assert jax.tree.structure(state) == jax.tree.structure(before)
  momentum = optax.tree.get(state, "trace")
  for index, key in enumerate(expected[FULL + "optimizer_order"].tolist()):
    node = momentum
    for part in _torch_names.locate(key, "cifar_resnet20")[1:]:
      node = node[part]
    np.testing.assert_allclose(
      np.linalg.norm(np.asarray(node, np.float64)),
      expected[FULL + "momentum_l2"][index],
      rtol=1e-6,
    )
  latent = checkpoint.flip_ema["layer2_block1"]["conv2"]["latent"]
  assert 0 < latent.mean() < 1
  for read, kept in (
    (ovsw.optax.flip_ema, checkpoint.flip_ema),
    (
      ovsw.optax.positive,
      jax.tree.map(lambda w: w >= 0, checkpoint.weight_prev),
    ),
  ):
    np.testing.assert_array_equal(
      read(state[0])["layer2_block1"]["conv2"]["latent"],
      kept["layer2_block1"]["conv2"]["latent"],
    )
  # The next update sees the flips that the last step of the authors' made.
  params = checkpoint.variables["params"]
  _, after = jax.jit(tx.update)(
    jax.tree.map(jnp.zeros_like, params), state, params
  )
  flipped = jax.tree.map(
    lambda w, prev: np.sum((w >= 0) != (prev >= 0)),
    params["layer2_block1"]["conv2"]["latent"],
    checkpoint.weight_prev["layer2_block1"]["conv2"]["latent"],
  )
  rate = optax.tree.get(after, "flip_rate_per_leaf")
  np.testing.assert_allclose(
    rate["layer2_block1"]["conv2"]["latent"], flipped / latent.size, rtol=1e-6
  )


def test_a_state_of_another_network_is_refused(checkpoint):
  other = ovsw.optax.sad().init({"conv": {"latent": jnp.ones((2, 2))}})
  with pytest.raises(ValueError, match="'conv/latent' of shape"):
    interop.restore_optimizer(other, checkpoint)
  compact = ovsw.optax.sad(state="compact").init(checkpoint.variables["params"])
  with pytest.raises(ValueError, match='state="full"'):
    interop.restore_optimizer(compact, checkpoint)


def test_written_back_it_is_the_same_file(checkpoint, authors_file, tmp_path):
  path = tmp_path / "back.pth"
  interop.save(path, checkpoint)
  ours, theirs = _torch_file.read(path), _torch_file.read(authors_file)
  assert list(ours["state_dict"]) == list(theirs["state_dict"])
  for key, value in theirs["state_dict"].items():
    if not key.endswith(_torch_names.BATCHES):
      np.testing.assert_array_equal(ours["state_dict"][key], value)
  assert (
    ours["optimizer"]["state"].keys() == theirs["optimizer"]["state"].keys()
  )
  for index, buffer in theirs["optimizer"]["state"].items():
    np.testing.assert_array_equal(
      ours["optimizer"]["state"][index]["momentum_buffer"],
      buffer["momentum_buffer"],
    )
  assert [g["params"] for g in ours["optimizer"]["param_groups"]] == [
    g["params"] for g in theirs["optimizer"]["param_groups"]
  ]
  assert ours["arch"] == theirs["arch"] and ours["epoch"] == theirs["epoch"]


def test_torch_reads_what_is_written(checkpoint, tmp_path):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  path = tmp_path / "back.pth"
  interop.save(path, checkpoint)
  content = torch.load(path, weights_only=True)
  weight = content["state_dict"]["layer3.0.conv1.weight"].numpy()
  latent = checkpoint.variables["params"]["layer3_block0"]["conv1"]["latent"]
  np.testing.assert_array_equal(weight.transpose(2, 3, 1, 0), latent)


@pytest.mark.parametrize("state", ("full", "compact"))
def test_our_optimizer_state_is_written(state, checkpoint, tmp_path):
  params = checkpoint.variables["params"]
  tx = optax.chain(ovsw.optax.sad(state=state), optax.sgd(0.1, momentum=0.9))
  gradient = jax.tree.map(lambda p: jnp.full_like(p, 0.5), params)
  _, opt_state = jax.jit(tx.update)(gradient, tx.init(params), params)
  ours = interop.with_optimizer(checkpoint, opt_state)
  interop.save(tmp_path / "ours.pth", ours)
  back = interop.load(tmp_path / "ours.pth")
  latent = params["layer1_block0"]["conv1"]["latent"]
  np.testing.assert_array_equal(
    back.weight_prev["layer1_block0"]["conv1"]["latent"],
    np.where(latent >= 0, 1.0, -1.0),
  )
  np.testing.assert_array_equal(
    back.momentum["head"]["bias"],
    optax.tree.get(opt_state, "trace")["head"]["bias"],
  )


@pytest.mark.parametrize("name", ("cifar_resnet34", "resnet18", "vgg_small"))
@pytest.mark.parametrize("prefix", ("", "module."))
def test_bare_state_dicts_of_other_networks(name, prefix, golden, tmp_path):
  state, reference = state_of(name, golden)
  path = tmp_path / "bare.pth"
  _torch_file.write(path, {prefix + key: v for key, v in state.items()})
  loaded = interop.load(path)
  assert loaded.architecture == name
  assert loaded.num_classes == reference["num_classes"]
  assert loaded.flip_ema is None and loaded.momentum is None
  interop.save(path, loaded)
  again = _torch_file.read(path)["state_dict"]
  assert again.keys() == state.keys()
  for key in state:
    if not key.endswith(_torch_names.BATCHES):
      np.testing.assert_array_equal(again[key], state[key], err_msg=key)


def test_logits_of_a_file_are_the_references(golden, tmp_path):
  """The classifier of VGG is flattened in another order there."""
  state, reference = state_of("vgg_small", golden)
  _torch_file.write(tmp_path / "vgg.pth", {"state_dict": state})
  loaded = interop.load(tmp_path / "vgg.pth")
  images = np.asarray(reference["safe_eval/x"], np.float32)
  logits = jax.jit(loaded.model().apply)(
    loaded.variables, images.transpose(0, 2, 3, 1)
  )
  np.testing.assert_allclose(
    logits, reference["safe_eval/f64/logits"], atol=5e-5
  )


def test_learned_scales_and_prelu(golden, tmp_path):
  state, _ = state_of("cifar_resnet18", golden)
  for key in list(state):
    if ("conv" in key and key != "conv1.weight") or "shortcut.0" in key:
      outputs = state[key].shape[0]
      scale = np.linspace(0.5, 1.5, outputs, dtype=np.float32)
      state[key.replace("weight", "scaling_factor")] = scale
    if key.startswith("layer") and key.endswith(("bn1.weight", "bn2.weight")):
      slope = np.full(state[key].shape, 0.25, np.float32)
      state[key.replace("bn", "act")] = slope
  _torch_file.write(tmp_path / "net.pth", state)
  loaded = interop.load(tmp_path / "net.pth")
  assert loaded.learned_scale and loaded.activation == "prelu"
  logits = jax.eval_shape(
    loaded.model().apply, loaded.variables, jnp.ones((1, 8, 8, 3))
  )
  assert logits.shape == (1, 10)
  interop.save(tmp_path / "back.pth", loaded)
  back = _torch_file.read(tmp_path / "back.pth")["state_dict"]
  assert back.keys() == state.keys()
  with pytest.raises(ValueError, match="order of its parameters"):
    interop.save(
      tmp_path / "x.pth",
      interop.Checkpoint(
        "cifar_resnet18",
        loaded.variables,
        momentum=loaded.variables["params"],
      ),
    )


def test_what_a_network_lacks_is_named(golden, tmp_path):
  state, _ = state_of("cifar_resnet20", golden)
  path = tmp_path / "net.pth"

  def refused(message, **changed):
    _torch_file.write(
      path, {k: v for k, v in (state | changed).items() if v is not None}
    )
    with pytest.raises(ValueError, match=message) as error:
      interop.load(path)
    assert str(path) in str(error.value)

  refused("'layer1.0.bn2.bias' is missing", **{"layer1.0.bn2.bias": None})
  refused("no 'layer1.7.bn9.bias'", **{"layer1.7.bn9.bias": np.ones(2, "f4")})
  refused(
    "'bn1.bias' has, in our layout, the shape", **{"bn1.bias": np.ones(3, "f4")}
  )
  refused("'bn1.bias' has the data type", **{"bn1.bias": np.ones(16, "i8")})
  tracker = {"layer1.0.conv1.tracker": state["layer1.0.conv1.weight"]}
  refused(r"conv\d\.tracker' is missing", **tracker)  # those of all others
  _torch_file.write(path, {"weights": np.ones(3, "f4")})
  with pytest.raises(ValueError, match="none of the OvSW authors' networks"):
    interop.load(path)
  with pytest.raises(FileNotFoundError):
    interop.load(tmp_path / "nowhere.pth")
  with pytest.raises(ValueError, match="have no 'reactnet_a'"):
    interop.save(path, interop.Checkpoint("reactnet_a", {"params": {}}))


def archive(path, pickle, **storages):
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("x/data.pkl", pickle)
    for key, content in storages.items():
      file.writestr(f"x/data/{key.removeprefix('s')}", content)


def test_nothing_in_a_file_is_run(tmp_path):
  import os
  import pickle

  mark = tmp_path / "mark"

  class Payload:
    def __reduce__(self):
      return os.mkdir, (str(mark),)

  path = tmp_path / "evil.pth"
  archive(path, pickle.dumps({"state_dict": Payload()}, protocol=2))
  content = _torch_file.read(path)
  assert isinstance(content["state_dict"], _pickles.Unknown)
  with pytest.raises(ValueError, match="no state_dict"):
    interop.load(path)
  assert not mark.exists()


def test_refused_pickles(tmp_path):
  storage = _pickles.Storage("float32", "0", 4)
  good = _pickles.Tensor(storage, 0, (2, 2), (2, 1))
  path = tmp_path / "file.pth"

  def refused(message, tensor=good, content=bytes(16), tail=b""):
    archive(path, _pickles.write({"a": tensor}) + tail, s0=content)
    with pytest.raises(ValueError, match=message):
      _torch_file.read(path)

  archive(path, _pickles.write({"a": good}), s0=bytes(16))
  assert _torch_file.read(path)["a"].shape == (2, 2)
  refused("storage '0' has 15 bytes", content=bytes(15))
  refused("does not fit its storage", good._replace(offset=1))
  # Views that repeat elements would take any amount of memory.
  refused("does not fit", good._replace(shape=(10**6, 10**6), strides=(0, 0)))
  refused("no counts", good._replace(shape=(2**60, 2)))
  refused("a tensor has shape", good._replace(strides=(1,)))
  refused("has the shape", good._replace(shape=(0, 2**40), strides=(1, 1)))
  unknown = storage._replace(key="9")
  refused("damaged", good._replace(storage=unknown))
  for pickle in (b"", b"\x80\x02", b"\x80\x02K\x01", b"\x80\x02i.", b"."):
    archive(path, pickle)
    with pytest.raises(ValueError, match=r"file\.pth is no checkpoint"):
      _torch_file.read(path)
  # A list within itself; a tuple whose hash would take forever.
  archive(path, b"\x80\x02]q\x00h\x00a.")
  with pytest.raises(ValueError, match="within itself"):
    _torch_file.read(path)
  deep = b"\x80\x02}" + b")" + b"q\x00h\x00\x86" * 60 + b"K\x01s."
  archive(path, deep)
  with pytest.raises(ValueError, match="no text or number"):
    _torch_file.read(path)
  path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")  # before 1.6
  with pytest.raises(ValueError, match=r"PyTorch 1\.6 or later"):
    _torch_file.read(path)
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("x/data.pkl", _pickles.write({"a": good}))
    file.writestr("x/data/0", bytes(2**24))
  with pytest.raises(ValueError, match="larger than itself"):
    _torch_file.read(path)


def test_mutated_files_end_in_one_error(tmp_path):
  """Pickles and archives in turns."""
  path, rng = tmp_path / "file.pth", random.Random(0)
  state = {f"k{i}": np.arange(i + 1, dtype=np.float32) for i in range(3)}
  whole = {"epoch": 3, "state_dict": state, "list": [1.5, None, True, "é"]}
  _torch_file.write(path, whole)
  good = path.read_bytes()
  with zipfile.ZipFile(path) as file:
    root = f"{path.stem}/"
    pickle = file.read(root + "data.pkl")
    storages = {f"s{i}": file.read(f"{root}data/{i}") for i in range(3)}
  outcomes = {"read": 0, "refused": 0}
  file = path.open("r+b", buffering=0)  # a file made anew each time is slow
  for round_ in range(4_000):
    content = bytearray(pickle if round_ % 2 else good)
    for _ in range(rng.randint(1, 3)):
      at = rng.randrange(len(content))
      kind = rng.randrange(3)
      if kind == 0:
        content[at] = rng.randrange(256)
      elif kind == 1:
        del content[at : at + rng.randint(1, 9)]
      else:
        content[at:at] = rng.randbytes(rng.randint(1, 9))
      if not content:
        content = bytearray(b"x")
    try:
      if round_ % 2:
        _pickles.read(bytes(content))
      else:
        file.seek(0)
        file.write(content)
        file.truncate()
        _torch_file.read(path)
      outcomes["read"] += 1
    except ValueError:
      outcomes["refused"] += 1
  file.close()
  assert outcomes["refused"] > 2000
  archive(path, pickle, **storages)
  assert _torch_file.read(path)["list"] == [1.5, None, True, "é"]
