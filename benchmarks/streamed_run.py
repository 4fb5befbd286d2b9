"""A run on JPEGs of all sizes and kinds, stopped and killed on its way.

  python -m benchmarks.streamed_run --data=folder:cifar10_images.tar.xz
  python -m benchmarks.streamed_run --smoke

Makes a folder like ImageNet's out of a data set's images: mosaics of a few of
one class, enlarged to 60 to 600 pixels a side, in RGB, grey and CMYK, and lying
on their side with a word about it in EXIF. ResNet-18 is trained on it through
the stream, which decodes in worker processes, and evaluated; at 32 pixels
unless told otherwise (--image-size=224 takes two CPU cores some 20 minutes).
Once it is left alone, and once stopped by SIGTERM within the first epoch,
killed within the second, and gone on with. Then parameters, optimizer state
and batch statistics must have the same bits, and metrics the same lines but
for times, and after each end no worker process may be left.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import arguments, machine, report
from benchmarks.kill_storm import arrays, lines, same_bits
from ovsw_jax import analysis, data

SIDES = (60, 600)  # pixels, the logarithm uniform between
ORIENTATION = 0x0112  # the EXIF tag
# Of twenty images in a row, the mode; others are RGB. Orientations 2 to 8 come
# in turn.
KINDS = {
  3: "grey",
  8: "grey",
  11: "CMYK",
  16: "CMYK",
  13: "turned",
  19: "turned",
}
_STOPPED = 128 + signal.SIGTERM  # status of main.py after SIGTERM
_LEAVING = 30.0  # seconds that worker processes have to leave


def picture(small: np.ndarray, noise: np.random.Generator) -> Any:
  """An RGB image of a few small ones of one class, uint8 (n, h, w, c)."""
  from PIL import Image

  side = int(noise.integers(1, 4))
  chosen = small[noise.integers(0, len(small), (side, side))]
  mosaic = np.concatenate(np.concatenate(chosen, axis=1), axis=1)
  # Grey images have one channel.
  mosaic = np.broadcast_to(mosaic, (*mosaic.shape[:2], 3))
  low, high = np.log(SIDES)
  width, height = np.exp(noise.uniform(low, high, 2)).round().astype(int)
  image = Image.fromarray(np.ascontiguousarray(mosaic)).resize((width, height))
  # A camera's noise, without which the files would be small and soon decoded.
  grain = noise.normal(0.0, 6.0, (height, width, 1))
  return Image.fromarray(
    np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
  )


def write(path: pathlib.Path, image: Any, index: int) -> str:
  """Writes an image as the JPEG that its index asks for; returns the kind."""
  from PIL import Image

  kind, options = KINDS.get(index % 20, "RGB"), {}
  if kind in ("grey", "CMYK"):
    image = image.convert("L" if kind == "grey" else "CMYK")
  elif kind == "turned":
    exif = Image.Exif()
    exif[ORIENTATION] = 2 + index // 20 % 7
    options["exif"] = exif
  image.save(path, quality=90, **options)
  return kind


def make_images(
  root: pathlib.Path, source: data.Dataset, train: int, test: int
) -> dict[str, int]:
  """Writes so many JPEGs of each split, class by class; counts the kinds."""
  noise, kinds = np.random.default_rng(0), collections.Counter()
  for name, split, count in (
    ("train", source.train, train),
    ("val", source.test, test),
  ):
    labels = np.asarray(split.labels)
    of_class = [
      np.asarray(split.images)[labels == label]
      for label in range(len(source.classes))
    ]
    for index in range(count):
      label = index % len(of_class)
      folder = root / name / source.classes[label]
      folder.mkdir(parents=True, exist_ok=True)
      image = picture(of_class[label], noise)
      # Every class has all kinds.
      kinds[
        write(folder / f"{index:06}.jpg", image, index // len(of_class))
      ] += 1
  return dict(kinds)


class Run:
  """main.py in a process group of its own, which is gone after `with`."""

  def __init__(self, command: list[str], log: pathlib.Path):
    self._command, self._log = command, log

  def __enter__(self) -> "Run":
    with self._log.open("a") as file:
      self.process = subprocess.Popen(
        [sys.executable, *self._command],
        cwd=machine.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        process_group=0,
      )
    return self

  def __exit__(self, *_) -> None:
    if self.alone() is None:
      os.killpg(self.process.pid, signal.SIGKILL)
    self.process.wait()

  def alone(self) -> bool | None:
    """True once nobody of the group is left, else None."""
    try:
      os.killpg(self.process.pid, 0)
    except ProcessLookupError:
      return True
    return None

  def wait_for(self, workdir: pathlib.Path, step: int) -> None:
    """Waits until a step is in the metrics.

    Raises:
      ValueError: if the run ends before.
    """
    while last_step(workdir) < step:
      if self.process.poll() is not None:
        raise ValueError(f"the run ended before step {step}; see {self._log}")
      time.sleep(0.02)

  def end(self, status: int) -> float:
    """Waits for the end with a status; the seconds that workers outlived it.

    Raises:
      ValueError: for another status, or workers that do not leave.
    """
    code = self.process.wait()
    if code != status:
      raise ValueError(
        f"main.py ended with status {code}, not {status}; see {self._log}"
      )
    began = time.monotonic()
    while not self.alone():
      if time.monotonic() - began > _LEAVING:
        raise ValueError(
          f"worker processes of group {self.process.pid} are left after "
          f"{_LEAVING:.0f} s"
        )
      time.sleep(0.02)
    return time.monotonic() - began


def last_step(workdir: pathlib.Path) -> int:
  """The last step in the metrics, 0 if there is none."""
  if not (workdir / "metrics.jsonl").exists():
    return 0
  records = analysis.read_metrics(workdir)
  return max((record["step"] for record in records), default=0)


def left_alone(
  command: list[str], workdir: pathlib.Path, log: pathlib.Path
) -> dict[str, Any]:
  """Runs main.py to its end; what its files say."""
  began = time.monotonic()
  with Run([*command, f"--workdir={workdir}"], log) as run:
    run.end(0)
  seconds = time.monotonic() - began
  result = json.loads((workdir / "result.json").read_text())
  records = analysis.read_metrics(workdir)
  rates = [r["images_per_second"] for r in records if r["kind"] == "train"]
  return {
    "seconds": seconds,
    # The first step compiles.
    "images_per_second": float(np.median(rates[1:])),
    "accuracy": result["accuracy"],
    "steps": result["steps"],
    "device": result["device"],
  }


def disturbed(
  command: list[str], workdir: pathlib.Path, log: pathlib.Path, epoch: int
) -> dict[str, Any]:
  """The same with a stop and a kill; the steps and how long workers stayed."""
  command = [*command, f"--workdir={workdir}"]
  ends = []
  for number, step, status in (
    (signal.SIGTERM, max(1, epoch // 2), _STOPPED),
    (signal.SIGKILL, epoch + max(1, epoch // 2), -signal.SIGKILL),
  ):
    with Run(command, log) as run:
      run.wait_for(workdir, step)
      run.process.send_signal(number)
      ends.append(
        {
          "signal": signal.Signals(number).name,
          "workers_gone_after": run.end(status),
          "after_step": last_step(workdir),
        }
      )
  with Run(command, log) as run:
    run.end(0)
  return {"ends": ends}


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a run."""
  header = [
    "network",
    "images",
    "RGB, grey, CMYK, turned",
    "size",
    "workers",
    "images/s",
    "test accuracy, %",
    "stopped and killed after step",
    "bits",
    "lines",
  ]
  rows = [
    [
      row["network"],
      f"{row['train']} + {row['test']}",
      ", ".join(
        str(row["kinds"].get(kind, 0))
        for kind in ("RGB", "grey", "CMYK", "turned")
      ),
      str(row["image_size"]),
      str(row["workers"]),
      f"{row['images_per_second']:.3g}",
      f"{100 * row['accuracy']:.1f}",
      ", ".join(str(end["after_step"]) for end in row["ends"])
      + f" of {row['steps']}",
      *("same" if row[name] else "OTHER" for name in ("bits", "lines")),
    ]
    for row in content["rows"]
  ]
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("streamed_run", __doc__)
  parser.add_argument(
    "--config",
    default="configs/imagenet_resnet18.py",
    help="(default: %(default)s)",
  )
  parser.add_argument(
    "--data",
    default="digits",
    help="whose images to enlarge, as main.py's --config.data.name, paths "
    "relative to the repository (default: %(default)s)",
  )
  for name, default, what in (
    ("--train", 2400, "training images"),
    ("--test", 600, "test images"),
    ("--batch", 32, "images of a batch"),
    ("--image-size", 32, "pixels that the network sees"),
    ("--workers", 2, "processes that decode"),
  ):
    parser.add_argument(
      name,
      type=arguments.count,
      default=default,
      help=f"{what} (default: %(default)s)",
    )
  parser.add_argument(
    "--workdir",
    type=pathlib.Path,
    default=pathlib.Path("runs", "streamed_run"),
    help="place of images and runs, emptied first (default: %(default)s)",
  )
  parser.add_argument(
    "--smoke",
    action="store_true",
    help="a minute instead of many: few images, an accuracy without meaning",
  )
  arguments.add_out(parser, "streamed_run")
  parser.add_argument(
    "overrides", nargs="*", help="further arguments of main.py, after --"
  )
  chosen = parser.parse_args(argv)
  if chosen.smoke:
    chosen.train, chosen.test, chosen.batch = 60, 20, 4
    chosen.image_size, chosen.workers = 32, 1
  if chosen.train < 4 * chosen.batch:
    parser.error(
      f"--train={chosen.train} are too few for a stop within an epoch of "
      f"batches of {chosen.batch}"
    )
  return chosen


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  place = machine.ROOT / chosen.workdir
  shutil.rmtree(place, ignore_errors=True)
  place.mkdir(parents=True)
  show = report.Progress("streamed_run: ")
  show("images")
  kinds = make_images(
    place / "images", data.load(chosen.data), chosen.train, chosen.test
  )
  epoch = chosen.train // chosen.batch
  command = [
    "main.py",
    f"--config={chosen.config}",
    f"--config.data.name=stream:{place / 'images'}",
    f"--config.data.image_size={chosen.image_size}",
    # As 256 is to 224.
    f"--config.data.resize={round(chosen.image_size * 256 / 224)}",
    f"--config.data.workers={chosen.workers}",
    f"--config.train.batch_size={chosen.batch}",
    "--config.train.epochs=2",
    "--config.train.log_every=1",
    "--config.schedule.warmup_epochs=0",
    # For batches that are smaller than the recipe's.
    "--config.optimizer.learning_rate=0.01",
    *chosen.overrides,
  ]
  calm, stormy = place / "calm", place / "stormy"
  show("a run without disturbance")
  row: dict[str, Any] = {
    **{
      name: getattr(chosen, name)
      for name in ("train", "test", "image_size", "workers")
    },
    "kinds": kinds,
    **left_alone(command, calm, place / "calm.log"),
  }
  show("a run with a stop and a kill")
  row |= disturbed(command, stormy, place / "stormy.log", epoch)
  row["bits"] = same_bits(arrays(stormy), arrays(calm))
  row["lines"] = lines(stormy) == lines(calm)
  show.clear()
  config = json.loads((calm / "config.json").read_text())
  row["network"] = config["model"]["name"]
  content = report.make("streamed_run", chosen, [row], row.pop("device"))
  report.show(content, table)
  if not (row["bits"] and row["lines"]):
    raise ValueError("the run that was stopped and killed is another one")


if __name__ == "__main__":
  arguments.start(main)
