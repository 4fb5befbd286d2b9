"""On-device data functions: order, augmentation, normalisation, batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ovsw_jax import data

KEY = jax.random.key(7)


def random_images(n=6, height=9, width=7, channels=3):
  rng = np.random.default_rng(0)
  shape = (n, height, width, channels)
  return rng.integers(1, 256, shape, dtype=np.uint8)


# --- epoch_order


@pytest.mark.parametrize("n", [1, 2, 97, 5000])
def test_order_is_a_permutation(n):
  order = data.epoch_order(KEY, 0, n)
  assert order.dtype == jnp.int32
  np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_order_depends_on_key_and_epoch_alone():
  order = data.epoch_order(KEY, 4, 1000)
  traced = jax.jit(data.epoch_order, static_argnums=2)(KEY, jnp.int32(4), 1000)
  np.testing.assert_array_equal(order, data.epoch_order(KEY, 4, 1000))
  np.testing.assert_array_equal(order, traced)
  for other in (
    data.epoch_order(KEY, 5, 1000),
    data.epoch_order(jax.random.key(8), 4, 1000),
  ):
    # A random permutation has one fixed point on average.
    assert np.sum(np.asarray(order) == np.asarray(other)) < 10


def test_order_is_the_same_with_64_bit_types(x64):
  wide = data.epoch_order(KEY, 2, 100)
  assert wide.dtype == jnp.int32
  with jax.enable_x64(False):
    np.testing.assert_array_equal(wide, data.epoch_order(KEY, 2, 100))


def test_order_places_every_example_evenly():
  n, epochs = 10, 2000
  orders = jax.vmap(lambda e: data.epoch_order(KEY, e, n))(jnp.arange(epochs))
  for place in range(n):
    counts = np.bincount(orders[:, place], minlength=n)
    # Chi-square with 9 degrees of freedom: above 33.7 once in 10,000.
    assert np.sum((counts - epochs / n) ** 2 / (epochs / n)) < 33.7


def test_order_refuses_an_empty_data_set():
  with pytest.raises(ValueError, match="n must be at least 1, got 0"):
    data.epoch_order(KEY, 0, 0)


# --- batch_indices


@pytest.mark.parametrize("n, size", [(10, 5), (10, 4), (3, 8), (7, 1)])
def test_batches_walk_through_the_order(n, size):
  order = data.epoch_order(KEY, 0, n)
  take = jax.jit(data.batch_indices, static_argnums=2)
  steps = -(-n // size)
  batches = np.concatenate([take(order, step, size) for step in range(steps)])
  assert batches.shape == (steps * size,)
  np.testing.assert_array_equal(batches[:n], order)
  np.testing.assert_array_equal(batches, np.resize(order, steps * size))


def test_batch_size_must_be_positive():
  with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
    data.batch_indices(jnp.arange(4), 0, 0)


# --- augment


def windows(image, pad):
  """What augmentation may make of one image, by (top, left, flip)."""
  height, width, _ = image.shape
  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
  return {
    (top, left, flip): padded[top : top + height, left : left + width][
      :, :: -1 if flip else 1
    ]
    for top in range(2 * pad + 1)
    for left in range(2 * pad + 1)
    for flip in (False, True)
  }


def draws(images, pad, key, flip):
  """The (top, left, flip) that explain each augmented image."""
  found = []
  augmented = data.augment(images, key, pad=pad, flip=flip)
  for image, result in zip(images, augmented, strict=True):
    matches = [
      draw
      for draw, window in windows(image, pad).items()
      if np.array_equal(window, result)
    ]
    assert len(matches) == 1
    found += matches
  return np.array(found)


@pytest.mark.parametrize("pad", [1, 2, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_augmented_image_is_a_window_of_the_padded_image(pad, flip):
  found = draws(random_images(), pad, KEY, flip)
  assert flip or not found[:, 2].any()


def test_augment_without_pad_and_flip_is_the_identity():
  images = random_images()
  same = data.augment(images, KEY, pad=0, flip=False)
  np.testing.assert_array_equal(same, images)


def test_flip_is_an_involution():
  images = random_images(n=40)
  once = data.augment(images, KEY, pad=0, flip=True)
  assert not np.array_equal(once, images)
  twice = data.augment(once, KEY, pad=0, flip=True)
  np.testing.assert_array_equal(twice, images)


def test_offsets_are_uniform_and_flips_fair():
  # A ramp in each direction tells the draws from one pixel of the result.
  n, pad, size = 9000, 4, 16
  row, column = np.mgrid[:size, :size]
  image = np.stack([row, column, np.ones_like(row)], -1).astype(np.uint8)
  images = jnp.broadcast_to(jnp.asarray(image), (n, *image.shape))
  result = np.asarray(data.augment(images, KEY, pad=pad, flip=True))
  middle = result[:, size // 2, size // 2].astype(int)
  step = result[:, size // 2, size // 2 + 1, 1].astype(int) - middle[:, 1]
  flipped = step == -1
  top = middle[:, 0] - size // 2 + pad
  left = middle[:, 1] - np.where(flipped, size - 1 - size // 2, size // 2) + pad
  joint = np.ravel_multi_index((top, left, flipped), (9, 9, 2))
  counts = np.bincount(joint, minlength=162)
  # Chi-square with 161 degrees of freedom: above 234 once in 10,000. It tests
  # the three draws and their independence at once.
  assert np.sum((counts - n / 162) ** 2 / (n / 162)) < 234


def test_augment_draws_anew_for_each_key():
  images = random_images(n=50)
  one = draws(images, 4, KEY, True)
  other = draws(images, 4, jax.random.fold_in(KEY, 1), True)
  assert np.mean(np.all(one == other, axis=1)) < 0.2


def test_augment_agrees_under_jit_vmap_and_scan():
  images = jnp.asarray(random_images())
  augment = lambda images, key: data.augment(images, key, pad=2, flip=True)
  keys = jax.random.split(KEY, 3)
  eager = jnp.stack([augment(images, key) for key in keys])
  jitted = jnp.stack([jax.jit(augment)(images, key) for key in keys])
  mapped = jax.vmap(augment, in_axes=(None, 0))(images, keys)
  scanned = jax.lax.scan(lambda c, key: (c, augment(images, key)), 0, keys)[1]
  for result in (jitted, mapped, scanned):
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(result, eager)


def test_augment_is_the_same_with_64_bit_types(x64):
  images = random_images()
  wide = data.augment(images, KEY, pad=2, flip=True)
  with jax.enable_x64(False):
    narrow = data.augment(images, KEY, pad=2, flip=True)
  np.testing.assert_array_equal(wide, narrow)


def test_augment_keeps_the_batch_on_its_devices():
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  images = random_images(n=16)
  sharded = jax.device_put(images, NamedSharding(mesh, P("data")))
  augment = jax.jit(lambda images: data.augment(images, KEY, pad=2, flip=True))
  compiled = augment.lower(sharded).compile().as_text()
  for collective in ("all-gather", "all-reduce", "all-to-all"):
    assert collective not in compiled
  result = augment(sharded)
  assert result.sharding.is_equivalent_to(sharded.sharding, 4)
  np.testing.assert_array_equal(result, augment(images))


def test_augment_names_wrong_input():
  with pytest.raises(
    ValueError, match=r"\(n, h, w, c\), got shape \(9, 7, 3\)"
  ):
    data.augment(random_images()[0], KEY, pad=1, flip=True)
  with pytest.raises(ValueError, match="pad must be 0 or more, got -1"):
    data.augment(random_images(), KEY, pad=-1, flip=True)


# --- normalize

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def test_normalize_is_the_formula(x64):
  images = random_images()
  expected = (images / 255 - np.array(MEAN)) / np.array(STD)
  exact = data.normalize(images, MEAN, STD, jnp.float64)
  assert exact.dtype == jnp.float64
  np.testing.assert_allclose(exact, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
  "dtype, bits", [(jnp.float32, 23), (jnp.bfloat16, 7), (jnp.float16, 10)]
)
def test_normalize_rounds_to_the_dtype_once(dtype, bits):
  images = random_images()
  expected = (images / 255 - np.array(MEAN)) / np.array(STD)
  result = jax.jit(data.normalize, static_argnums=3)(images, MEAN, STD, dtype)
  assert result.dtype == dtype
  # Half a unit in the last place, and float32's error where x/255 is near mean.
  tolerance = 0.51 * 2.0**-bits * np.abs(expected) + 1e-6
  assert np.all(np.abs(np.asarray(result, np.float64) - expected) <= tolerance)


def test_normalize_takes_one_channel_and_any_leading_shape():
  images = random_images(channels=1)
  batch = data.normalize(images, (0.5,), (0.25,))
  one = data.normalize(images[0], (0.5,), (0.25,))
  np.testing.assert_array_equal(batch[0], one)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_normalize_wants_a_value_for_each_channel(name):
  values = {"mean": MEAN, "std": STD, name: (0.5,)}
  with pytest.raises(ValueError, match=rf"{name}.*3 channels.*shape \(1,\)"):
    data.normalize(random_images(), **values)


# --- eval_batches


@pytest.mark.parametrize("n, size", [(10, 5), (10, 4), (3, 8), (1, 1)])
def test_eval_batches_count_every_example_once(n, size):
  indices, weights = data.eval_batches(n, size)
  assert indices.shape == weights.shape == (-(-n // size), size)
  assert (indices.dtype, weights.dtype) == (np.int32, np.float32)
  assert indices.min() >= 0 and indices.max() < n
  counts = np.bincount(indices.ravel(), weights.ravel(), minlength=n)
  np.testing.assert_array_equal(counts, np.ones(n))
  assert set(np.unique(weights)) <= {0.0, 1.0}


def test_eval_batches_name_wrong_input():
  with pytest.raises(ValueError, match="got n=0, batch_size=4"):
    data.eval_batches(0, 4)
  with pytest.raises(ValueError, match="got n=4, batch_size=0"):
    data.eval_batches(4, 0)
