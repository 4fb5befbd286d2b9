"""The artifact: round trip, refusals, programs that run elsewhere."""

import json
import random
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from ovsw_jax import deploy, models
from tests import packed_networks

pytest.importorskip("safetensors", reason="safetensors is not installed")
import safetensors.numpy

from ovsw_jax.deploy import _artifact

METADATA = {
  "classes": ["ant", "bee", "cat", "dog", "elk"],
  "mean": [0.5, 0.4, 0.3],
  "std": [0.25, 0.25, 0.5],
  "accuracy": 0.875,
  "provenance": {"config": "a test", "epochs": 3},
}


@pytest.fixture(scope="module")
def packed():
  model = packed_networks.network(activation="prelu")
  return deploy.pack(
    model,
    packed_networks.variables_of(model),
    image_shape=packed_networks.IMAGE,
    metadata=METADATA,
  )


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  shape = (3, *packed_networks.IMAGE)
  return rng.integers(0, 256, size=shape).astype(np.uint8)


@pytest.fixture
def path(packed, tmp_path):
  path = tmp_path / "net.safetensors"
  assert deploy.save(path, packed) == path.stat().st_size
  return path


def test_round_trip(path, packed, images):
  loaded = deploy.load(path)
  assert loaded.description == packed.description
  assert loaded.metadata == METADATA and loaded.image_shape == (8, 8, 3)
  jax.tree.map(
    np.testing.assert_array_equal, loaded.variables, packed.variables
  )
  expected, got = packed.predict(images), loaded.predict(images, top=2)
  np.testing.assert_array_equal(got.labels, expected.labels[:, :2])
  np.testing.assert_allclose(expected.probabilities.sum(axis=1), 1, rtol=1e-5)
  assert np.all(np.diff(expected.probabilities) <= 0)
  assert got.classes[1] == [METADATA["classes"][i] for i in got.labels[1]]
  x = (images / 255 - METADATA["mean"]) / METADATA["std"]
  logits = np.asarray(packed(x.astype(np.float32)))
  np.testing.assert_array_equal(expected.labels[:, 0], logits.argmax(axis=1))


def test_it_is_readable_without_this_package(path, packed):
  """As `docs/deploy.md` describes it: bits by numpy alone."""
  arrays = safetensors.numpy.load_file(path)
  words = arrays["layer2_block0/conv2/words"]
  octets = np.moveaxis(words, 2, 3).astype(words.dtype.newbyteorder("<"))
  octets = np.ascontiguousarray(octets).view(np.uint8)
  bits = np.unpackbits(octets, axis=-1, bitorder="little")
  assert words.shape == (3, 3, 1, 32) and bits.shape == (3, 3, 32, 32)
  latent = packed_networks.variables_of(
    packed_networks.network(activation="prelu")
  )["params"]["layer2_block0"]["conv2"]["latent"]
  np.testing.assert_array_equal(np.moveaxis(bits, 3, 2) == 1, latent >= 0)


def test_the_size_and_the_time_of_resnet18(tmp_path):
  model = models.cifar_resnet18()
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)
  )
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda s: 1 + rng.random(s.shape, np.float32), shapes
  )
  path = tmp_path / "net.safetensors"
  size = deploy.save(path, deploy.pack(model, variables))
  assert size < 1.6e6
  deploy.load(path)

  def seconds():
    begin = time.perf_counter()
    deploy.load(path)
    return time.perf_counter() - begin

  assert min(seconds() for _ in range(5)) < 0.05


def rewritten(path, header=None, arrays=None, **description):
  """A file whose checksum fits what was changed."""
  with safetensors.safe_open(path, framework="numpy") as file:
    old = file.metadata()
  if arrays is None:
    arrays = safetensors.numpy.load_file(path)
  network = json.loads(old["network"])
  for key, value in description.items():
    where = network["options"] if key in network["options"] else network
    where[key] = value
  text = json.dumps(network)
  crc32 = _artifact._crc32(text, arrays)
  header = old | {"network": text, "crc32": crc32} | (header or {})
  safetensors.numpy.save_file(arrays, path, metadata=header)


@pytest.mark.parametrize(
  ("message", "changes"),
  (
    ("its format is 'x'", {"header": {"format": "x"}}),
    ("it is of version '2'", {"header": {"version": "2"}}),
    ("other bits than were written", {"header": {"crc32": "0"}}),
    ("other bits", {"header": {"network": "[" * 10**5}}),
    ("image_shape=", {"image_shape": [8, 8, 10**6]}),
    ("image_shape=", {"image_shape": [8, 8]}),
    ("option 'num_classes'", {"num_classes": -3}),
    ("num_classes is no number", {"num_classes": "many"}),
    ("option 'widths'", {"widths": [16, 2**40]}),
    ("option 'widths'", {"widths": [[16], [32]]}),
    ("'block='", {"block": "huge"}),
    ("has no option 'conv'", {"options": {"num_classes": 5, "conv": 1}}),
    ("has, or lacks, extra", {"extra": 1}),
    ("network 'Net' is not one of", {"network": "Net"}),
    ("binarizer 'x' is not one of", {"binarizer": "x"}),
    ("thresholds are no names", {"thresholds": [1]}),
    ("reduction is no number", {"reduction": 0}),
    ("input_scale is neither", {"input_scale": 1}),
    ("metadata is no object", {"metadata": []}),
    ("std=", {"metadata": {"std": [1, 1, -1]}}),
    ("data type float16", {"arrays": {"a": np.ones(2, np.float16)}}),
  ),
)
def test_wrong_files_end_in_one_error(message, changes, path):
  message = message.replace("'block='", "block='huge' is not one of")
  rewritten(path, **changes)
  with pytest.raises(ValueError, match=message) as error:
    deploy.load(path)
  assert str(path) in str(error.value)
  assert len(str(error.value)) < 600


def test_arrays_that_do_not_fit_are_named_when_it_runs(path, images):
  arrays = safetensors.numpy.load_file(path)
  words = arrays["layer1_block0/conv1/words"]
  arrays["layer1_block0/conv1/words"] = np.zeros((0, 2**40), words.dtype)
  rewritten(path, arrays=arrays)
  with pytest.raises(ValueError, match="do not fit its description"):
    deploy.load(path).predict(images)
  del arrays["layer1_block0/conv1/words"]
  rewritten(path, arrays=arrays, stage_sizes=[1, 2**19])
  with pytest.raises(ValueError, match="do not fit its description"):
    deploy.load(path).predict(images)


def test_files_that_are_none(path, tmp_path):
  with pytest.raises(FileNotFoundError, match="no packed network"):
    deploy.load(tmp_path / "nothing")
  content = path.read_bytes()
  for end in (0, 4, 8, 50, len(content) // 2, len(content) - 1):
    path.write_bytes(content[:end])
    with pytest.raises(ValueError, match="or it is damaged"):
      deploy.load(path)
  path.write_bytes((2**62).to_bytes(8, "little") + content[8:])
  with pytest.raises(ValueError, match="or it is damaged"):
    deploy.load(path)


def test_ten_thousand_mutations(tmp_path):
  model = packed_networks.network().clone(stage_sizes=(1,), widths=(8,))
  packed = deploy.pack(model, packed_networks.variables_of(model))
  path = tmp_path / "net.safetensors"
  deploy.save(path, packed)
  content, rng = path.read_bytes(), random.Random(0)
  header = 8 + int.from_bytes(content[:8], "little")
  harmless = 0
  file = path.open("r+b", buffering=0)  # a file made anew each time is slow
  for _ in range(10_000):
    mutated = bytearray(content)
    for _ in range(rng.randint(1, 3)):
      at = rng.randrange(header if rng.random() < 0.7 else len(content))
      kind = rng.randrange(3)
      if kind == 0:
        mutated[at : at + 1] = rng.randbytes(1)
      elif kind == 1:
        del mutated[at : at + rng.randint(1, 9)]
      else:
        mutated[at:at] = rng.randbytes(rng.randint(1, 9))
    file.seek(0)
    file.write(mutated)
    file.truncate()
    try:
      loaded = deploy.load(path)
    except ValueError as error:
      assert "net.safetensors is no packed network" in str(error)
    else:  # a byte replaced by itself, or white space
      harmless += 1
      assert loaded.description == packed.description
  file.close()
  assert harmless < 200


def test_stablehlo_runs_without_this_package(packed, images, tmp_path):
  path = tmp_path / "net.stablehlo"
  path.write_bytes(deploy.to_stablehlo(packed, platforms=("cpu",)))
  np.save(tmp_path / "images.npy", images)
  code = (
    "import sys, jax, numpy as np\n"
    "from jax import export\n"
    "content = open(sys.argv[1], 'rb').read()\n"
    "images = np.load(sys.argv[2])\n"
    "np.save(sys.argv[3], export.deserialize(content).call(images))\n"
    "assert not {'ovsw_jax', 'flax'} & set(sys.modules)\n"
  )
  out = tmp_path / "logits.npy"
  subprocess.run(
    [sys.executable, "-c", code, path, tmp_path / "images.npy", out],
    check=True,
    cwd=tmp_path,
  )
  x = (images / 255 - METADATA["mean"]) / METADATA["std"]
  np.testing.assert_allclose(
    np.load(out), packed(x.astype(np.float32)), atol=1e-4
  )


@pytest.mark.parametrize("kind", (AttributeError, TypeError))
def test_a_converter_that_does_not_fit_jax_is_named(kind, packed, monkeypatch):
  def to_onnx(*args, **kwargs):
    raise kind("module 'jax._src.core' has no attribute 'X'")

  converter = types.SimpleNamespace(to_onnx=to_onnx)
  monkeypatch.setitem(sys.modules, "jax2onnx", converter)
  with pytest.raises(ImportError, match=r"does not fit jax .*'X'.*jax<0\.11"):
    deploy.to_onnx(packed)


@pytest.mark.skipif(
  jax.__version_info__ >= (0, 11),
  reason="jax2onnx 0.13.0 does not fit jax 0.11, nor 0.17.1 jax 0.12",
)
@pytest.mark.filterwarnings("ignore")  # of the converter and what it imports
@pytest.mark.parametrize("stem", ("cifar", "imagenet"))
def test_onnx_runs_in_onnxruntime(stem, images):
  pytest.importorskip("jax2onnx", reason="jax2onnx is not installed")
  runtime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed"
  )
  model = packed_networks.network(stem=stem, block="bireal", shortcut="pooled")
  if stem == "imagenet":  # whose last stage is too small to pool
    model = model.clone(block="basic", shortcut="binary", activation="prelu")
  packed = deploy.pack(
    model,
    packed_networks.variables_of(model),
    image_shape=packed_networks.IMAGE,
    metadata=METADATA,
  )
  session = runtime.InferenceSession(deploy.to_onnx(packed))
  (logits,) = session.run(["logits"], {"images": images})
  x = (images / 255 - METADATA["mean"]) / METADATA["std"]
  np.testing.assert_allclose(logits, packed(x.astype(np.float32)), atol=1e-4)
  np.testing.assert_array_equal(
    logits.argmax(axis=1), packed.predict(images).labels[:, 0]
  )


def test_export_and_predict(tmp_path):
  model = packed_networks.network()
  variables = packed_networks.variables_of(model)
  path = tmp_path / "net.safetensors"
  report = deploy.export(
    model, variables, path, image_shape=(8, 8, 3), metadata=METADATA
  )
  assert report["bytes"] == path.stat().st_size and report["notes"] == []
  image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, size=(20, 30, 3)).astype(np.uint8)
  image.fromarray(pixels).save(tmp_path / "wide.png")
  image.fromarray(pixels[:8, :8]).save(tmp_path / "exact.png")
  got = deploy.predict(
    path, [tmp_path / "wide.png", tmp_path / "exact.png"], top=3
  )
  assert [len(row) for row in got.classes] == [3, 3]
  exact = deploy.load(path).predict(pixels[:8, :8], top=3)
  np.testing.assert_allclose(
    got.probabilities[1], exact.probabilities[0], rtol=1e-5
  )
  (tmp_path / "text.png").write_text("no image")
  (tmp_path / "cut.png").write_bytes((tmp_path / "wide.png").read_bytes()[:200])
  for name in ("text.png", "cut.png"):
    with pytest.raises(ValueError, match=rf"{name} is not an image"):
      deploy.predict(path, [tmp_path / name])
  with pytest.raises(FileNotFoundError, match=r"no image .*none\.png"):
    deploy.predict(path, [tmp_path / "none.png"])
  with pytest.raises(ValueError, match="format='tflite' is not one of"):
    deploy.export(model, variables, path, format="tflite")
