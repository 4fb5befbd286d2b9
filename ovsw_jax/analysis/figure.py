"""The picture of silent weights: accuracy, flips, and who never flipped.

After Figure 1 of Xiang et al., `OvSW: Overcoming Silent Weights for Accurate
Binary Neural Networks <https://arxiv.org/abs/2407.05257>`_, 2024.
"""

import functools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ovsw_jax.analysis.run import Run, read_run
from ovsw_jax.analysis.silence import never_flipped

# Okabe and Ito's colours, told apart with any colour vision; lines differ in
# dash and marker as well. A method keeps its colour whatever it is drawn with.
_STYLES = {
  "vanilla": ("#D55E00", "--", "o"),
  "ovsw": ("#0072B2", "-", "s"),
  "ags": ("#009E73", "-.", "^"),
  "sad": ("#CC79A7", ":", "D"),
  "full_precision": ("#000000", (0, (1, 1)), "x"),
}
_OTHERS = [("#E69F00", "--", "v"), ("#56B4E9", "-", "P")]
_NAMES = {
  "ovsw": "OvSW",
  "ags": "AGS",
  "sad": "SAD",
  "full_precision": "full precision",
}
_FLIPPED = "#D9D9D9"
_INK, _GRID = "#262626", "#E6E6E6"
_BINS = np.linspace(-4, 4, 81)
_DPI = 120


def flip_figure(runs: Mapping[str, Any]) -> Figure:
  """Draws runs beside each other.

  Above: test accuracy, and the share of binary weights that flip in a step
  (mean of every epoch). Below, for every run with binary weights: histogram of
  its latent weights over their layer's standard deviation, the part that never
  changed sign filled; all with the same axes and bins.

  Args:
    runs: by label, a `Run` or the workdir of one. Labels that name a method
      give its colour.

  Returns:
    A Matplotlib figure of its own canvas, 10 inches wide; pyplot knows nothing
    of it.

  Raises:
    ValueError: no runs, or one without a test accuracy.
    FileNotFoundError: a workdir without metrics.

  Examples:
    >>> import numpy as np
    >>> from ovsw_jax import analysis
    >>> records = [
    ...   {"kind": "eval", "step": 9 * n, "epoch": n, "accuracy": n / 4,
    ...    "flip_rate": 0.01 / n}
    ...   for n in (1, 2, 3)
    ... ]
    >>> latent, flips = np.array([[0.1, -2.0]]), np.array([[3, 0]])
    >>> run = analysis.Run(records, {"conv/latent": (latent, flips)})
    >>> figure = analysis.flip_figure({"ovsw": run})
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['Test accuracy', 'Flip rate', 'Latent weights, OvSW']
  """
  if not runs:
    raise ValueError("No runs to draw; give at least one, by its label.")
  read = {
    label: run if isinstance(run, Run) else read_run(run)
    for label, run in runs.items()
  }
  for label, run in read.items():
    if not run.series("accuracy")[0]:
      raise ValueError(
        f"Run {label!r} has no test accuracy yet; train it for an epoch first."
      )
  weights = {label: run for label, run in read.items() if run.weights}
  rows = 1 + math.ceil(len(weights) / 2)
  figure = Figure(
    figsize=(10, 3.3 * rows), dpi=_DPI, layout="constrained", facecolor="white"
  )
  FigureCanvasAgg(figure)
  figure.get_layout_engine().set(w_pad=0.08, h_pad=0.1)
  grid = figure.add_gridspec(rows, 2)
  _accuracy(figure.add_subplot(grid[0, 0]), read)
  _flip_rate(figure.add_subplot(grid[0, 1]), read)
  first = None
  for index, (label, run) in enumerate(weights.items()):
    row, column = divmod(index + 2, 2)
    alone = index + 1 == len(weights) and column == 0
    place = grid[row, :] if alone else grid[row, column]
    first = figure.add_subplot(place, sharex=first, sharey=first)
    _histogram(first, label, run, list(read))
  return figure


def save_flip_figure(path, runs: Mapping[str, Any]) -> None:
  """Writes `flip_figure(runs)` as PNG: whole, or not at all.

  Args:
    path: where to; an older file is replaced.
    runs: as `flip_figure` takes them.

  Raises:
    ValueError: no runs, or one without a test accuracy.
    FileNotFoundError: a workdir without metrics.

  Examples:
    >>> import pathlib, tempfile
    >>> from ovsw_jax import analysis
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "figure.png"
    >>> records = [{"kind": "eval", "step": 9, "epoch": 1, "accuracy": 0.5}]
    >>> analysis.save_flip_figure(path, {"vanilla": analysis.Run(records, {})})
    >>> path.read_bytes()[1:4]
    b'PNG'
  """
  path = pathlib.Path(path)
  figure = flip_figure(runs)
  temporary = path.with_name(f"{path.name}.writing")
  try:
    # Without Matplotlib's version the same runs give the same bytes.
    figure.savefig(temporary, format="png", metadata={"Software": None})
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _accuracy(axes: Axes, runs: Mapping[str, Run]) -> None:
  ends = []
  for label, run in runs.items():
    epochs, values = run.series("accuracy")
    percent = [100 * value for value in values]
    _curve(axes, label, list(runs), epochs, percent)
    ends.append((percent[-1], f"{percent[-1]:.1f} %", label))
  _finish(axes, "Test accuracy", "top-1 accuracy (%)", runs)
  low = min(min(line.get_ydata()) for line in axes.lines)
  axes.set_ylim(max(0, low - 4), 100 if low > 30 else None)
  _label_ends(axes, ends, list(runs))
  axes.legend(loc="lower right", frameon=False, handlelength=2.6)


def _flip_rate(axes: Axes, runs: Mapping[str, Run]) -> None:
  ends, values = [], []
  for label, run in runs.items():
    epochs, rates = run.series("flip_rate")
    # A logarithm has no place for an epoch without a flip.
    points = [(e, 100 * r) for e, r in zip(epochs, rates, strict=True) if r > 0]
    if points:
      epochs, percent = (list(column) for column in zip(*points, strict=True))
      _curve(axes, label, list(runs), epochs, percent)
      values += percent
      ends.append((percent[-1], f"{percent[-1]:.2g} %", label))
  _finish(axes, "Flip rate", "weights flipping in a step (%)", runs)
  if not values:
    axes.set_yticks([])
    axes.text(
      0.5, 0.5, "no binary weights", transform=axes.transAxes, ha="center"
    )
    return
  axes.set_yscale("log")
  axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
  subs = (1.0,) if max(values) / min(values) > 30 else (1.0, 2.0, 5.0)
  axes.yaxis.set_major_locator(LogLocator(subs=subs))
  axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
  axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
  _label_ends(axes, ends, list(runs))


def _histogram(axes: Axes, label: str, run: Run, labels) -> None:
  latent, silent = _pooled(run.weights)
  everything, _ = np.histogram(latent, _BINS)
  never, _ = np.histogram(latent[silent], _BINS)
  colour = _style(label, labels)[0]
  scale = 100 / latent.size
  fill = functools.partial(axes.stairs, edges=_BINS, fill=True)
  fill(everything * scale, color=_FLIPPED, label="flipped")
  fill(never * scale, color=colour, label="never flipped")
  axes.stairs(everything * scale, _BINS, color=_INK, linewidth=0.8)
  axes.axvline(0, color=_INK, linewidth=0.6)
  share = (
    100 * never_flipped({k: n for k, (_, n) in run.weights.items()})["total"]
  )
  text = functools.partial(axes.text, transform=axes.transAxes, va="top")
  digits = 0 if 9.5 <= share <= 99 else 1
  text(0.02, 0.97, f"{share:.{digits}f} %", size=20, weight="bold", c=colour)
  text(0.02, 0.82, "never flipped")
  _dress(axes, f"Latent weights, {_name(label)}")
  axes.set_xlim(_BINS[0], _BINS[-1])
  axes.set_ylim(0, max(axes.get_ylim()[1], 1.1 * scale * everything.max()))
  axes.set_xlabel("latent weight / standard deviation of its layer")
  axes.set_ylabel("share of binary weights (%)")
  axes.legend(loc="upper right", frameon=False, handlelength=1.2)


def _pooled(weights) -> tuple[np.ndarray, np.ndarray]:
  """All layers' weights, each over its layer's deviation; and who is silent."""
  latent, silent = [], []
  for value, flips in weights.values():
    value = np.asarray(value, np.float32).ravel()
    latent.append(value / max(float(value.std()), 1e-12))
    silent.append(np.asarray(flips).ravel() == 0)
  # The outermost bins hold what lies beyond: no weight is left out.
  inside = np.nextafter(np.float32(_BINS[-1]), np.float32(0))
  return np.clip(np.concatenate(latent), -inside, inside), np.concatenate(
    silent
  )


def _curve(axes: Axes, label: str, labels, epochs, values) -> None:
  colour, dash, marker = _style(label, labels)
  last = len(epochs) - 1
  axes.plot(
    epochs,
    values,
    color=colour,
    linestyle=dash,
    linewidth=2,
    marker=marker,
    markersize=4.5,
    markevery=sorted({*range(0, last, math.ceil(max(last, 1) / 10)), last}),
    label=_name(label),
    clip_on=False,
    zorder=3,
  )


def _label_ends(axes: Axes, ends, labels) -> None:
  """Writes every curve's last value beside it, moved apart where they meet."""
  to_fraction = axes.transScale + axes.transLimits
  places = sorted(
    (float(to_fraction.transform((1, value))[1]), text, label)
    for value, text, label in ends
  )
  gap, heights = 0.085, []
  for height, _, _ in places:
    heights.append(max(height, heights[-1] + gap) if heights else height)
  shift = max(0.0, (heights[-1] if heights else 0.0) - 1.0)
  for (_, text, label), height in zip(places, heights, strict=True):
    axes.text(
      1.03,
      height - shift,
      text,
      transform=axes.transAxes,
      va="center",
      color=_style(label, labels)[0],
      fontweight="bold",
    )


def _finish(axes: Axes, title: str, ylabel: str, runs) -> None:
  _dress(axes, title)
  last = max(max(run.series("accuracy")[0]) for run in runs.values())
  axes.set_xlim(0, last)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.set_xlabel("epoch")
  axes.set_ylabel(ylabel)


def _dress(axes: Axes, title: str) -> None:
  axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
  axes.spines[["top", "right"]].set_visible(False)
  axes.grid(axis="y", color=_GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(colors=_INK, length=3)


def _style(label: str, labels: Sequence[str]):
  if label in _STYLES:
    return _STYLES[label]
  others = [other for other in labels if other not in _STYLES]
  return _OTHERS[others.index(label) % len(_OTHERS)]


def _name(label: str) -> str:
  return _NAMES.get(label, label)
