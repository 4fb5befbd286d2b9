"""ImageNet as TFDS prepares it, streamed without TensorFlow.

The prepared data is real but for its size, as in `test_data_tfds`.
"""

import contextlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

from ovsw_jax import data
from tests import odd_images

SMALL = {"image_size": 16, "resize": 20}
CLASSES = ["n01440764", "n01443537", "n01484850"]
COUNTS = {"train": 7, "validation": 4}


def record(split, index, content):
  example = example_pb2.Example()
  feature = example.features.feature
  name = f"{split}_{index}.JPEG"
  feature["file_name"].bytes_list.value.append(name.encode())
  feature["image"].bytes_list.value.append(content)
  feature["label"].int64_list.value.append(index % len(CLASSES))
  return example.SerializeToString()


def prepare(root, damaged=None):
  """Prepares a tiny `imagenet2012`; returns {split: [encoded images]}."""
  directory = root / "imagenet2012" / "5.1.0"
  directory.mkdir(parents=True)
  features = tensorflow_datasets.features.FeaturesDict(
    {
      "image": tensorflow_datasets.features.Image(encoding_format="jpeg"),
      "label": tensorflow_datasets.features.ClassLabel(names=CLASSES),
      "file_name": tensorflow_datasets.features.Text(),
    }
  )
  features.save_config(directory)
  features.save_metadata(directory)
  written, infos = {}, []
  for split, count in COUNTS.items():
    path = directory / f"imagenet2012-{split}.array_record-00000-of-00001"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    written[split] = []
    for index in range(count):
      image = odd_images.pixels(index, 30, 40 + index)
      content = odd_images.encoded(odd_images.KINDS[index % 4], image)
      if index == damaged:
        content = content[:100]
      written[split].append(content)
      writer.write(record(split, index, content))
    writer.close()
    infos.append(
      {
        "name": split,
        "shardLengths": [str(count)],
        "numBytes": "1",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
      }
    )
  info = {
    "name": "imagenet2012",
    "version": "5.1.0",
    "fileFormat": "array_record",
    "splits": infos,
  }
  (directory / "dataset_info.json").write_text(json.dumps(info))
  return written


def opened(root):
  return data.open_stream("tfds:imagenet2012", data_dir=root, **SMALL)


def test_records_are_read_as_they_are_stored(tmp_path):
  written = prepare(tmp_path)
  dataset = opened(tmp_path)
  assert dataset.counts == (7, 4)
  assert dataset.classes == tuple(CLASSES)
  for examples, split in (
    (dataset.train, "train"),
    (dataset.test, "validation"),
  ):
    for index, content in enumerate(written[split]):
      example = examples[index]
      assert example.content == content
      assert example.label == index % 3
      assert f"{split} record {index} ({split}_{index}.JPEG)" in example.name


def test_every_worker_process_opens_its_own(tmp_path):
  """A copy is small: a source that is open would be a handle on a file."""
  prepare(tmp_path)
  train = opened(tmp_path).train
  assert train[0].label == 0
  pickled = pickle.dumps(train)
  assert len(pickled) < 1000
  assert pickle.loads(pickled)[4] == train[4]


def test_no_tensorflow_is_imported(tmp_path):
  prepare(tmp_path)
  code = (
    "import sys\n"
    "from ovsw_jax import data\n"
    "dataset = data.open_stream('tfds:imagenet2012', "
    f"data_dir={str(tmp_path)!r}, image_size=16, resize=20)\n"
    "batches = data.training_batches(dataset, seed=0, batch_size=4, start=0, "
    "stop=2)\n"
    "print([b.images.shape for b in batches])\n"
    "batches.close()\n"
    "assert 'tensorflow' not in sys.modules"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True
  )
  assert result.stdout.strip() == "[(4, 16, 16, 3), (4, 16, 16, 3)]"


def test_a_damaged_record_is_named(tmp_path):
  prepare(tmp_path, damaged=2)
  batches = data.training_batches(
    opened(tmp_path), seed=0, batch_size=7, start=0, stop=1
  )
  with (
    contextlib.closing(batches),
    pytest.raises(ValueError, match=r"train record 2 \(train_2.JPEG\) cannot"),
  ):
    next(batches)


def test_the_limit_goes_over_the_records(tmp_path):
  prepare(tmp_path)
  limited = opened(tmp_path).limited(3)
  assert [limited.train[i].name[-7:-6] for i in range(3)] == ["0", "2", "4"]
  np.testing.assert_array_equal(limited.counts, (3, 3))


def test_what_is_not_prepared_is_said_with_the_remedy(tmp_path):
  with pytest.raises(
    FileNotFoundError,
    match=r"tfds:imagenet2012 is not prepared in [^!]*manual[^!]*stream:",
  ):
    opened(tmp_path)
  with pytest.raises(ValueError, match=r"memory: open it with data.open_stre"):
    data.load("tfds:imagenet2012")
  with pytest.raises(ValueError, match=r"tfds:imagenet2012 or stream:<path>"):
    data.load("imagenet")
