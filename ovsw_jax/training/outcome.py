"""What a run says of itself: its header, its result, the line at the end."""

import json
import os
import pathlib
import shlex
import sys
from typing import Any

import jax

import ovsw_jax
from ovsw_jax import analysis
from ovsw_jax.training import evaluate, figure, settings
from ovsw_jax.training import state as train_state
from ovsw_jax.training.experiment import Experiment
from ovsw_jax.training.step import statistics

RESULT_FILE = "result.json"


def device() -> str:
  """The device that a run takes, in words."""
  first = jax.devices()[0]
  if first.platform == "cpu":
    return f"cpu ({os.cpu_count()} cores)"
  return f"{first.device_kind} ({first.platform})"


def header(
  run: Experiment, state: train_state.TrainState, workdir: pathlib.Path
) -> str:
  """What is about to run, in a few lines."""
  config, dataset = run.config, run.dataset
  total, binary = train_state.parameter_counts(state.params)
  arguments = ", ".join(f"{k}={v}" for k, v in config.method_args.items())
  lines = {
    "config": f"{config.name}, seed {config.seed}",
    "method": f"{config.method}({arguments})",
    "model": f"{config.model.name}, {total:,} parameters, {binary:,} binary",
    "data": f"{dataset.name}, {len(dataset.train.labels):,} training and "
    f"{len(dataset.test.labels):,} test images of "
    f"{'x'.join(map(str, run.image_shape))}",
    "steps": f"{config.train.epochs} epochs of {run.steps_per_epoch} steps, "
    f"batch {config.train.batch_size}",
    "device": f"{device()}, jax {jax.__version__}",
    "workdir": str(workdir),
  }
  return "\n".join(f"{name:8} {value}" for name, value in lines.items())


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The result of a finished run, or None."""
  path = workdir / RESULT_FILE
  return json.loads(path.read_text()) if path.exists() else None


def finish(
  run: Experiment,
  state: train_state.TrainState,
  workdir: pathlib.Path,
  means: dict[str, float],
) -> dict[str, Any]:
  """Writes the figure, then `result.json`, the mark of a finished run."""
  flips = evaluate.numbers(statistics(state.opt_state))
  records = analysis.read_metrics(workdir)
  ends = [record for record in records if record["kind"] == "eval"]
  result = {
    **means,
    "never_flipped_fraction": flips.get("never_flipped_fraction"),
    "epochs": run.config.train.epochs,
    "steps": run.recipe.total_steps,
    "seed": run.config.seed,
    # Of every session of a run that was stopped, compilation included.
    "seconds": round(sum(r["seconds"] for r in ends), 1),
    "device": device(),
    "versions": {
      "ovsw_jax": ovsw_jax.__version__,
      "jax": jax.__version__,
      "python": sys.version.split()[0],
    },
    "command": shlex.join(sys.argv),
  }
  figure.save_weights(state, workdir)
  figure.draw(run.config, workdir)
  settings.write_json(workdir / RESULT_FILE, result)
  return result


def summary(result: dict[str, Any], workdir: pathlib.Path) -> str:
  """The lines that a run ends with."""
  lines = [
    f"final test accuracy    {result['accuracy']:.2%} "
    f"(top-5 {result['top5']:.2%}) after {result['epochs']} epochs"
  ]
  if result["never_flipped_fraction"] is not None:
    lines.append(
      f"never-flipped fraction {result['never_flipped_fraction']:.2%} of the "
      "binary weights"
    )
  lines.append(f"figure                 {workdir / figure.FIGURE_FILE}")
  return "\n".join(lines)
