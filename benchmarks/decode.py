"""Images a second that one core decodes and crops for training on ImageNet.

  python -m benchmarks.decode
  python -m benchmarks.decode --images=/data/imagenet --workers=1,8,16
  python -m benchmarks.decode --smoke

In one process and one thread, `ours` (the decoder and random crop of a stream)
takes turns with `pillow`, the same written as a PyTorch data set does: open,
convert, crop, resize. The ratio is the median over neighbours; the rate is by
the clock, and by processor time, which on a busy machine is nearer to what a
core can do. Then whole batches come out of a stream with so many worker
processes, which is what a training step can get. Without --images, 500x375
JPEGs of blurred noise are made, about as large as ImageNet's files.
"""

import argparse
import contextlib
import functools
import itertools
import math
import pathlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import arguments, machine, report, timing
from ovsw_jax import data

SCALE = (0.08, 1.25)


def make_images(root: pathlib.Path, count: int) -> None:
  """Writes an image folder of JPEGs, `count` for training and one to test."""
  from PIL import Image

  noise = np.random.default_rng(0)
  for split, images in (("train", count), ("test", 1)):
    folder = root / split / "noise"
    folder.mkdir(parents=True)
    for index in range(images):
      small = noise.integers(0, 256, (125, 167, 3), dtype=np.uint8)
      image = Image.fromarray(small).resize((500, 375))
      image.save(folder / f"{index:05}.jpg", quality=92)


def ours(dataset: data.Streamed) -> Callable[[int], int]:
  """Decodes and crops as many images as it is told, as a stream does."""
  indices = itertools.cycle(range(len(dataset.train)))

  def run(count: int) -> int:
    for index in itertools.islice(indices, count):
      numbers = data.uniforms(0, 0, index, dataset.crop.numbers)
      dataset.crop(data.rgb(dataset.train[index]), numbers)
    return count

  return run


def pillow(dataset: data.Streamed) -> Callable[[int], int]:
  """The same as a PyTorch data set has it: torchvision's crop, in Python."""
  from PIL import Image

  paths = [dataset.train[index].name for index in range(len(dataset.train))]
  path = itertools.cycle(paths)
  size, draw = dataset.crop.size, random.Random(0)

  def box(width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
      area = width * height * draw.uniform(*SCALE)
      ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
      w = round(math.sqrt(area * ratio))
      h = round(math.sqrt(area / ratio))
      if 0 < w <= width and 0 < h <= height:
        left, top = draw.randint(0, width - w), draw.randint(0, height - h)
        return left, top, left + w, top + h
    return 0, 0, width, height

  def run(count: int) -> int:
    for name in itertools.islice(path, count):
      with open(name, "rb") as file:
        image = Image.open(file).convert("RGB")
      part = image.crop(box(*image.size))
      np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))
    return count

  return run


class Metered:
  """A decoder, and the processor time that it has taken for how many images.

  The clock on the wall also has what other programs took of the core.
  """

  def __init__(self, decode: Callable[[int], int]):
    self._decode, self.images, self.seconds = decode, 0, 0.0

  def __call__(self, count: int) -> int:
    began = time.process_time()
    self.images += self._decode(count)
    self.seconds += time.process_time() - began
    return count


def stream_rate(
  dataset: data.Streamed, workers: int, batch: int, seconds: float
) -> float:
  """Images a second out of a stream, once what it had ahead is used up."""
  batches = data.training_batches(
    dataset, seed=0, batch_size=batch, start=0, stop=2**31, workers=workers
  )
  with contextlib.closing(batches):
    # The thread is two batches ahead, and each worker two parts.
    for _ in range(4 + workers):
      next(batches)
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds or not count:
      next(batches)
      count += batch
  return count / took


def table(content: dict[str, Any]) -> str:
  """Markdown, one row for each way to decode."""
  rows = []
  for row in content["rows"]:
    over = row.get("over_pillow")
    rows.append(
      [
        row["decoder"],
        str(row["cores"]),
        f"{row['images_per_second']:.0f}",
        f"{row['images_per_second'] / row['cores']:.0f}",
        f"{row['images_per_cpu_second']:.0f}"
        if "images_per_cpu_second" in row
        else "",
        report.times(over) if over else "",
      ]
    )
  return report.markdown(
    [
      "decoder",
      "cores",
      "images/s",
      "a core",
      "a second of its processor",
      "rate / pillow's",
    ],
    rows,
  )


@contextlib.contextmanager
def _images(chosen: argparse.Namespace) -> Iterator[data.Streamed]:
  """The data set that is asked for, or one that is made for the while."""
  with contextlib.ExitStack() as stack:
    path = chosen.images
    if path is None:
      path = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      make_images(path, chosen.count)
    dataset = data.open_stream(f"stream:{path}", scale=SCALE)
    yield dataset.limited(chosen.count)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("decode", __doc__)
  parser.add_argument(
    "--images",
    type=pathlib.Path,
    help="folder of train/<class>/* and val/<class>/* (default: made)",
  )
  parser.add_argument(
    "--count",
    type=arguments.count,
    default=256,
    help="images to go round and round (default: %(default)s)",
  )
  parser.add_argument(
    "--workers",
    type=arguments.counts,
    default=[1, machine.cores()],
    metavar="COUNTS",
    help="worker processes, one measurement each (default: 1 and all cores)",
  )
  parser.add_argument(
    "--batch",
    type=arguments.count,
    default=128,
    help="images of a batch (default: %(default)s)",
  )
  parser.add_argument(
    "--seconds",
    type=arguments.seconds,
    default=20.0,
    help="that a stream is watched for (default: %(default)s)",
  )
  arguments.add_rounds(parser)
  parser.add_argument(
    "--smoke",
    action="store_true",
    help="seconds instead of minutes, and numbers that mean nothing",
  )
  arguments.add_out(parser, "decode")
  chosen = parser.parse_args(argv)
  if chosen.smoke:
    chosen.count, chosen.batch, chosen.workers = 8, 4, [1]
    chosen.rounds, chosen.seconds = 2, 0.1
  if chosen.batch > chosen.count:
    parser.error(f"--batch={chosen.batch} is more than --count={chosen.count}")
  return chosen


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  show = report.Progress("decode: ")
  with _images(chosen) as dataset:
    decoders = {
      "ours": Metered(ours(dataset)),
      "pillow": Metered(pillow(dataset)),
    }
    times = timing.alternate(
      functools.partial(timing.measure, decoders["ours"]),
      {"pillow": functools.partial(timing.measure, decoders["pillow"])},
      rounds=chosen.rounds,
      seconds=0.0 if chosen.smoke else 0.5,
      progress=show,
    )
    triples = times.others["pillow"]
    seconds = {
      "ours": timing.summary(times.base),
      "pillow": timing.summary([triple.other for triple in triples]),
    }
    rows: list[dict[str, Any]] = [
      {
        "decoder": name,
        "cores": 1,
        "images_per_second": 1 / value["median"],
        "images_per_cpu_second": (
          decoders[name].images / decoders[name].seconds
        ),
        "seconds": value,
      }
      for name, value in seconds.items()
    ]
    # Seconds of the peer over ours are our rate over the peer's.
    rows[0]["over_pillow"] = timing.ratio(triples, of_base=False)
    for workers in chosen.workers:
      show(f"a stream with {workers} workers")
      rate = stream_rate(dataset, workers, chosen.batch, chosen.seconds)
      rows.append(
        {
          "decoder": f"stream, {workers} workers",
          "cores": min(workers, machine.cores()),
          "images_per_second": rate,
        }
      )
  show.clear()
  content = report.make("decode", chosen, rows, "cpu")
  report.show(content, table)


if __name__ == "__main__":
  arguments.start(main)
