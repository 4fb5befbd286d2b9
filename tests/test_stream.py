"""Streamed batches: what is in them, and that nothing but the step decides."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ovsw_jax import data
from ovsw_jax.data import stream
from tests import odd_images

# Pillow's word on the image with broken EXIF, which is read all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")

SMALL = {"image_size": 16, "resize": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return odd_images.write(tmp_path_factory.mktemp("images"))


def opened(folder, **options):
  return data.open_stream(f"stream:{folder}", **SMALL | options)


def training(dataset, start=0, stop=7, **options):
  options = {"seed": 3, "batch_size": 6} | options
  batches = data.training_batches(dataset, start=start, stop=stop, **options)
  with contextlib.closing(batches):
    return list(batches)


def assert_same(one, other):
  assert len(one) == len(other)
  for a, b in zip(one, other, strict=True):
    for mine, theirs in zip(a, b, strict=True):
      assert mine.dtype == theirs.dtype
      np.testing.assert_array_equal(mine, theirs)


def test_what_a_folder_holds(folder):
  dataset = opened(folder)
  assert dataset.classes == ("ant", "bee")
  assert dataset.counts == (20, 9)
  assert dataset.image_shape == (16, 16, 3)
  first, last = dataset.train[0], dataset.train[19]
  assert (first.label, last.label) == (0, 1)
  assert first.name == str(folder / "train/ant/ant_0.JPEG")
  assert dataset.mean == (0.485, 0.456, 0.406)


def test_an_epoch_is_full_batches_of_different_examples(folder):
  """Three batches of six of twenty; the other two are dropped."""
  batches = training(opened(folder), 0, 3)
  for batch in batches:
    assert batch.images.shape == (6, 16, 16, 3)
    assert (batch.images.dtype, batch.labels.dtype) == (np.uint8, np.int32)
    assert batch.weights.all()
  images = np.concatenate([batch.images for batch in batches])
  assert len(np.unique(images.reshape(18, -1), axis=0)) == 18
  order = data.host_order(3, 0, 20)[:18]
  labels = np.concatenate([batch.labels for batch in batches])
  np.testing.assert_array_equal(labels, order >= 10)


def test_epochs_and_seeds_have_orders_and_crops_of_their_own(folder):
  dataset = opened(folder)
  first, _, _, second = training(dataset, 0, 4)
  (other,) = training(dataset, 0, 1, seed=4)
  assert not np.array_equal(first.images, second.images)
  assert not np.array_equal(first.images, other.images)
  draws = {
    tuple(data.uniforms(seed, epoch, index, 3))
    for seed in range(2)
    for epoch in range(3)
    for index in range(4)
  }
  assert len(draws) == 24


def test_numbers_are_uniform_and_the_same_everywhere():
  numbers = data.uniforms(0, 5, 123, 20_000)
  counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
  assert counts.sum() == 20_000
  assert np.abs(counts - 1000).max() < 6 * np.sqrt(1000)
  # Philox' raw output; a change of these would break every resume.
  np.testing.assert_array_equal(
    data.host_order(0, 0, 8), np.array([0, 2, 1, 5, 4, 3, 6, 7])
  )


@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_run_goes_on_at_any_step(folder, start):
  dataset = opened(folder)
  assert_same(training(dataset, start), training(dataset)[start:])


def test_worker_processes_change_nothing(folder, monkeypatch):
  """Nor do the parts of batches that they hand over."""
  dataset = opened(folder)
  whole = training(dataset)
  monkeypatch.setattr(stream, "_PART", 5)  # two parts of three
  assert_same(training(dataset, workers=2), whole)
  monkeypatch.setattr(stream, "_PART", 4)
  rows = np.arange(5)  # two parts, of three and of two
  own = [data.Batch(*(x[:5] for x in batch)) for batch in whole]
  assert_same(training(dataset, rows=rows), own)


def test_processes_have_their_own_rows_of_the_same_batch(folder):
  dataset = opened(folder)
  whole = training(dataset)
  for rows in (np.arange(2), np.arange(2, 6)):
    own = training(dataset, rows=rows)
    assert_same(own, [type(b)(*(x[rows] for x in b)) for b in whole])


def test_a_process_decodes_its_own_rows_only(folder):
  class Counted:
    def __init__(self, examples):
      self.examples, self.read = examples, []

    def __len__(self):
      return len(self.examples)

    def __getitem__(self, index):
      self.read.append(index)
      return self.examples[index]

  dataset = opened(folder)
  counted = Counted(dataset.train)
  dataset = data.Streamed(
    **{**vars(dataset), "train": counted},
  )
  training(dataset, 0, 2, rows=np.arange(4, 6))
  order = data.host_order(3, 0, 20)
  assert sorted(counted.read) == sorted([*order[4:6], *order[10:12]])


def test_every_test_image_counts_once(folder):
  dataset = opened(folder)
  batches = data.evaluation_batches(dataset, batch_size=4)
  with contextlib.closing(batches):
    batches = list(batches)
  weights = np.concatenate([batch.weights for batch in batches])
  labels = np.concatenate([batch.labels for batch in batches])
  np.testing.assert_array_equal(weights, [1] * 9 + [0] * 3)
  np.testing.assert_array_equal(labels[:9], [0] * 5 + [1] * 4)
  image = data.rgb(dataset.test[8])
  np.testing.assert_array_equal(
    batches[2].images[0], data.CentralCrop(16, 20)(image, np.empty(0))
  )


def test_a_limit_is_spread_over_the_classes(folder):
  limited = opened(folder).limited(4)
  assert limited.counts == (4, 4)
  assert [limited.train[i].label for i in range(4)] == [0, 0, 1, 1]
  assert opened(folder).limited(100).counts == (20, 9)


def test_batches_are_put_ahead_of_the_caller(folder):
  """Without being asked for again, two more than were taken."""
  seen = []

  def put(batch):
    seen.append(len(seen))
    return len(seen)

  batches = data.training_batches(
    opened(folder), seed=0, batch_size=4, start=0, stop=20, put=put
  )
  with contextlib.closing(batches):
    assert next(batches) == 1
    assert next(batches) == 2
  assert 2 <= len(seen) <= 6


def test_workers_end_with_a_process_that_was_killed(folder, tmp_path):
  """SIGKILL lets nobody clean up; a group's SIGTERM is the parent's to hear."""
  script = tmp_path / "script.py"
  script.write_text(
    "import multiprocessing, time\n"
    "from ovsw_jax import data\n"
    "if __name__ == '__main__':\n"
    f"  dataset = data.open_stream('stream:{folder}', image_size=16)\n"
    "  batches = data.training_batches(dataset, seed=0, batch_size=4, start=0,"
    " stop=10**6, workers=1)\n"
    "  next(batches)\n"
    "  (worker,) = multiprocessing.active_children()\n"
    "  print(worker.pid, flush=True)\n"
    "  for _ in range(10**6): next(batches)\n"
  )
  process = subprocess.Popen(
    [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
  )
  with process:
    worker = int(process.stdout.readline())
    os.kill(worker, signal.SIGTERM)
    time.sleep(0.3)
    assert alive(worker) and process.poll() is None
    process.kill()
  deadline = time.monotonic() + 20
  while alive(worker) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not alive(worker)


def alive(pid):
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
  except FileNotFoundError:
    return False
  return state.split()[0] != "Z"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named(tmp_path, workers):
  odd_images.write(tmp_path, train=8)
  path = tmp_path / "train" / "bee" / "bee_3.JPEG"
  path.write_bytes(path.read_bytes()[:200])
  with pytest.raises(ValueError, match=r"bee_3.JPEG cannot be decoded .*repl"):
    training(opened(tmp_path), 0, 1, batch_size=8, workers=workers)


def refused(tmp_path, message, error=ValueError):
  with pytest.raises(error, match=message):
    opened(tmp_path)


def test_a_wrong_folder_is_named_with_what_is_wrong(tmp_path):
  refused(tmp_path / "none", r"no folder .*none: it must hold train", OSError)
  refused(tmp_path, r"has no folder 'train'")
  (tmp_path / "train" / "ant").mkdir(parents=True)
  refused(tmp_path, r"has no folder 'test'")
  (tmp_path / "test").mkdir()
  refused(tmp_path, r"only train has ant")
  (tmp_path / "test" / "ant").mkdir()
  refused(tmp_path, r"train/ant holds no image: fill it")
  file = tmp_path / "archive.tar"
  file.write_bytes(b"")
  refused(file, r"is a file, .* folder:<path>")
  with pytest.raises(ValueError, match=r"'folder:x': write stream:<path>"):
    data.open_stream("folder:x")
