"""What happens to images inside the compiled step: order, augment, normalize.

A small data set lives on the device as uint8. These functions are pure and keep
shapes static, so an epoch can be one `lax.scan`: the order of the examples is a
function of (key, epoch), the augmentation a function of (key, batch).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def epoch_order(key: jax.Array, epoch: jax.typing.ArrayLike, n: int):
  """The order in which an epoch visits the examples.

  Nothing but the arguments decides it: a run that resumes at an epoch sees the
  order it would have seen, whatever happened before.

  Args:
    key: a typed key (`jax.random.key`), the same for the whole run.
    epoch: the epoch's number, a scalar integer; may be traced.
    n: how many examples there are.

  Returns:
    A permutation of `0 .. n-1`, int32 `(n,)`.

  Raises:
    ValueError: `n` is less than 1.

  Examples:
    >>> import jax
    >>> from ovsw_jax import data
    >>> order = data.epoch_order(jax.random.key(0), epoch=3, n=5)
    >>> sorted(order.tolist())
    [0, 1, 2, 3, 4]
  """
  if n < 1:
    raise ValueError(f"n must be at least 1, got {n}: nothing to put in order")
  # An explicit arange keeps the result int32 where 64-bit types are enabled.
  examples = jnp.arange(n, dtype=jnp.int32)
  return jax.random.permutation(jax.random.fold_in(key, epoch), examples)


def batch_indices(
  order: jax.Array, step: jax.typing.ArrayLike, batch_size: int
) -> jax.Array:
  """The examples of one batch: `order[step * batch_size:][:batch_size]`.

  Past the end of the order it wraps to the order's beginning, so that the last
  batch of an epoch is full as well: with `ceil(n / batch_size)` steps every
  example is seen, with `n // batch_size` none is seen twice.

  Args:
    order: int32 `(n,)`, from `epoch_order`.
    step: the step within the epoch, a scalar integer; may be traced.
    batch_size: how many examples a batch has.

  Returns:
    int32 `(batch_size,)`.

  Raises:
    ValueError: `batch_size` is less than 1.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import data
    >>> data.batch_indices(jnp.array([4, 0, 2, 1, 3]), 2, 2).tolist()
    [3, 4]
  """
  if batch_size < 1:
    raise ValueError(f"batch_size must be at least 1, got {batch_size}")
  place = jnp.asarray(step, jnp.int32) * batch_size + jnp.arange(
    batch_size, dtype=jnp.int32
  )
  return order[place % order.shape[0]]


def augment(
  images: jax.Array, key: jax.Array, *, pad: int, flip: bool
) -> jax.Array:
  """Pads with zeros, crops at a random place and mirrors half of the images.

  The reference's CIFAR augmentation: each image draws its own vertical and
  horizontal offset, uniform over `0 .. 2 * pad`, and a fair coin for the
  horizontal flip. `pad=0` and `flip=False` is the identity.

  Args:
    images: `(n, h, w, c)`, any dtype; uint8 costs least.
    key: a typed key for this batch, e.g. `jax.random.fold_in(key, step)`.
    pad: how many zeros to put on each side before cropping back to `(h, w)`.
    flip: whether to mirror left and right with probability one half.

  Returns:
    Images of the same shape and dtype.

  Raises:
    ValueError: `images` is not of rank 4 or `pad` is negative.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import data
    >>> images = jnp.ones((2, 32, 32, 3), jnp.uint8)
    >>> data.augment(images, jax.random.key(0), pad=4, flip=True).shape
    (2, 32, 32, 3)
  """
  if images.ndim != 4:
    raise ValueError(f"images must be (n, h, w, c), got shape {images.shape}")
  if pad < 0:
    raise ValueError(f"pad must be 0 or more, got {pad}")
  n, height, width, _ = images.shape
  ends = jnp.array([2 * pad + 1, 2 * pad + 1, 2 if flip else 1], jnp.int32)
  draws = jax.random.randint(key, (n, 3), 0, ends, dtype=jnp.int32)
  top, left, mirrored = draws[:, 0, None], draws[:, 1, None], draws[:, 2, None]

  rows = top + jnp.arange(height, dtype=jnp.int32)
  columns = jnp.arange(width, dtype=jnp.int32)
  columns = left + jnp.where(mirrored == 1, width - 1 - columns, columns)
  padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  # One gather does crop and flip. Under vmap the image axis is a batch axis of
  # the gather, which XLA partitions over devices without communication.
  pick = lambda image, row, column: image[row[:, None], column[None, :]]
  return jax.vmap(pick)(padded, rows, columns)


def normalize(
  images: jax.Array,
  mean: Sequence[float] | jax.Array,
  std: Sequence[float] | jax.Array,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """`(images / 255 - mean) / std`, per channel.

  Computed in float32 (float64 if that is `dtype`) and rounded to `dtype` once.

  Args:
    images: uint8 `(..., c)`.
    mean: `(c,)`, on the [0, 1] scale.
    std: `(c,)`, on the [0, 1] scale.
    dtype: of the result.

  Returns:
    Images of the same shape, of `dtype`.

  Raises:
    ValueError: `mean` or `std` does not have one value for each channel.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import data
    >>> white = jnp.full((1, 1, 1, 1), 255, jnp.uint8)
    >>> data.normalize(white, mean=(0.5,), std=(0.25,)).item()
    2.0
  """
  compute_dtype = jnp.promote_types(dtype, jnp.float32)
  channels = images.shape[-1]
  mean, std = jnp.asarray(mean, compute_dtype), jnp.asarray(std, compute_dtype)
  for name, value in (("mean", mean), ("std", std)):
    if value.shape != (channels,):
      raise ValueError(
        f"{name} must have one value for each of the {channels} channels of "
        f"the images, got shape {value.shape}"
      )
  scaled = images.astype(compute_dtype) / 255
  return ((scaled - mean) / std).astype(dtype)


def eval_batches(n: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
  """Batches of one size that count every example exactly once.

  The last batch is filled up with example 0 at weight 0. A mean over the data
  set is `sum(weights * values) / n`.

  Args:
    n: how many examples there are.
    batch_size: how many examples a batch has.

  Returns:
    `(indices, weights)`: int32 and float32, both of shape
    `(ceil(n / batch_size), batch_size)`; weights are 1 for examples and 0 for
    the filling.

  Raises:
    ValueError: `n` or `batch_size` is less than 1.

  Examples:
    >>> from ovsw_jax import data
    >>> indices, weights = data.eval_batches(5, 3)
    >>> indices.tolist(), weights.tolist()
    ([[0, 1, 2], [3, 4, 0]], [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
  """
  if n < 1 or batch_size < 1:
    raise ValueError(
      f"n and batch_size must be at least 1, got n={n}, batch_size={batch_size}"
    )
  steps = -(-n // batch_size)
  place = np.arange(steps * batch_size).reshape(steps, batch_size)
  real = place < n
  return np.where(real, place, 0).astype(np.int32), real.astype(np.float32)
