"""The report's charts by layer: histograms, heat maps, gradient ratios.

Histograms are after Figure 1 of Xiang et al., `OvSW: Overcoming Silent Weights
for Accurate Binary Neural Networks <https://arxiv.org/abs/2407.05257>`_, 2024.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ovsw_jax.analysis.groups import Group
from ovsw_jax.analysis.style import Line, Theme, canvas, dress, legend

EDGES = np.linspace(-4, 4, 81)
_COLUMNS = 4  # of histograms
_TITLE, _TICK = 26, 36  # most letters of a layer's name


class Histogram(NamedTuple):
  """Counts of a layer's latent weights over its standard deviation."""

  everything: np.ndarray  # counts in EDGES; the outermost hold what lies beyond
  never_flipped: np.ndarray | None
  initial: np.ndarray | None  # of the latent weights at init


def histogram(
  latent: np.ndarray,
  never: np.ndarray | None = None,
  initial: np.ndarray | None = None,
) -> Histogram:
  """Counts latent weights, those that never flipped, and those at init."""

  def counts(values):
    values = values.ravel() / max(float(values.std()), 1e-12)
    return np.clip(values, *(np.nextafter(EDGES[[0, -1]], 0)))

  scaled = counts(latent)
  return Histogram(
    np.histogram(scaled, EDGES)[0],
    None if never is None else np.histogram(scaled[never.ravel()], EDGES)[0],
    None if initial is None else np.histogram(counts(initial), EDGES)[0],
  )


def peak(layers: Mapping[str, Histogram]) -> float:
  """The highest share of a layer that one bin holds, in percent."""
  return max(
    100 * float(counts.max()) / max(int(counts.sum()), 1)
    for layer in layers.values()
    for counts in (layer.everything, layer.initial)
    if counts is not None
  )


def histograms(
  layers: Mapping[str, Histogram], colour: str, theme: Theme, top: float
) -> Figure:
  """For each layer its latent weights; filled, those that never flipped.

  `top` is where the vertical axes end, in percent, so that figures can agree.
  """
  columns = min(_COLUMNS, len(layers))
  rows = math.ceil(len(layers) / columns)
  figure = canvas(theme, 0.7 + 1.55 * rows)
  panels = figure.subplots(
    rows, columns, sharex=True, sharey=True, squeeze=False
  )
  filled = theme.colours[colour]
  for axes in panels.flat[len(layers) :]:
    axes.set_visible(False)
  for axes, (name, counts) in zip(panels.flat, layers.items(), strict=False):
    everything = counts.everything
    scale = 100 / max(everything.sum(), 1)
    axes.stairs(
      everything * scale,
      EDGES,
      fill=True,
      color=theme.faint,
      label="flipped" if counts.never_flipped is not None else "all weights",
    )
    dress(axes, theme, short(name, _TITLE), 8.5)
    if counts.never_flipped is not None:
      never = counts.never_flipped
      axes.stairs(
        never * scale, EDGES, fill=True, color=filled, label="never flipped"
      )
      axes.text(
        0.97,
        0.95,
        f"{scale * never.sum():.1f} %",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=9,
        fontweight="bold",
        color=filled,
      )
    axes.stairs(everything * scale, EDGES, color=theme.ink, linewidth=0.7)
    if counts.initial is not None:
      axes.stairs(
        counts.initial * scale,
        EDGES,
        color=theme.ink,
        linewidth=0.9,
        linestyle=":",
        label="at init",
      )
    axes.tick_params(labelsize=8)
    axes.set_xlim(EDGES[0], EDGES[-1])
    axes.set_ylim(0, top)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
  for axes in panels.flat[: len(layers)][-columns:]:
    axes.tick_params(labelbottom=True)
  figure.supxlabel(
    "latent weight / standard deviation of its layer",
    fontsize=9.5,
    color=theme.ink,
  )
  figure.supylabel("share of the layer (%)", fontsize=9.5, color=theme.ink)
  legend(figure, panels.flat[0], theme)
  return figure


def heat_maps(
  group: Group, theme: Theme, limits: tuple[float, float]
) -> Figure | None:
  """Flip rate and never-flipped share of each layer over the epochs.

  `limits` are where the colours of the flip rate begin and end, in percent, so
  that figures can agree; see `flip_limits`.
  """
  name, title = _flip_rate(group)
  flip_rate = by_layer(group, name)
  never = by_layer(group, "never_flipped_fraction")
  if flip_rate is None or never is None:
    return None
  figure = canvas(theme, 1.5 + 0.17 * len(flip_rate[0]))
  left, right = figure.subplots(1, 2, sharey=True)
  layers, epochs, rates = flip_rate
  _heat(
    figure,
    left,
    (layers, epochs, 100 * np.where(rates > 0, rates, np.nan)),
    theme,
    title,
    "weights that flip (%); grey: none",
    LogNorm(*limits),
  )
  layers, epochs, shares = never
  _heat(
    figure,
    right,
    (layers, epochs, 100 * shares),
    theme,
    "Never flipped since init",
    "weights of the layer (%)",
    Normalize(0, 100),
  )
  return figure


def flip_limits(groups: Sequence[Group]) -> tuple[float, float]:
  """The lowest and highest flip rates of any layer, in percent, 0 aside."""
  found = [by_layer(group, _flip_rate(group)[0]) for group in groups]
  rates = [100 * one[2][one[2] > 0] for one in found if one is not None]
  rates = np.concatenate(rates) if rates else np.zeros(0)
  if not rates.size:
    return 1e-3, 1.0
  return float(rates.min()), float(max(rates.max(), 1.01 * rates.min()))


def _flip_rate(group: Group) -> tuple[str, str]:
  """The metric to draw and what it is; older runs have no means of epochs."""
  if by_layer(group, "flip_rate_mean") is not None:
    return "flip_rate_mean", "Flip rate, mean over each epoch"
  return "flip_rate", "Flip rate in an epoch's last step"


def ags_ratios(
  groups: Sequence[Group], styles: Sequence[Line], theme: Theme
) -> Figure | None:
  """Each layer's gradient over its weight before AGS; None without AGS."""
  found = [
    (group, style, ratios)
    for group, style in zip(groups, styles, strict=True)
    if (ratios := by_layer(group, "ags_ratio")) is not None
  ]
  if not found:
    return None
  layers = found[0][2][0]
  figure = canvas(theme, 1.4 + 0.19 * len(layers))
  axes = figure.subplots()
  places = np.arange(len(layers))
  for group, style, (_, epochs, ratios) in found:
    colour = theme.colours[style.colour]
    for column, fill in ((0, "none"), (-1, colour)):
      axes.plot(
        ratios[:, column],
        places,
        linestyle="none",
        marker=style.marker,
        markersize=5,
        color=colour,
        markerfacecolor=fill,
        label=f"{group.label}, epoch {epochs[column]}",
        zorder=3,
      )
  deltas = {g.members[0].config.get("method_args.delta") for g, _, _ in found}
  dress_ratios(
    figure,
    axes,
    theme,
    "Gradient norm over weight norm, before AGS",
    "mean over the layer's filters (no unit, logarithmic)",
    layers,
    sorted(d for d in deltas if d),
  )
  return figure


def dress_ratios(
  figure: Figure,
  axes: Axes,
  theme: Theme,
  title: str,
  unit: str,
  layers: Iterable[str],
  deltas: Iterable[float],
) -> None:
  """Axes of AGS's ratios: a row a layer, its bounds as lines, and a legend."""
  for delta in deltas:
    axes.axvline(
      delta,
      color=theme.ink,
      linewidth=1,
      linestyle="--",
      label=f"delta = {delta:g}",
    )
  dress(axes, theme, title)
  axes.set_xscale("log")
  axes.grid(axis="x", color=theme.grid, linewidth=0.8)
  names = [short(name, _TICK) for name in layers]
  axes.set_yticks(range(len(names)), names, fontsize=8)
  axes.set_ylim(len(names) - 0.5, -0.5)
  axes.set_xlabel(unit)
  legend(figure, axes, theme)


def by_layer(
  group: Group, name: str
) -> tuple[list[str], list[int], np.ndarray] | None:
  """A per-layer metric of a group's first run: layers, epochs, values.

  Values are of shape (layers, epochs), NaN where one is missing; None where the
  run has no such metric.
  """
  by_epoch: dict[int, Mapping[str, Any]] = {
    record["epoch"]: record[name]
    for record in group.members[0].run.records
    if record.get("kind") == "layers" and record.get(name)
  }
  if not by_epoch:
    return None
  layers = list(next(reversed(by_epoch.values())))
  values = [
    [
      np.nan if (v := one.get(layer)) is None else v
      for one in by_epoch.values()
    ]
    for layer in layers
  ]
  return layers, list(by_epoch), np.array(values, float)


def short(layer: str, most: int = 60) -> str:
  """A layer's name without the parameter's, and not longer than `most`.

  Examples:
    >>> short("stage1/block0/conv/latent", 15)
    '...block0/conv'
  """
  name = layer.removesuffix("/latent")
  return name if len(name) <= most else f"...{name[3 - most :].lstrip('/_')}"


def _heat(figure, axes, matrix, theme, title, unit, norm) -> None:
  layers, epochs, values = matrix
  colours = matplotlib.colormaps["viridis"].with_extremes(bad=theme.faint)
  # A cell for every epoch; a run of many has cells of less than a pixel.
  edges = np.append(np.array(epochs) - 0.5, epochs[-1] + 0.5)
  mesh = axes.pcolormesh(
    edges,
    np.arange(len(layers) + 1) - 0.5,
    values,
    norm=norm,
    cmap=colours,
    rasterized=True,
  )
  dress(axes, theme, title)
  axes.grid(False)
  axes.set_xlabel("epoch")
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.set_yticks(
    range(len(layers)), [short(name, _TICK) for name in layers], fontsize=8
  )
  axes.set_ylim(len(layers) - 0.5, -0.5)
  bar = figure.colorbar(mesh, ax=axes, location="bottom", aspect=40)
  bar.set_label(unit, color=theme.ink, fontsize=9)
  bar.ax.tick_params(colors=theme.ink, labelsize=8, which="both")
  bar.outline.set_edgecolor(theme.ink)
