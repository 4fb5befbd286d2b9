"""Writes a run's metrics: `metrics.jsonl` always, TensorBoard if installed."""

import importlib.util
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ovsw_jax.analysis import metrics

_TENSORBOARD = "tensorboard"


class MetricsWriter:
  """Appends records to `<workdir>/metrics.jsonl`, each whole and at once.

  A record is one line of strict JSON. JSON has no NaN: a value that is not
  finite is null, and the record's `non_finite` maps its name to "nan", "inf" or
  "-inf". Of many processes the first writes and the others do nothing.

  Args:
    workdir: directory of the run, made if absent.
    step: step that the run goes on from; records beyond it, which a killed run
      left, are dropped, and so is half a line at the end.

  Raises:
    ValueError: the file holds a line that is no record.
  """

  def __init__(self, workdir, step: int = 0):
    self._file = self._board = None
    if jax.process_index() != 0:
      return
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / metrics.METRICS_FILE
    truncate_after(path, step)
    self._file = path.open("a", encoding="utf-8")
    if importlib.util.find_spec("tensorboardX") is not None:
      from tensorboardX import SummaryWriter  # pyrefly: ignore[missing-import]

      self._board = SummaryWriter(
        str(workdir / _TENSORBOARD),
        purge_step=step + 1,
        # Names go by the second; a quick resume must not overwrite its past.
        filename_suffix=f".{step}",
      )

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def write(
    self, kind: str, step: int, epoch: int, values: Mapping[str, Any]
  ) -> None:
    """Appends a record; `values` may nest, and hold NumPy or JAX scalars."""
    if self._file is None:
      return
    plain = _plain(values)
    record = {"kind": kind, "step": int(step), "epoch": int(epoch), **plain}
    scalars = dict(_scalars(plain))
    non_finite = {
      name: str(value)
      for name, value in scalars.items()
      if not math.isfinite(value)
    }
    if non_finite:
      record = _without_non_finite(record) | {"non_finite": non_finite}
    self._file.write(json.dumps(record, allow_nan=False) + "\n")
    self._file.flush()
    if self._board is not None:
      for name, value in scalars.items():
        if name not in non_finite:
          self._board.add_scalar(f"{kind}/{name}", value, int(step))

  def close(self) -> None:
    """Closes the files; a second call does nothing."""
    if self._file is not None:
      self._file.close()
      self._file = None
    if self._board is not None:
      self._board.close()
      self._board = None


def truncate_after(path, step: int) -> None:
  """Drops a metrics file's records beyond `step`, all at once or not at all.

  Args:
    path: the file; nothing happens if it does not exist.
    step: last step whose records stay.

  Raises:
    ValueError: a line other than the last is no record; the file is unchanged.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return
  kept = [
    f"{line}\n"
    for line, record in metrics.parse_lines(path)
    if record["step"] <= step
  ]
  temporary = path.with_name(f"{path.name}.writing")
  temporary.write_text("".join(kept), encoding="utf-8")
  os.replace(temporary, path)


def _plain(value: Any, name: str = "") -> Any:
  """`value` with Python's own types only, or an error that names the entry."""
  if isinstance(value, Mapping):
    return {
      str(key): _plain(item, f"{name}/{key}" if name else str(key))
      for key, item in value.items()
    }
  if isinstance(value, jax.Array | np.ndarray | np.generic):
    array = np.asarray(value)
    if array.ndim == 0:
      if array.dtype.itemsize < 8 and np.issubdtype(array.dtype, np.floating):
        # Its shortest decimals: 0.1, not 0.10000000149011612.
        return float(str(array[()]))
      return _plain(array.item(), name)
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise ValueError(
    f"Metric {name!r} is a {type(value).__name__} of shape"
    f" {np.shape(value)}; a record holds scalars, strings and dicts of them."
  )


def _scalars(record: Mapping[str, Any], prefix: str = ""):
  for name, value in record.items():
    if isinstance(value, Mapping):
      yield from _scalars(value, f"{prefix}{name}/")
    elif isinstance(value, int | float):
      yield f"{prefix}{name}", value


def _without_non_finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _without_non_finite(item) for name, item in value.items()}
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
