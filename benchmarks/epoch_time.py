"""Times whole epochs of CIFAR-10: main.py's own loop, input included.

  python -m benchmarks.epoch_time
  python -m benchmarks.epoch_time --data=folder:cifar10_images.tar.xz
  python -m benchmarks.epoch_time --dtypes=bfloat16 --peers=torch
  python -m benchmarks.epoch_time --replicas=1,5
  python -m benchmarks.epoch_time --smoke

Runs `main.py` for a few epochs and reads the times that it wrote: `training`
has shuffling, augmentation, every step and its record in it, `evaluation` the
whole test split; off a CPU, where work is queued ahead, most of the latter
counts as training. The first epoch compiles, so the medians are over the
others; `start` is all that the run took beyond its epochs at those medians:
reading and decoding the images, compiling, the figure at the end. Without
--data the images are random, in CIFAR-10's number and shape. The peer `torch`
makes as many steps as an epoch has, right after and on one batch that stays on
the device: what no input pipeline can beat. With --replicas so many seeds train
in one program; the table's seconds are of all of them together.
"""

import argparse
import collections
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import (
  arguments,
  contestants,
  machine,
  report,
  synthetic_cifar,
)
from benchmarks.workload import Workload

RUN_EPOCHS = 600  # of the published recipe
CONFIGS = {
  "cifar_resnet18": "cifar10_resnet18",
  "cifar_resnet20": "cifar10_resnet20",
  "cifar_resnet34": "cifar10_resnet34",
  "vgg_small": "cifar10_vgg_small",
}


def epochs(metrics: pathlib.Path, batch: int) -> list[dict[str, float]]:
  """Seconds of training and evaluation of each epoch, from `metrics.jsonl`.

  A step has `batch` images, those of all replicas.
  The file must have a record of every step (train.log_every=1): each tells the
  speed of its dispatch, and over an epoch these add up to its training.
  """
  training: dict[int, float] = collections.defaultdict(float)
  whole = {}
  for line in metrics.read_text().splitlines():
    record = json.loads(line)
    if record["kind"] == "train":
      training[record["epoch"]] += batch / record["images_per_second"]
    elif record["kind"] == "eval":
      whole[record["epoch"]] = record["seconds"]
  return [
    {"training": training[epoch], "evaluation": whole[epoch] - training[epoch]}
    for epoch in sorted(whole)
  ]


def train(
  work: Workload,
  replicas: int,
  chosen: argparse.Namespace,
  data: str,
  place: pathlib.Path,
) -> dict[str, Any]:
  """Runs main.py below `place` and returns what its files say."""
  workdir = place / f"{work.network}_{work.dtype}_{replicas}"
  command = [
    "main.py",
    f"--config=configs/{CONFIGS[work.network]}.py:{chosen.method}",
    f"--config.data.name={data}",
    f"--config.model.dtype={work.dtype}",
    f"--config.train.epochs={chosen.epochs}",
    f"--config.train.batch_size={work.batch}",
    f"--config.train.checkpoint_every={chosen.epochs}",
    f"--config.replicas={replicas}",
    "--config.train.log_every=1",
    "--config.schedule.warmup_epochs=0",
    f"--workdir={workdir}",
  ]
  began = time.perf_counter()
  run = subprocess.run(
    [sys.executable, *command],
    cwd=machine.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  whole = time.perf_counter() - began
  if run.returncode:
    raise ValueError(f"main.py failed: {run.stderr.strip()[-1000:]}")
  parts = epochs(workdir / "metrics.jsonl", replicas * work.batch)
  later = {
    name: statistics.median(part[name] for part in parts[1:])
    for name in ("training", "evaluation")
  }
  result = json.loads((workdir / "result.json").read_text())
  return {
    **work._asdict(),
    "replicas": replicas,
    "method": chosen.method,
    "device": result["device"],
    "steps_per_epoch": result["steps"] // result["epochs"],
    "training_seconds": later["training"],
    "evaluation_seconds": later["evaluation"],
    "start_seconds": whole - sum(later.values()) * len(parts),
    "data": chosen.data or "random images",
    "epochs": parts,
  }


def torch_epoch(work: Workload, steps: int, device: str) -> dict[str, Any]:
  """Seconds that the peer's steps of an epoch take, and what it ran on."""
  platform = "cpu" if device.startswith("cpu") else "gpu"
  with contestants.torch_worker(work, platform) as peer:
    peer.time(3)  # warms up
    return {
      "torch_seconds": steps * peer.time(steps),
      "torch": peer.call("describe"),
    }


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a run."""
  header = [
    "model",
    "batch",
    "precision",
    "method",
    "seeds",
    "training, s",
    "images/s",
    "evaluation, s",
    "start, s",
    f"{RUN_EPOCHS} epochs, min",
  ]
  peer = any("torch_seconds" in row for row in content["rows"])
  header += ["torch's steps, s"] * peer
  rows = []
  for row in content["rows"]:
    replicas = row["replicas"]
    images = row["steps_per_epoch"] * row["batch"] * replicas
    epoch = row["training_seconds"] + row["evaluation_seconds"]
    run = row["start_seconds"] + RUN_EPOCHS * epoch
    rows.append(
      [
        row["network"],
        str(row["batch"]),
        row["dtype"],
        row["method"],
        str(replicas),
        f"{row['training_seconds']:.3g}",
        f"{images / row['training_seconds']:,.0f}",
        f"{row['evaluation_seconds']:.3g}",
        f"{row['start_seconds']:.0f}",
        f"{run / 60:.1f}",
      ]
    )
    if peer:
      rows[-1].append(f"{row['torch_seconds']:.3g}")
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list]:
  """The arguments, checked, and the workloads."""
  parser = arguments.parser("epoch_time", __doc__)
  arguments.add_workloads(
    parser, known=CONFIGS, models="cifar_resnet20", batches="256"
  )
  parser.add_argument(
    "--data",
    help="as main.py's --config.data.name, paths relative to the repository "
    "(default: random images)",
  )
  parser.add_argument("--method", default="ovsw", help="(default: %(default)s)")
  parser.add_argument(
    "--replicas",
    type=arguments.counts,
    default="1",
    metavar="COUNTS",
    help="comma-separated: seeds in one program (default: %(default)s)",
  )
  parser.add_argument(
    "--epochs",
    type=arguments.count,
    default=4,
    help="at least 2, as the first one compiles (default: %(default)s)",
  )
  parser.add_argument(
    "--peers",
    type=arguments.names(["torch"]),
    default="",
    metavar="NAMES",
    help="torch, or empty (default: empty)",
  )
  arguments.add_out(parser, "epoch_time")
  chosen = parser.parse_args(argv)
  if chosen.epochs < 2:
    parser.error("--epochs must be at least 2, as the first one compiles")
  contestants.check_torch(chosen.peers)
  return chosen, arguments.workloads(parser, chosen)


def main(argv: Sequence[str] | None = None) -> None:
  chosen, work = parse(argv)
  rows = []
  show = report.Progress()
  with tempfile.TemporaryDirectory() as directory:
    place = pathlib.Path(directory)
    data = chosen.data
    if data is None:
      show("making random images")
      counts = (64, 16) if chosen.smoke else (50_000, 10_000)
      synthetic_cifar.write(place / "images.tar", *counts, work[0].side)
      data = f"folder:{place / 'images.tar'}"
    for item, replicas in itertools.product(work, chosen.replicas):
      show(f"{item.network}, batch {item.batch}, {item.dtype}: main.py")
      row = train(item, replicas, chosen, data, place)
      if chosen.peers:
        show(f"{item.network}, batch {item.batch}, {item.dtype}: torch")
        row |= torch_epoch(item, row["steps_per_epoch"], row["device"])
      rows.append(row)
  show.clear()
  report.show(report.make("epoch_time", chosen, rows, rows[0]["device"]), table)


if __name__ == "__main__":
  arguments.start(main)
