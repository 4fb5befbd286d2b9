"""What a run says of itself: its header, its result, the line at the end."""

import json
import os
import pathlib
import shlex
import sys
from typing import Any

import jax
import numpy as np

import ovsw_jax
from ovsw_jax import analysis
from ovsw_jax.training import (
  compilation_cache,
  evaluate,
  figure,
  mesh,
  replicas,
  settings,
)
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


def _devices(run: Experiment) -> str:
  """The devices of a run, in words."""
  count, processes = mesh.size(run.mesh), jax.process_count()
  several = f"{count} x " if count > 1 else ""
  over = f" of {processes} processes" if processes > 1 else ""
  return f"{several}{device()}{over}"


def header(
  run: Experiment, state: train_state.TrainState, workdir: pathlib.Path
) -> str:
  """What is about to run, in a few lines."""
  config = run.config
  training, test = run.dataset.counts
  total, binary = (
    count // config.replicas
    for count in train_state.parameter_counts(state.params)
  )
  cache = compilation_cache.in_use()
  arguments = ", ".join(f"{k}={v}" for k, v in config.method_args.items())
  step = "" if config.binary_weights else ", real weights"
  binary *= run.binary  # latent weights of a first step are real ones
  taught = {}
  if config.loss.teacher is not None:
    taught["teacher"] = (
      f"{config.loss.teacher}, {config.loss.teacher_weight:.0%} of the loss"
    )
  lines = {
    "config": f"{config.name}, {_seeds(replicas.seeds(config))}",
    "method": f"{config.method}({arguments}){step}",
    "model": f"{config.model.name}, {total:,} parameters, {binary:,} binary",
    **taught,
    "data": f"{run.dataset.name}, {training:,} training and {test:,} test "
    "images of "
    f"{'x'.join(map(str, run.image_shape))}",
    "steps": f"{config.train.epochs} epochs of {run.steps_per_epoch} steps, "
    f"batch {config.train.batch_size}{_parts(run)}",
    "device": f"{_devices(run)}, jax {jax.__version__}",
    "cache": f"{cache}, of compiled programs" if cache else "none",
    "workdir": str(workdir),
  }
  return "\n".join(f"{name:8} {value}" for name, value in lines.items())


def _parts(run: Experiment) -> str:
  """How a batch is cut up, if it is."""
  devices, parts = mesh.size(run.mesh), run.config.train.accumulate
  words = [f"{devices} devices"] * (devices > 1)
  words += [f"{parts} parts"] * (parts > 1)
  return f" over {' and '.join(words)}" if words else ""


def _seeds(seeds: list[int]) -> str:
  if len(seeds) == 1:
    return f"seed {seeds[0]}"
  return f"seeds {seeds[0]} to {seeds[-1]} in one program"


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The result of a finished run, or None."""
  path = workdir / RESULT_FILE
  return json.loads(path.read_text()) if path.exists() else None


def finish(
  run: Experiment,
  state: train_state.TrainState,
  workdir: pathlib.Path,
  means: dict[str, np.ndarray],
  seconds_to_first_step: float | None,
) -> dict[str, Any]:
  """Writes the figure, then `result.json`, the mark of a finished run."""
  flips = jax.device_get(statistics(state.opt_state))
  final = {name: means[name] for name in ("loss", "accuracy", "top5")}
  if (never := flips.get("never_flipped_fraction")) is not None:
    final["never_flipped_fraction"] = never
  seeds = replicas.seeds(run.config)
  records = analysis.read_metrics(workdir)
  ends = [record for record in records if record["kind"] == "eval"]
  result = {
    "never_flipped_fraction": None,  # of a network without bits
    **evaluate.numbers(final),
    "epochs": run.config.train.epochs,
    "steps": run.recipe.total_steps,
    **({"seed": seeds[0]} if len(seeds) == 1 else _by_seed(seeds, final)),
    "seconds_to_first_step": seconds_to_first_step,
    # Of every session of a run that was stopped, compilation included.
    "seconds": round(sum(r["seconds"] for r in ends), 1),
    # What an exported network needs of the data it was trained on.
    "dataset": {
      "name": run.dataset.name,
      "classes": list(run.dataset.classes),
      "mean": list(run.dataset.mean),
      "std": list(run.dataset.std),
      "image_shape": list(run.image_shape),
    },
    "device": _devices(run),
    "versions": {
      "ovsw_jax": ovsw_jax.__version__,
      "jax": jax.__version__,
      "python": sys.version.split()[0],
    },
    "command": shlex.join(sys.argv),
  }
  figure.save_weights(state, workdir, len(seeds))
  figure.draw(run.config, workdir)
  settings.write_json(workdir / RESULT_FILE, result)
  return result


def _by_seed(seeds: list[int], final: dict[str, np.ndarray]) -> dict[str, Any]:
  """What each replica came to, in the order of `seeds`."""
  return {
    "replicas": len(seeds),
    "seeds": seeds,
    **{
      f"{name}_per_seed": [float(str(value)) for value in values]
      for name, values in final.items()
    },
  }


def summary(result: dict[str, Any], workdir: pathlib.Path) -> str:
  """The lines that a run ends with."""
  lines = [
    f"final test accuracy    {replicas.percent(result, 'accuracy')} "
    f"(top-5 {replicas.percent(result, 'top5')}) after {result['epochs']} "
    "epochs"
  ]
  if "seeds" in result:
    lines[0] += f", {_seeds(result['seeds']).removesuffix(' in one program')}"
  if result["never_flipped_fraction"] is not None:
    lines.append(
      "never-flipped fraction "
      f"{replicas.percent(result, 'never_flipped_fraction')} of the binary "
      "weights"
    )
  lines.append(f"figure                 {workdir / figure.FIGURE_FILE}")
  return "\n".join(lines)
