"""Colours and axes of the report's charts, for light and dark pages.

Colours are Okabe and Ito's, told apart with any colour vision, and lighter ones
of the same hues on dark; lines differ in dash and marker as well.
"""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 100
WIDTH = 10.0  # inches of every chart


class Theme(NamedTuple):
  """The colours of a page."""

  name: str
  page: str
  ink: str
  grid: str
  faint: str  # the part of a histogram that is not the point
  colours: dict[str, str]


LIGHT = Theme(
  "light",
  "#FFFFFF",
  "#262626",
  "#E6E6E6",
  "#D2D2D2",
  {
    "vanilla": "#D55E00",
    "ovsw": "#0072B2",
    "ags": "#009E73",
    "sad": "#B5548F",
    "full_precision": "#000000",
    "a": "#B07800",
    "b": "#3A8FC2",
    "c": "#6B4C9A",
  },
)
DARK = Theme(
  "dark",
  "#15181C",
  "#E4E4E4",
  "#33383E",
  "#4A5058",
  {
    "vanilla": "#F28A3C",
    "ovsw": "#56B4E9",
    "ags": "#2BC79D",
    "sad": "#E49CC6",
    "full_precision": "#FFFFFF",
    "a": "#F0C23C",
    "b": "#9AD3F5",
    "c": "#B39DDB",
  },
)
THEMES = (LIGHT, DARK)

_OTHERS = ("a", "b", "c")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("s", "o", "^", "D", "v", "P", "X")


class Line(NamedTuple):
  """How one group is drawn, in any theme."""

  colour: str  # a key of a theme's colours
  dash: str
  marker: str


def lines(methods: Sequence[str]) -> list[Line]:
  """A line for each group, by its method; no two are the same.

  A method has its own colour, and a second group of it another one.

  Examples:
    >>> [line.colour for line in lines(["ovsw", "vanilla", "ovsw"])]
    ['ovsw', 'vanilla', 'a']
  """
  taken: list[str] = []
  for method in methods:
    own = method in LIGHT.colours and method not in (*taken, *_OTHERS)
    spare = [c for c in (*_OTHERS, *LIGHT.colours) if c not in taken]
    fallback = spare[0] if spare else list(LIGHT.colours)[len(taken) % 8]
    taken.append(method if own else fallback)
  return [
    Line(colour, _DASHES[place % len(_DASHES)], _MARKERS[place % len(_MARKERS)])
    for place, colour in enumerate(taken)
  ]


def canvas(theme: Theme, height: float) -> Figure:
  """A figure of that many inches; pyplot knows nothing of it."""
  figure = Figure(
    figsize=(WIDTH, height),
    dpi=DPI,
    layout="constrained",
    facecolor=theme.page,
  )
  FigureCanvasAgg(figure)
  figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
  return figure


def dress(axes: Axes, theme: Theme, title: str, size: float = 11) -> None:
  """Gives axes a title and the theme's colours."""
  axes.set_facecolor(theme.page)
  axes.set_title(
    title, loc="left", fontsize=size, fontweight="bold", color=theme.ink
  )
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_color(theme.ink)
  axes.grid(axis="y", color=theme.grid, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(colors=theme.ink, length=3, which="both")
  axes.xaxis.label.set_color(theme.ink)
  axes.yaxis.label.set_color(theme.ink)


def legend(figure: Figure, axes: Axes, theme: Theme) -> None:
  """One legend above all panels, with the entries of one of them."""
  handles, labels = axes.get_legend_handles_labels()
  if handles:
    figure.legend(
      handles,
      labels,
      loc="outside upper left",
      ncols=min(4, len(labels)),
      frameon=False,
      handlelength=2.8,
      labelcolor=theme.ink,
      fontsize=9.5,
    )
