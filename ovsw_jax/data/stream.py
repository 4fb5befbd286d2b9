"""Data sets that do not fit in memory: read, decoded and cropped as they go.

A batch is a pure function of (seed, step), whatever the number of worker
processes or devices, so a run goes on at any step without a state to restore.
"""

import dataclasses
import functools
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from ovsw_jax.data import image_files, tfds
from ovsw_jax.data._dataset import require
from ovsw_jax.data._encoded import Encoded, Examples, rgb
from ovsw_jax.data.crops import CentralCrop, RandomCrop
from ovsw_jax.data.draws import host_order, uniforms

# Those of ImageNet, which all code of the field uses.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# A worker hands over no more images at once, so that a batch is worked on by
# several and shared memory stays small: 224x224, 64 images are 10 MB.
_PART = 64


class Transform(Protocol):
  """Makes a uint8 array of one size out of an RGB image of any."""

  @property
  def size(self) -> int: ...

  @property
  def numbers(self) -> int:
    """How many uniform numbers a call takes."""
    ...

  def __call__(self, image: Any, numbers: np.ndarray, /) -> np.ndarray: ...


class Batch(NamedTuple):
  """A batch of a stream, or a part of one."""

  images: np.ndarray  # uint8 (n, size, size, 3)
  labels: np.ndarray  # int32 (n,)
  weights: np.ndarray  # float32 (n,): 1 for an example, 0 for filling


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
  """A data set on the disk.

  Attributes:
    name: the name it was opened by.
    train: its encoded training images.
    test: its encoded test images.
    classes: the class names; label `i` is `classes[i]`.
    crop: what training sees of an image.
    test_crop: what evaluation sees.
    mean: per channel, on the [0, 1] scale, for `normalize`.
    std: per channel, on the [0, 1] scale, for `normalize`.
  """

  name: str
  train: Examples
  test: Examples
  classes: tuple[str, ...]
  crop: RandomCrop
  test_crop: CentralCrop
  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD

  @property
  def counts(self) -> tuple[int, int]:
    """How many training and test images there are."""
    return len(self.train), len(self.test)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of the images of a batch."""
    return self.crop.size, self.crop.size, 3

  def limited(self, limit: int | None) -> "Streamed":
    """Of each split `limit` evenly spaced examples, if it has more."""
    return dataclasses.replace(
      self, train=_spaced(self.train, limit), test=_spaced(self.test, limit)
    )


class _Spaced(NamedTuple):
  """So many evenly spaced examples of others."""

  examples: Examples
  count: int

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index) -> Encoded:
    return self.examples[int(index) * len(self.examples) // self.count]


def _spaced(examples: Examples, limit: int | None) -> Examples:
  if limit is None or limit >= len(examples):
    return examples
  return _Spaced(examples, limit)


def is_streamed(name: str) -> bool:
  """Whether a data set of this name is streamed, not loaded.

  Examples:
    >>> from ovsw_jax import data
    >>> data.is_streamed("stream:images"), data.is_streamed("folder:images")
    (True, False)
  """
  source, _, rest = name.partition(":")
  return source == "stream" or (source == "tfds" and rest in tfds.STREAMED)


def open_stream(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  image_size: int = 224,
  resize: int = 256,
  scale: tuple[float, float] = (0.08, 1.0),
) -> Streamed:
  """Opens a data set by name; no image is read yet.

  Args:
    name: `"stream:<path>"` of a folder with `train/<class>/*` and
      `val/<class>/*` (or `test/<class>/*`), or `"tfds:imagenet2012"`, prepared
      by TensorFlow Datasets as array_record.
    data_dir: where TFDS keeps its data, and where a relative path starts.
    image_size: side of the images of a batch.
    resize: what evaluation brings the shorter side to, before it takes the
      centre.
    scale: bounds of the area of training's crops, as a share of the image's.

  Returns:
    The data set.

  Raises:
    ValueError: another name, or the data is not as it must be.
    FileNotFoundError: the data is not there.
    ImportError: a package of the `train` extra is missing.

  Examples:
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from ovsw_jax import data
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
    ...   (folder / name).mkdir(parents=True)
    ...   Image.new("RGB", (20, 30)).save(folder / name / "1.png")
    >>> dataset = data.open_stream(f"stream:{folder}", image_size=8, resize=10)
    >>> dataset.classes, dataset.counts
    (('cat', 'dog'), (2, 2))
  """
  if not is_streamed(name):
    raise ValueError(
      f"no streamed data set {name!r}: write stream:<path> or "
      f"{', '.join(f'tfds:{known}' for known in tfds.STREAMED)}"
    )
  source, _, rest = name.partition(":")
  if source == "tfds":
    train, test, classes = tfds.find(rest, data_dir=data_dir)
  else:
    path = pathlib.Path(rest).expanduser()
    train, test, classes = image_files.find(
      pathlib.Path(data_dir or "").expanduser() / path
    )
  return Streamed(
    name=name,
    train=train,
    test=test,
    classes=classes,
    crop=RandomCrop(image_size, scale),
    test_crop=CentralCrop(image_size, resize),
  )


def training_batches(
  dataset: Streamed,
  *,
  seed: int,
  batch_size: int,
  start: int,
  stop: int,
  workers: int = 0,
  rows: np.ndarray | None = None,
  put: Callable[[Batch], Any] = lambda batch: batch,
) -> Iterator[Any]:
  """Training batches `start .. stop - 1`; close the iterator after use.

  An epoch has `n // batch_size` of them; what is left over of its order is
  dropped.

  Args:
    dataset: with at least `batch_size` training images.
    seed: of the run.
    batch_size: of the whole batch.
    start: the first step.
    stop: the step after the last.
    workers: processes that decode; 0 decodes in threads of this one.
    rows: sorted rows of each batch that this process wants, all by default.
    put: called with each batch, in a thread that is two batches ahead of the
      caller; it may bring the batch to a device.

  Returns:
    An iterator of what `put` returns, with a method `close`.

  Raises:
    ValueError: from the iterator, for an image that cannot be decoded; the
      message has its name.

  Examples:
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from ovsw_jax import data
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
    ...   (folder / name).mkdir(parents=True)
    ...   Image.new("RGB", (20, 30)).save(folder / name / "1.png")
    >>> dataset = data.open_stream(f"stream:{folder}", image_size=8, resize=10)
    >>> batches = data.training_batches(
    ...   dataset, seed=0, batch_size=2, start=0, stop=3
    ... )
    >>> [batch.images.shape for batch in batches]
    [(2, 8, 8, 3), (2, 8, 8, 3), (2, 8, 8, 3)]
  """
  parts = _Parts(
    dataset.train,
    dataset.crop,
    seed=seed,
    batch_size=batch_size,
    rows=np.arange(batch_size) if rows is None else rows,
    start=start,
    stop=stop,
  )
  return _iterate(parts, workers, put)


def evaluation_batches(
  dataset: Streamed,
  *,
  batch_size: int,
  workers: int = 0,
  rows: np.ndarray | None = None,
  put: Callable[[Batch], Any] = lambda batch: batch,
) -> Iterator[Any]:
  """Every test image once; the last batch is filled up at weight 0.

  Arguments and result are those of `training_batches`.

  Examples:
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from ovsw_jax import data
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
    ...   (folder / name).mkdir(parents=True)
    ...   Image.new("RGB", (20, 30)).save(folder / name / "1.png")
    >>> dataset = data.open_stream(f"stream:{folder}", image_size=8, resize=10)
    >>> batches = data.evaluation_batches(dataset, batch_size=3)
    >>> [batch.weights.tolist() for batch in batches]
    [[1.0, 1.0, 0.0]]
  """
  parts = _Parts(
    dataset.test,
    dataset.test_crop,
    seed=None,
    batch_size=batch_size,
    rows=np.arange(batch_size) if rows is None else rows,
    start=0,
    stop=-(-len(dataset.test) // batch_size),
  )
  return _iterate(parts, workers, put)


class _Parts:
  """Parts of batches by number, as a source that Grain reads at random."""

  def __init__(
    self,
    examples: Examples,
    transform: Transform,
    *,
    seed: int | None,  # None: in their own order, filled up at the end
    batch_size: int,
    rows: np.ndarray,
    start: int,
    stop: int,
  ):
    self._examples, self._transform, self._seed = examples, transform, seed
    self._batch_size, self._start = batch_size, start
    self.parts = -(-len(rows) // _PART)  # of a batch
    self._rows = np.array_split(rows, self.parts)
    self._count = (stop - start) * self.parts

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, number) -> dict[str, np.ndarray]:
    step, part = divmod(int(number), self.parts)
    step += self._start
    n, rows, size = len(self._examples), self._rows[part], self._transform.size
    if self._seed is None:
      epoch, indices = 0, step * self._batch_size + rows
      weights = (indices < n).astype(np.float32)
    else:
      epoch, position = divmod(step, n // self._batch_size)
      order = _cached_order(self._seed, epoch, n)
      indices = order[position * self._batch_size + rows]
      weights = np.ones(len(rows), np.float32)
    images = np.zeros((len(rows), size, size, 3), np.uint8)
    labels = np.zeros(len(rows), np.int32)
    for row, index in enumerate(indices.tolist()):
      if weights[row]:
        images[row], labels[row] = self._example(epoch, index)
    return Batch(images, labels, weights)._asdict()

  def _example(self, epoch: int, index: int) -> tuple[np.ndarray, int]:
    encoded, count = self._examples[index], self._transform.numbers
    numbers = uniforms(self._seed or 0, epoch, index, count)
    return self._transform(rgb(encoded), numbers), encoded.label


_cached_order = functools.lru_cache(maxsize=2)(host_order)


def _iterate(parts: _Parts, workers: int, put: Callable[[Batch], Any]):
  """Grain's iterator over whole batches."""
  grain = require("grain", "a streamed data set")
  require("grain.experimental", "a streamed data set")
  # How far ahead: a worker two parts, the thread two batches.
  reading = (
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    if workers
    else grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
  )
  batches = grain.MapDataset.source(parts).to_iter_dataset(reading)
  if workers:
    # Grain asks for flags of its own, which nobody parses outside of main.py.
    flags = require("absl.flags", "a streamed data set").FLAGS
    if not flags.is_parsed():
      flags.mark_as_parsed()
    batches = batches.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=min(workers, len(parts)), per_worker_buffer_size=2
      ),
      worker_init_fn=_outlive_signals_and_no_parent,
    )
  batches = batches.batch(parts.parts, batch_fn=_joined).map(put)
  return iter(
    grain.experimental.ThreadPrefetchIterDataset(
      batches, prefetch_buffer_size=2
    )
  )


def _joined(parts: list[dict[str, np.ndarray]]) -> Batch:
  """Parts as one batch, in memory of its own and not in a worker's."""
  return Batch(
    **{
      name: np.concatenate([np.asarray(part[name]) for part in parts])
      for name in Batch._fields
    }
  )


def _outlive_signals_and_no_parent(index: int, count: int) -> None:
  """What a worker does first.

  A signal for the whole group, as Ctrl-C and schedulers send, is the parent's
  to hear: it may need more batches to come to an end. But where the parent was
  killed nobody else would end the worker.
  """
  del index, count
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)

  def follow():
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

  threading.Thread(target=follow, daemon=True).start()
