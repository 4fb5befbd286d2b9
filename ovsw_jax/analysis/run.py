"""A run as analysis sees it: its metrics, and its binary weights at the end."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ovsw_jax.analysis.metrics import read_metrics

WEIGHTS_FILE = "figure_data.npz"
_NEVER = ":never_flipped"


class Run(NamedTuple):
  """What the figures are drawn from."""

  # Records of `metrics.jsonl`.
  records: list[dict[str, Any]]
  # By layer: latent weights, and flips of each since init, of the same shape.
  # Empty for a network without binary weights.
  weights: Mapping[str, tuple[np.ndarray, np.ndarray]]

  def series(self, name: str) -> tuple[list[int], list[float]]:
    """A metric by epoch, of the records written at the epochs' ends.

    Args:
      name: a value of "eval" records, such as "accuracy".

    Returns:
      Epochs, and the values; epochs where it is missing or null are left out.

    Examples:
      >>> records = [{"kind": "eval", "step": 9, "epoch": 1, "accuracy": 0.5}]
      >>> Run(records, {}).series("accuracy")
      ([1], [0.5])
    """
    points = {
      record["epoch"]: record[name]
      for record in self.records
      if record.get("kind") == "eval" and record.get(name) is not None
    }
    return list(points), list(points.values())


def save_weights(
  workdir, weights: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
  """Keeps in `workdir` what a figure needs of the weights: 17 bits of each.

  Args:
    workdir: directory of the run.
    weights: by layer, latent weights and flips since init, of one shape.

  Raises:
    ValueError: latent weights and flips of a layer differ in shape.
  """
  arrays = {}
  for layer, (latent, flips) in weights.items():
    latent, flips = np.asarray(latent, np.float32), np.asarray(flips)
    if latent.shape != flips.shape:
      raise ValueError(
        f"Layer {layer!r} has latent weights of shape {latent.shape} and flips"
        f" of shape {flips.shape}; they must be one shape."
      )
    latent = latent.ravel() / max(float(latent.std()), 1e-12)
    arrays[layer] = latent.astype(np.float16)
    arrays[f"{layer}{_NEVER}"] = np.packbits(flips.ravel() == 0)
  path = pathlib.Path(workdir) / WEIGHTS_FILE
  temporary = path.with_name(f"writing_{WEIGHTS_FILE}")
  np.savez(temporary, **arrays)
  temporary.replace(path)


def read_run(workdir) -> Run:
  """Reads a run's workdir.

  Args:
    workdir: directory with `metrics.jsonl`, and `figure_data.npz` if finished.

  Returns:
    The run. Its latent weights are over their layer's standard deviation, and
    flips are 0 (never) or 1 (at least one).

  Raises:
    FileNotFoundError: no metrics.
    ValueError: metrics or weights cannot be read.

  Examples:
    >>> import pathlib, tempfile
    >>> from ovsw_jax import analysis
    >>> workdir = pathlib.Path(tempfile.mkdtemp())
    >>> line = '{"kind": "eval", "step": 9, "epoch": 1, "accuracy": 0.5}'
    >>> _ = (workdir / "metrics.jsonl").write_text(line + "\\n")
    >>> analysis.read_run(workdir).series("accuracy")
    ([1], [0.5])
  """
  path = pathlib.Path(workdir) / WEIGHTS_FILE
  records, weights = read_metrics(workdir), {}
  if path.exists():
    try:
      # Opened here: np.load leaves a file that is no archive open.
      with path.open("rb") as file, np.load(file) as arrays:
        for layer in arrays.files:
          if not layer.endswith(_NEVER):
            latent = arrays[layer].astype(np.float32)
            never = np.unpackbits(arrays[f"{layer}{_NEVER}"], count=latent.size)
            weights[layer] = (latent, 1 - never)
    except (
      OSError,
      EOFError,
      KeyError,
      ValueError,
      zipfile.BadZipFile,
    ) as error:
      raise ValueError(
        f"{path} is damaged ({error}); remove it to draw the run without its"
        " histogram."
      ) from error
  return Run(records, weights)
