"""The report's chart of filters: what AGS sees of each, layer by layer."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ovsw_jax.analysis.layer_charts import dress_ratios
from ovsw_jax.analysis.style import Theme, canvas

_HEIGHT = 0.34  # of a layer's strip, which has 1


def filter_ratios(
  layers: Mapping[str, np.ndarray],
  delta: float | None,
  colour: str,
  theme: Theme,
) -> Figure:
  """A dot for each filter; filled, those that AGS lifts to `delta`.

  Args:
    layers: of each layer the ratios of its filters, shape (filters,).
    delta: AGS's bound, None if it is not one number.
    colour: of the theme.
    theme: of the page.
  """
  figure = canvas(theme, 1.2 + 0.24 * len(layers))
  axes = figure.subplots()
  shown = theme.colours[colour]
  ratios = np.concatenate([np.ravel(one) for one in layers.values()])
  # A filter's place within its strip is its number, so a layer's order shows.
  places = np.concatenate(
    [
      place + _HEIGHT * ((2 * np.arange(np.size(one)) + 1) / np.size(one) - 1)
      for place, one in enumerate(layers.values())
    ]
  )
  below = np.zeros(ratios.shape, bool) if delta is None else ratios < delta
  for chosen, fill, label in (
    (~below, "none", "gradient as it is"),
    (below, shown, "gradient lifted"),
  ):
    if chosen.any():
      axes.scatter(
        ratios[chosen],
        places[chosen],
        s=9,
        facecolors=fill,
        edgecolors=shown,
        linewidths=0.6,
        label=f"{label}: {chosen.sum():,} filters",
        rasterized=True,
        zorder=3,
      )
  dress_ratios(
    figure,
    axes,
    theme,
    "Gradient norm over weight norm of each filter",
    "of the last step, before AGS (no unit, logarithmic)",
    layers,
    [] if delta is None else [delta],
  )
  return figure
