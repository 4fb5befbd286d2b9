"""TFDS data, read without TensorFlow.

The prepared data sets are real: TFDS writes features and labels, array_record
the records; only what TFDS does by way of TensorFlow is done here, the encoding
of images and the file of information.
"""

import io
import json
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

from ovsw_jax import data
from ovsw_jax.data import tfds

CLASSES = {
  "cifar10": [f"class{label}" for label in range(10)],
  "cifar100": [f"fine{label}" for label in range(100)],
}


def features(name):
  members = {
    "id": tensorflow_datasets.features.Text(),
    "image": tensorflow_datasets.features.Image(shape=(32, 32, 3)),
    "label": tensorflow_datasets.features.ClassLabel(names=CLASSES[name]),
  }
  if name == "cifar100":
    members["coarse_label"] = tensorflow_datasets.features.ClassLabel(
      num_classes=20
    )
  return tensorflow_datasets.features.FeaturesDict(members)


def record(image, label, keys):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  example = example_pb2.Example()
  for key in keys:
    feature = example.features.feature[key]
    if key == "image":
      feature.bytes_list.value.append(file.getvalue())
    elif key == "id":
      feature.bytes_list.value.append(b"train_00001")
    else:
      feature.int64_list.value.append(label if key == "label" else 0)
  return example.SerializeToString()


def prepare(
  root, name="cifar10", *, version="3.0.2", seed=0, file_format="array_record"
):
  """Prepares a tiny data set; returns {split: (images, labels)}."""
  directory = root / name / version
  directory.mkdir(parents=True)
  described = features(name)
  described.save_config(directory)
  described.save_metadata(directory)
  rng = np.random.default_rng(seed)
  splits, infos = {}, []
  for split, shards in (("train", (7, 5)), ("test", (4,))):
    n = sum(shards)
    images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, len(CLASSES[name]), n)
    splits[split] = (images, labels)
    start = 0
    for shard, length in enumerate(shards):
      path = directory / (
        f"{name}-{split}.{file_format}-{shard:05d}-of-{len(shards):05d}"
      )
      writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
      for index in range(start, start + length):
        writer.write(record(images[index], labels[index], described.keys()))
      writer.close()
      start += length
    infos.append(
      {
        "name": split,
        "shardLengths": [str(length) for length in shards],
        "numBytes": "1",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
      }
    )
  info = {
    "name": name,
    "version": version,
    "fileFormat": file_format,
    "splits": infos,
  }
  (directory / "dataset_info.json").write_text(json.dumps(info))
  return splits


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_prepared_data_is_read_whole_and_in_order(tmp_path, name):
  written = prepare(tmp_path, name)
  loaded = data.load(f"tfds:{name}", data_dir=tmp_path)
  assert loaded.name == f"tfds:{name}"
  assert loaded.classes == tuple(CLASSES[name])
  for split, (images, labels) in written.items():
    read = getattr(loaded, split)
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.labels, labels)
    assert read.images.dtype == np.uint8 and read.labels.dtype == np.int32
  # The authors use CIFAR-10's statistics for both.
  assert loaded.mean == (0.491, 0.482, 0.447)
  assert loaded.std == (0.247, 0.243, 0.262)


def test_reading_imports_no_tensorflow_and_opens_no_connection(tmp_path):
  prepare(tmp_path)
  code = (
    "import socket, sys\n"
    "def refuse(*args): raise AssertionError(f'connection to {args[1:]}')\n"
    "socket.socket.connect = socket.getaddrinfo = refuse\n"
    "from ovsw_jax import data\n"
    f"data.load('tfds:cifar10', data_dir={str(tmp_path)!r})\n"
    "assert 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_the_newest_version_is_read(tmp_path):
  prepare(tmp_path, version="3.0.2", seed=1)
  newest = prepare(tmp_path, version="3.0.10", seed=2)
  prepare(tmp_path, version="3.0.9", seed=3)
  # What TFDS leaves behind when preparing is cut off.
  (tmp_path / "cifar10" / "9.0.0.incomplete.ABC").mkdir()
  (tmp_path / "cifar10" / "9.0.0").mkdir()
  loaded = data.load("tfds:cifar10", data_dir=tmp_path)
  np.testing.assert_array_equal(loaded.train.images, newest["train"][0])


def test_data_dir_defaults_as_in_tfds(tmp_path, monkeypatch):
  prepare(tmp_path / "by_variable", seed=1)
  prepare(tmp_path / "tensorflow_datasets", seed=2)
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  home = data.load("tfds:cifar10")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "by_variable"))
  variable = data.load("tfds:cifar10")
  again = data.load("tfds:cifar10", data_dir="~/tensorflow_datasets")
  np.testing.assert_array_equal(home.train.images, again.train.images)
  assert not np.array_equal(variable.train.images, home.train.images)


def test_missing_data_fails_at_once_with_the_command(tmp_path, monkeypatch):
  def refuse(*args):
    raise AssertionError(f"a connection was tried: {args}")

  monkeypatch.setattr(socket.socket, "connect", refuse)
  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  start = time.monotonic()
  with pytest.raises(FileNotFoundError) as error:
    data.load("tfds:cifar100", data_dir=tmp_path / "none")
  assert time.monotonic() - start < 5
  assert f"tfds:cifar100 is not prepared in {tmp_path / 'none'}" in str(
    error.value
  )
  assert (
    "pip install tensorflow tensorflow-datasets && tfds build cifar100 "
    f"--file_format=array_record --data_dir={tmp_path / 'none'}"
  ) in str(error.value)
  assert "folder:<path>" in str(error.value)
  assert not list(tmp_path.iterdir())


def test_data_in_another_format_is_not_enough(tmp_path):
  prepare(tmp_path, file_format="tfrecord")
  with pytest.raises(FileNotFoundError) as error:
    data.load("tfds:cifar10", data_dir=tmp_path)
  assert "is prepared as tfrecord" in str(error.value)
  assert "--file_format=array_record --overwrite" in str(error.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10/plain", "cifar10:3.0.2"])
def test_another_data_set_is_refused(tmp_path, name):
  with pytest.raises(
    ValueError, match="choose one of tfds:cifar10, tfds:cifar"
  ):
    data.load(f"tfds:{name}", data_dir=tmp_path)
  with pytest.raises(ValueError, match=repr(name)):
    tfds.load(name, data_dir=tmp_path)


def remove_shard(directory: pathlib.Path):
  next(directory.glob("*train*-00001-of-*")).unlink()


def truncate_shard(directory: pathlib.Path):
  shard = next(directory.glob("*train*-00001-of-*"))
  shard.write_bytes(shard.read_bytes()[:1000])


def remove_features(directory: pathlib.Path):
  (directory / "features.json").unlink()


def garble_information(directory: pathlib.Path):
  (directory / "dataset_info.json").write_text("{")


def drop_split(directory: pathlib.Path):
  path = directory / "dataset_info.json"
  info = json.loads(path.read_text())
  path.write_text(json.dumps(info | {"splits": info["splits"][:1]}))


@pytest.mark.parametrize(
  "damage",
  [
    remove_shard,
    truncate_shard,
    remove_features,
    garble_information,
    drop_split,
  ],
)
def test_damaged_data_is_one_clear_error(tmp_path, damage):
  prepare(tmp_path)
  damage(tmp_path / "cifar10" / "3.0.2")
  with pytest.raises(ValueError, match="cannot be read") as error:
    data.load("tfds:cifar10", data_dir=tmp_path)
  assert str(tmp_path / "cifar10" / "3.0.2") in str(error.value)
  assert "tfds build cifar10" in str(error.value)
