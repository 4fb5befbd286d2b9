"""The report's curves: accuracy, loss, flips and silent weights by epoch."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ovsw_jax.analysis.groups import Group
from ovsw_jax.analysis.style import Line, Theme, canvas, dress, legend


def curves(
  groups: Sequence[Group], styles: Sequence[Line], theme: Theme
) -> Figure:
  """Accuracy and loss, on test and training data, by epoch."""
  figure = canvas(theme, 6.4)
  panels = figure.subplots(2, 2)
  parts = (
    ("accuracy", "Test accuracy", "top-1 accuracy (%)", 100),
    ("train_accuracy", "Training accuracy", "top-1 accuracy (%)", 100),
    ("loss", "Test loss", "loss (nats)", 1),
    ("train_loss", "Training loss", "loss (nats)", 1),
  )
  for axes, (name, title, unit, factor) in zip(panels.flat, parts, strict=True):
    _by_epoch(axes, groups, styles, theme, name, factor)
    _finish(axes, theme, title, unit)
  legend(figure, panels.flat[0], theme)
  return figure


def flips(
  groups: Sequence[Group], styles: Sequence[Line], theme: Theme
) -> Figure | None:
  """Flip rate and silent weights by epoch; None without binary weights."""
  if not any(group.series("flip_rate")[0] for group in groups):
    return None
  figure = canvas(theme, 3.6)
  panels = figure.subplots(1, 3)
  parts = (
    ("flip_rate", "Flip rate", "weights that flip in a step (%)"),
    ("never_flipped_fraction", "Never flipped", "of binary weights (%)"),
    ("silent_fraction", "Silent, as SAD has it", "of binary weights (%)"),
  )
  for axes, (name, title, unit) in zip(panels, parts, strict=True):
    log = name == "flip_rate"
    drawn = _by_epoch(axes, groups, styles, theme, name, 100, positive=log)
    _finish(axes, theme, title, unit)
    if not drawn:
      axes.set_yticks([])
      text = "no run here has SAD" if name == "silent_fraction" else "no flips"
      axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        color=theme.ink,
      )
    elif log:
      axes.set_yscale("log")
      axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
      axes.yaxis.set_minor_formatter(_minor(*axes.get_ylim()))
  legend(figure, panels[1], theme)
  return figure


def _minor(low: float, high: float) -> FuncFormatter:
  """Labels of a logarithm's minor ticks: 2 and 5, where decades are few."""

  def label(value, _):
    digit = round(value / 10 ** math.floor(math.log10(value) + 1e-9))
    return f"{value:g}" if high / low < 30 and digit in (2, 5) else ""

  return FuncFormatter(label)


def _by_epoch(
  axes: Axes, groups, styles, theme: Theme, name: str, factor, positive=False
) -> bool:
  """Draws a metric of every group, and a band of one deviation around it."""
  drawn = False
  for group, style in zip(groups, styles, strict=True):
    epochs, mean, deviation = group.series(name)
    mean, deviation = factor * mean, factor * deviation
    if positive:  # a logarithm has no place for an epoch without a flip
      mean = np.where(mean > 0, mean, np.nan)
    if not epochs or np.isnan(mean).all():
      continue
    drawn, colour = True, theme.colours[style.colour]
    every = max(1, math.ceil(len(epochs) / 12))
    axes.plot(
      epochs,
      mean,
      color=colour,
      linestyle=style.dash,
      linewidth=1.8,
      marker=style.marker,
      markersize=4,
      markevery=every,
      label=group.label,
      zorder=3,
    )
    if deviation.any():
      low = mean - deviation
      low = np.maximum(low, mean / 10) if positive else low
      axes.fill_between(
        epochs, low, mean + deviation, color=colour, alpha=0.2, linewidth=0
      )
  return drawn


def _finish(axes: Axes, theme: Theme, title: str, unit: str) -> None:
  dress(axes, theme, title)
  axes.set_xlabel("epoch")
  axes.set_ylabel(unit)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.set_xlim(left=0)
