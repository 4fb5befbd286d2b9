"""The embedded digits, the Dataset type, and loading by name."""

import hashlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from ovsw_jax import data
from ovsw_jax.data._dataset import channel_statistics


@pytest.fixture(scope="module")
def digits():
  return data.load("digits")


def test_digits_have_their_shapes(digits):
  assert digits.name == "digits"
  assert digits.classes == tuple("0123456789")
  for split, n in ((digits.train, 1437), (digits.test, 360)):
    assert split.images.shape == (n, 16, 16, 1)
    assert split.images.dtype == np.uint8
    assert split.labels.shape == (n,)
    assert split.labels.dtype == np.int32
  assert digits.train.images.max() == 255
  assert digits.train.images.min() == 0


def test_digits_are_split_evenly_over_the_classes(digits):
  test = np.bincount(digits.test.labels)
  every = test + np.bincount(digits.train.labels)
  np.testing.assert_allclose(test, every * 360 / 1797, atol=1)


def test_digits_are_all_there_once(digits):
  images = np.concatenate([digits.train.images, digits.test.images])[..., 0]
  labels = np.concatenate([digits.train.labels, digits.test.labels])
  raw = load_digits()
  np.testing.assert_array_equal(np.bincount(labels), np.bincount(raw.target))
  assert len(np.unique(raw.data, axis=0)) == 1797
  assert len(np.unique(images, axis=0)) == 1797


@pytest.mark.parametrize("side", [16, 32])
def test_digits_are_upsampled_bilinearly(side, x64):
  digits = data.load("digits" if side == 16 else f"digits:{side}")
  assert digits.name == ("digits" if side == 16 else "digits:32")
  raw = load_digits().images
  expected = jax.image.resize(raw, (len(raw), side, side), "bilinear")
  expected = np.rint(expected * 255 / 16).astype(np.uint8)[..., None]
  as_set = lambda images: {image.tobytes() for image in images}
  images = np.concatenate([digits.train.images, digits.test.images])
  assert as_set(images) == as_set(expected)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("digits:12", "side=12 of the digits must be a multiple of 8"),
    ("digits:0", "side=0 of the digits must be a multiple of 8"),
    ("digits:big", "unknown data set 'digits:big'"),
  ],
)
def test_digits_of_another_size_are_refused(name, message):
  with pytest.raises(ValueError, match=message):
    data.load(name)


def test_digits_are_the_same_everywhere(digits):
  content = hashlib.sha256()
  for split in (digits.train, digits.test):
    content.update(split.images.tobytes())
    content.update(split.labels.astype("<i4").tobytes())
  assert content.hexdigest() == (
    "00a45523cfcb8cc8f562e3dddd2971cfcc9f353a8365323c9ed9ee3c62961bf6"
  )


def test_digits_statistics_are_those_of_the_training_split(digits):
  scaled = digits.train.images / 255
  np.testing.assert_allclose(digits.mean, [scaled.mean()], rtol=1e-12)
  np.testing.assert_allclose(digits.std, [scaled.std()], rtol=1e-12)


def test_statistics_are_exact_and_per_channel():
  images = np.random.default_rng(0).integers(
    0, 256, (2100, 3, 5, 3), dtype=np.uint8
  )
  mean, std = channel_statistics(images)
  scaled = images / 255
  np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-12)
  shuffled = images[np.random.default_rng(1).permutation(len(images))]
  assert channel_statistics(shuffled) == (mean, std)


def test_a_constant_channel_has_deviation_one():
  images = np.full((4, 2, 2, 1), 51, np.uint8)
  assert channel_statistics(images) == ((0.2,), (1.0,))


# --- Dataset


def make(**changes):
  images = np.zeros((4, 2, 2, 3), np.uint8)
  labels = np.array([0, 1, 0, 1], np.int32)
  split = data.Split(images, labels)
  fields = {
    "name": "mine",
    "train": split,
    "test": split,
    "classes": ("a", "b"),
    "mean": (0.5,) * 3,
    "std": (0.2,) * 3,
  }
  return data.Dataset(**(fields | changes))


def test_a_dataset_can_be_made_by_hand():
  assert make().classes == ("a", "b")


@pytest.mark.parametrize(
  "changes, message",
  [
    (
      {"test": data.Split(np.zeros((1, 2, 2, 3)), np.zeros(1, np.int32))},
      r"'mine', split 'test': images must be uint8 .* got float64",
    ),
    (
      {
        "train": data.Split(
          np.zeros((0, 2, 2, 3), np.uint8), np.zeros(0, np.int32)
        )
      },
      r"split 'train': images must be .* not empty",
    ),
    (
      {
        "test": data.Split(
          np.zeros((1, 2, 2, 3), np.uint8), np.zeros(2, np.int32)
        )
      },
      r"labels must be int32 of shape \(1,\), got int32 \(2,\)",
    ),
    (
      {
        "test": data.Split(
          np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, np.int32)
        )
      },
      r"one shape, got \(2, 2, 3\) and \(4, 4, 3\)",
    ),
    ({"classes": ("a",)}, r"labels must be in 0 \.\. 0, .* got 0 \.\. 1"),
    ({"mean": (0.5,)}, r"mean must have 3 values"),
    ({"std": (0.5,) * 4}, r"std must have 3 values"),
  ],
)
def test_a_dataset_that_does_not_fit_together_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    make(**changes)


# --- load


@pytest.mark.parametrize("name", ["", "cifar10", "tfds:", "folder:", "digit"])
def test_an_unknown_name_lists_the_known_forms(name):
  with pytest.raises(ValueError) as error:
    data.load(name)
  assert repr(name) in str(error.value)
  for form in ("digits", "tfds:cifar10", "tfds:cifar100", "folder:<path>"):
    assert form in str(error.value)


@pytest.mark.parametrize(
  "name, missing",
  [
    ("digits", "sklearn"),
    ("folder:images", "PIL"),
    ("folder:images", "tqdm"),
    ("tfds:cifar10", "tensorflow_datasets"),
    ("tfds:cifar10", "array_record"),
  ],
)
def test_a_missing_extra_is_named(name, missing, monkeypatch, tmp_path):
  from PIL import Image

  for split in ("train", "test"):
    (tmp_path / "images" / split / "a").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / split / "a" / "1.png")
  (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
  (tmp_path / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{}")
  for module in [
    *(m for m in sys.modules if m.startswith(f"{missing}.")),
    missing,
  ]:
    monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ImportError, match=rf"{missing}.*ovsw_jax\[train\]"):
    data.load(name, data_dir=tmp_path)


def test_importing_data_imports_no_extra():
  code = (
    "import sys, ovsw_jax.data\n"
    "heavy = {'tensorflow', 'tensorflow_datasets', 'array_record', 'sklearn',"
    " 'PIL', 'tqdm'}\n"
    "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
