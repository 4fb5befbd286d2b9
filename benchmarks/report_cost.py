"""Measures the report of a long run: seconds and memory, without training.

  python -m benchmarks.report_cost
  python -m benchmarks.report_cost --smoke

A workdir is made up as training leaves one: 200 epochs of metrics, a line each
ten steps, and a checkpoint of every binary layer of ResNet-18 (11 million
weights) with flips and SAD's average. `analysis.report` then reads it in a
process of its own, whose time and highest memory are told. That process must
import no training stack.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks import arguments, machine, report

_REPORT = """
import json, pathlib, re, resource, sys, time
from ovsw_jax import analysis
began = time.perf_counter()
page = analysis.report(sys.argv[1])
seconds = time.perf_counter() - began
status = pathlib.Path("/proc/self/status")
if status.exists():
  # ru_maxrss would begin at the size of the process that forked this one.
  (kibibytes,) = re.findall(r"VmHWM:\\s+(\\d+) kB", status.read_text())
  peak = int(kibibytes) * 1024
else:  # macOS, which counts bytes
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
heavy = ("ovsw_jax.training", "orbax", "ml_collections")
print(json.dumps({
  "seconds": round(seconds, 2),
  "peak_bytes": peak,
  "page_bytes": page.stat().st_size,
  "training_stack": sorted(m for m in sys.modules if m.startswith(heavy)),
}))
"""


def layers(smoke: bool = False) -> dict[str, tuple[int, ...]]:
  """Shapes of the binary kernels of ResNet-18 by path, HWIO."""
  widths = (8, 16) if smoke else (64, 128, 256, 512)
  found = {}
  before = widths[0]
  for stage, width in enumerate(widths, start=1):
    for block in range(2):
      name = f"layer{stage}_block{block}"
      found[f"{name}/conv1/latent"] = (3, 3, before, width)
      found[f"{name}/conv2/latent"] = (3, 3, width, width)
      before = width
  return found


def metrics(
  names: Sequence[str], epochs: int, lines_per_epoch: int, seed: int = 0
) -> str:
  """Lines of `metrics.jsonl` as training writes them, numbers made up."""
  import numpy as np

  rng, lines = np.random.default_rng(seed), []
  for epoch in range(1, epochs + 1):
    flips = {
      "flip_rate": 1e-3 / epoch,
      "silent_fraction": 0.9,
      "never_flipped_fraction": 0.95 - 0.3 * epoch / epochs,
    }
    for line in range(lines_per_epoch):
      step = 10 * (line + 1 + (epoch - 1) * lines_per_epoch)
      train = {"loss": 1 / epoch, "accuracy": 0.5, "learning_rate": 0.1}
      train |= {"gradient_norm": 1.0, "images_per_second": 900.0}
      common = {"step": step, "epoch": epoch}
      lines.append({"kind": "train"} | common | train | flips)
    accuracy = 0.9 - 0.5 / epoch + 0.01 * float(rng.normal())
    end = {"accuracy": accuracy, "loss": 1 / epoch, "top5": 0.99}
    end |= {"train_loss": 1 / epoch, "train_accuracy": 0.95 - 0.5 / epoch}
    lines.append({"kind": "eval"} | common | end | flips | {"seconds": 60.0})
    kinds = ("ags_ratio", "flip_rate", "flip_rate_mean", *flips)
    by_layer = {
      kind: dict(zip(names, rng.random(len(names)).tolist(), strict=True))
      for kind in kinds
    }
    lines.append({"kind": "layers"} | common | by_layer)
  return "".join(json.dumps(line) + "\n" for line in lines)


def make(workdir: pathlib.Path, epochs: int, smoke: bool = False) -> int:
  """Makes up a finished run; returns its number of binary weights."""
  import jax.numpy as jnp
  import numpy as np
  import optax
  from flax import traverse_util

  import ovsw_jax as ovsw
  from ovsw_jax.training import checkpoint

  shapes, rng = layers(smoke), np.random.default_rng(0)
  workdir.mkdir(parents=True, exist_ok=True)
  lines_per_epoch = 2 if smoke else 39  # 390 steps an epoch
  step = 10 * lines_per_epoch * epochs
  (workdir / "metrics.jsonl").write_text(
    metrics(list(shapes), epochs, lines_per_epoch)
  )
  config = {
    "seed": 0,
    "method": "ovsw",
    "method_args": {"delta": 0.04, "threshold": 1e-4},
    "model": {"name": "cifar_resnet18"},
    "data": {"name": "tfds:cifar10"},
    "train": {"epochs": epochs},
  }
  (workdir / "config.json").write_text(json.dumps(config))
  (workdir / "result.json").write_text(json.dumps({"accuracy": 0.9}))
  params = traverse_util.unflatten_dict(
    {
      name: jnp.asarray(rng.normal(0, 0.05, shape), jnp.float32)
      for name, shape in shapes.items()
    },
    sep="/",
  )
  tx = optax.chain(
    ovsw.optax.ovsw(), ovsw.optax.sign_flips(), optax.sgd(0.1, momentum=0.9)
  )
  tree = {
    "step": jnp.int32(step),
    "params": params,
    "opt_state": tx.init(params),
  }
  checkpoint.save(workdir / "checkpoints", step, tree, keep=1)
  return sum(int(np.prod(shape)) for shape in shapes.values())


def measure(workdir: pathlib.Path) -> dict:
  """Time, memory and size of a workdir's report, in a fresh process.

  Raises:
    ValueError: if the report fails, or imports the training stack.
  """
  done = subprocess.run(
    [sys.executable, "-c", _REPORT, str(workdir)],
    cwd=machine.ROOT,
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise ValueError(f"the report failed: {done.stderr.splitlines()[-1]}")
  found = json.loads(done.stdout)
  if loaded := found.pop("training_stack"):
    raise ValueError(f"the report imports {', '.join(loaded)}")
  return found


def table(content: dict) -> str:
  """Markdown, one row."""
  rows = [
    [
      f"{row['epochs']} epochs, {row['weights']:,} binary weights",
      f"{row['seconds']:.1f}",
      f"{row['peak_bytes'] / 2**20:.0f}",
      f"{row['page_bytes'] / 2**20:.1f}",
    ]
    for row in content["rows"]
  ]
  header = ["run", "seconds", "highest memory, MiB", "page, MiB"]
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments."""
  parser = arguments.parser("report_cost", __doc__)
  parser.add_argument(
    "--epochs", type=arguments.count, default=200, help="(default: 200)"
  )
  parser.add_argument(
    "--smoke", action="store_true", help="a network of two narrow stages"
  )
  arguments.add_out(parser, "report_cost")
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  with tempfile.TemporaryDirectory() as place:
    workdir = pathlib.Path(place) / "run"
    weights = make(workdir, chosen.epochs, chosen.smoke)
    row = {"epochs": chosen.epochs, "weights": weights} | measure(workdir)
  report.show(report.make("report_cost", chosen, [row], "cpu"), table)


if __name__ == "__main__":
  arguments.start(main)
