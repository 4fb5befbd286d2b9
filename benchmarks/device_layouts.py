"""One training on one device, on eight, and on four each of two processes.

  python -m benchmarks.device_layouts --data=folder:cifar10_images.tar.xz
  python -m benchmarks.device_layouts --smoke

main.py runs on virtual devices of the CPU, the processes over loopback, and
every run is compared with that of one device. Layouts sum over a batch in other
orders, and a binary network carries rounding far: an activation that rounding
takes over zero is another bit, of which a batch has one every step or two. So
there are two comparisons.

- float64: from the states that the run on one device had, every layout makes
  --steps steps (`benchmarks.float64_steps`). There rounding moves no bit, and
  losses and parameters must agree to 1e-9, binary weights in sign, and
  the order of the data must be one.
- float32: main.py itself. The first loss must agree to 1e-5 of it, as sums over
  a batch do; after that runs part. How far is shown beside controls, each one
  device again with other vector instructions (on x86), so that nothing but
  rounding differs; and the last epoch's mean loss must agree to --tolerance of
  it. That bound is set by hand: of the runs recorded so far controls were up
  to 7.7 % off, and layouts 5.4 %.
"""

import argparse
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import arguments, machine, report, synthetic_cifar
from ovsw_jax import analysis

EXACT = 1e-9  # of float64: losses of some units, parameters of some tenths
FIRST = 1e-5  # of the first loss in float32, relative
SHOWN = (1, 10, 100, 300)  # steps whose losses the table has


class Layout(NamedTuple):
  """So many processes of so many devices, and further flags of XLA."""

  name: str
  processes: int
  devices: int
  flags: str = ""

  @property
  def is_control(self) -> bool:
    """Whether it is the first layout again, rounding in another way."""
    return bool(self.flags)


LAYOUTS = (
  Layout("1 process of 1", 1, 1),
  Layout("1 process of 8", 1, 8),
  Layout("2 processes of 4", 2, 4),
  *(
    Layout(f"control, {name}", 1, 1, f"--xla_cpu_max_isa={name}")
    for name in ("AVX2", "AVX", "SSE4_2")
  ),
)
_SMOKE = (Layout("1 process of 1", 1, 1), Layout("2 processes of 1", 2, 1))


def environments(layout: Layout) -> Iterator[dict[str, str]]:
  """The environment of each process of a layout."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  devices = f"--xla_force_host_platform_device_count={layout.devices}"
  for index in range(layout.processes):
    several = {
      "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
      "JAX_NUM_PROCESSES": str(layout.processes),
      "JAX_PROCESS_ID": str(index),
    }
    yield {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": f"{devices} {layout.flags}".strip(),
      **(several if layout.processes > 1 else {}),
    }


def run(layout: Layout, command: Sequence[str], log: pathlib.Path) -> float:
  """Runs a command in a layout's processes to its end; returns the seconds.

  Raises:
    ValueError: if a process fails. The others wait for it in vain, and end.
  """
  began, processes = time.monotonic(), []
  with log.open("a") as file:
    try:
      for environment in environments(layout):
        processes.append(
          subprocess.Popen(
            [sys.executable, *command],
            cwd=machine.ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
          )
        )
      while None in (codes := [process.poll() for process in processes]):
        if any(codes):  # neither running nor well
          break
        time.sleep(0.05)
    finally:
      for process in processes:
        process.kill()
        process.wait()
  if any(process.returncode for process in processes):
    raise ValueError(f"{layout.name}: {command[0]} failed; see {log}")
  return time.monotonic() - began


def records(workdir: pathlib.Path, kind: str) -> list[dict[str, Any]]:
  """The lines of one kind of a run's metrics."""
  lines = analysis.read_metrics(workdir)
  return [line for line in lines if line["kind"] == kind]


def parameters(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """The parameters of a checkpoint, by path."""
  from flax import traverse_util

  from ovsw_jax.training import checkpoint, networks

  place = workdir / networks.CHECKPOINTS
  tree = checkpoint.variables(place, step, ("params",))["params"]
  flat = traverse_util.flatten_dict(tree, sep="/")
  return {name: np.asarray(value) for name, value in flat.items()}


def apart(
  one: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> dict[str, float]:
  """How far two networks are apart.

  Returns:
    `parameters`, the largest difference of any, and `bits`, the share of the
    latent binary weights whose signs differ.

  Examples:
    >>> a = {"c/latent": np.array([0.5, -1.0]), "c/bias": np.array([1.0])}
    >>> b = {"c/latent": np.array([0.5, 0.25]), "c/bias": np.array([1.0])}
    >>> apart(a, b)
    {'parameters': 1.25, 'bits': 0.5}
  """
  largest = max(np.max(np.abs(one[name] - other[name])) for name in one)
  differ = [
    (one[name] >= 0) != (other[name] >= 0)
    for name in one
    if name.endswith("latent")
  ]
  bits = np.concatenate([signs.ravel() for signs in differ])
  return {"parameters": float(largest), "bits": float(bits.mean())}


def in_float32(workdir: pathlib.Path, base: pathlib.Path) -> dict[str, Any]:
  """What main.py came to in a workdir, and how far from what it did in base."""
  own, others = records(workdir, "train"), records(base, "train")
  differences = {
    line["step"]: abs(line["loss"] - other["loss"])
    for line, other in zip(own, others, strict=True)
  }
  epochs = records(workdir, "eval")
  shown = [step for step in SHOWN if step in differences]
  last = max(differences)
  return {
    "first_loss": own[0]["loss"],
    "train_loss": epochs[-1]["train_loss"],
    "accuracy": epochs[-1]["accuracy"],
    "loss_differences": {
      str(step): differences[step] for step in sorted({*shown, last})
    },
    "largest_loss_difference": max(differences.values()),
    "apart": {
      str(line["step"]): apart(
        parameters(workdir, line["step"]), parameters(base, line["step"])
      )
      for line in epochs
    },
  }


def in_float64(
  path: pathlib.Path, base: pathlib.Path, starts: Sequence[int]
) -> dict[str, Any]:
  """How far the steps of two layouts in float64 are apart, by their start."""
  found = {}
  with np.load(path) as ours, np.load(base) as theirs:
    for start in starts:
      one, other = (
        {
          name.partition(":")[2]: file[name]
          for name in file.files
          if name.startswith(f"{start}:")
        }
        for file in (ours, theirs)
      )
      same = np.array_equal(one.pop("order"), other.pop("order"))
      loss, _ = one.pop("loss") - other.pop("loss"), one.pop("gradient_norm")
      other.pop("gradient_norm")
      found[str(start)] = {
        "same_order": bool(same),
        "loss": float(np.max(np.abs(loss))),
        **apart(one, other),
      }
  return found


def disagreements(rows: list[dict[str, Any]], tolerance: float) -> list[str]:
  """What does not agree as it must, in words."""
  found = []
  base = rows[0]
  for row in rows[1:]:
    name = row["layout"]
    for field, bound in (("first_loss", FIRST), ("train_loss", tolerance)):
      if abs(row[field] - base[field]) > bound * abs(base[field]):
        found.append(f"{name}: {field} {row[field]:.7g}, not {base[field]:.7g}")
    for start, value in row.get("float64", {}).items():
      if not value["same_order"]:
        found.append(f"{name}: another order of the data after step {start}")
      if value["bits"] or max(value["loss"], value["parameters"]) > EXACT:
        found.append(f"{name}: other float64 steps after step {start}, {value}")
  return found


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a layout."""
  rows = content["rows"]
  shown = list(rows[0]["loss_differences"])
  header = [
    "devices",
    "float64: loss",
    "parameters",
    "bits",
    *(f"float32: loss, step {step}" for step in shown),
    "bits at the end",
    "last epoch's loss",
    "test accuracy, %",
  ]
  lines = []
  for row in rows:
    wide = list(row.get("float64", {}).values())
    last = list(row["apart"].values())[-1]
    lines.append(
      [
        row["layout"],
        *(
          f"{max(value[name] for value in wide):.1g}" if wide else ""
          for name in ("loss", "parameters", "bits")
        ),
        *(f"{row['loss_differences'][step]:.1g}" for step in shown),
        f"{100 * last['bits']:.2f} %",
        f"{row['train_loss']:.4f}",
        f"{100 * row['accuracy']:.1f}",
      ]
    )
  return report.markdown(header, lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments, checked."""
  parser = arguments.parser("device_layouts", __doc__)
  parser.add_argument(
    "--config",
    default="configs/cifar10_resnet20.py",
    help="(default: %(default)s)",
  )
  parser.add_argument(
    "--data",
    help="as main.py's --config.data.name, of images in memory, paths relative "
    "to the repository (default: random images)",
  )
  parser.add_argument(
    "--batch",
    type=arguments.count,
    default=32,
    help="images of a batch, a multiple of 8 (default: %(default)s)",
  )
  parser.add_argument(
    "--epoch",
    type=arguments.count,
    default=100,
    help="batches of an epoch (default: %(default)s)",
  )
  parser.add_argument(
    "--epochs", type=arguments.count, default=3, help="(default: %(default)s)"
  )
  parser.add_argument(
    "--steps",
    type=arguments.count,
    default=20,
    help="made in float64 from the start, and from each epoch's end but the "
    "last (default: %(default)s)",
  )
  parser.add_argument(
    "--tolerance",
    type=arguments.seconds,
    default=0.1,
    help="of the last epoch's loss, relative (default: %(default)s)",
  )
  parser.add_argument(
    "--workdir",
    type=pathlib.Path,
    default=pathlib.Path("runs", "device_layouts"),
    help="place of the runs, emptied first (default: %(default)s)",
  )
  parser.add_argument(
    "--smoke",
    action="store_true",
    help="a minute instead of many: one device and two processes of one, a "
    "few steps on tiny random images",
  )
  arguments.add_out(parser, "device_layouts")
  parser.add_argument(
    "overrides", nargs="*", help="further arguments of main.py, after --"
  )
  chosen = parser.parse_args(argv)
  if chosen.smoke:
    chosen.batch, chosen.epoch, chosen.epochs, chosen.steps = 4, 2, 2, 1
    # So few steps say nothing of where they lead.
    chosen.tolerance = 1.0
  return chosen


def main(argv: Sequence[str] | None = None) -> None:
  chosen = parse(argv)
  layouts = _SMOKE if chosen.smoke else LAYOUTS
  place = machine.ROOT / chosen.workdir
  shutil.rmtree(place, ignore_errors=True)
  place.mkdir(parents=True)
  show = report.Progress("device_layouts: ")
  examples = chosen.batch * chosen.epoch
  starts = [epoch * chosen.epoch for epoch in range(chosen.epochs)]
  base, rows = place / "0", []
  with tempfile.TemporaryDirectory() as directory:
    data = chosen.data
    if data is None:
      archive = pathlib.Path(directory, "images.tar")
      side = 8 if chosen.smoke else 32
      synthetic_cifar.write(archive, examples, examples, side)
      data = f"folder:{archive}"
    for index, layout in enumerate(layouts):
      show(f"{layout.name}, float32")
      workdir, log = place / f"{index}", place / f"{index}.log"
      command = [
        "main.py",
        f"--config={chosen.config}",
        f"--config.data.name={data}",
        f"--config.data.limit={examples}",
        f"--config.train.batch_size={chosen.batch}",
        f"--config.train.epochs={chosen.epochs}",
        f"--config.train.keep={chosen.epochs}",
        "--config.train.checkpoint_every=1",
        "--config.train.log_every=1",
        "--config.schedule.warmup_epochs=0",
        *chosen.overrides,
        f"--workdir={workdir}",
      ]
      seconds = run(layout, command, log)
      row = {
        "layout": layout.name,
        "processes": layout.processes,
        "devices": layout.processes * layout.devices,
        "flags": layout.flags,
        "seconds": seconds,
        **in_float32(workdir, base),
      }
      if not layout.is_control:
        show(f"{layout.name}, float64")
        name = place / f"{index}.npz"
        command = [
          *("-m", "benchmarks.float64_steps", f"{base}", f"{name}"),
          f"--starts={','.join(map(str, starts))}",
          f"--steps={chosen.steps}",
        ]
        run(layout, command, log)
        row["float64"] = in_float64(name, place / "0.npz", starts)
      rows.append(row)
  show.clear()
  content = report.make("device_layouts", chosen, rows, "cpu")
  content["settings"] |= {"starts": starts, "seed": 0}
  report.show(content, table)
  if wrong := disagreements(rows, chosen.tolerance):
    raise ValueError("; ".join(wrong))


if __name__ == "__main__":
  arguments.start(main)
