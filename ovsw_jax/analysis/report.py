"""The report of a run, or of several beside each other: one HTML file."""

import io
import os
import pathlib
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from ovsw_jax.analysis import charts, filter_chart, layer_charts, page, tables
from ovsw_jax.analysis.groups import Group, group, read_member
from ovsw_jax.analysis.layers import Layers, read_layers
from ovsw_jax.analysis.style import DARK, DPI, LIGHT, Line, Theme, lines

REPORT_FILE = "report.html"


def report(
  workdir: str | os.PathLike,
  compare: Sequence[str | os.PathLike] = (),
  out: str | os.PathLike | None = None,
) -> pathlib.Path:
  """Writes the report of a run, beside others if there are any.

  The page opens from disk, loads nothing, and is light or dark as its reader
  has it. It shows accuracy and loss, flips and silent weights over the epochs;
  for each layer the histogram of its latent weights, when it flipped and, with
  AGS, the gradient ratio of each of its filters; and the numbers of the final
  epoch. Runs of one config that differ in their seeds are one group, shown by
  mean and sample deviation; weights and layers are those of a group's first
  run. A run that is still going is shown as far as it has come. The pictures
  are written beside the page as PNG files as well, in a directory of its name.

  Everything is read from `metrics.jsonl`, `config.json`, `result.json` and the
  newest checkpoint; neither the model nor the training stack is needed.

  Args:
    workdir: directory of a run.
    compare: directories of other runs, of the same model and data.
    out: where to write the page; `report.html` in `workdir` if not given.

  Returns:
    Path of the page.

  Raises:
    FileNotFoundError: a directory, a config or metrics are missing.
    ValueError: a file is damaged, a run has no epoch yet, runs are of different
      models or data, a run is named twice, or `out` is no HTML file.

  Examples:
    >>> import pathlib, tempfile
    >>> from ovsw_jax import analysis
    >>> workdir = pathlib.Path(tempfile.mkdtemp())
    >>> line = '{"kind": "eval", "step": 9, "epoch": 1, "accuracy": 0.5}'
    >>> _ = (workdir / "config.json").write_text('{"name": "mine"}')
    >>> _ = (workdir / "metrics.jsonl").write_text(line + "\\n")
    >>> analysis.report(workdir).name
    'report.html'
  """
  out = (
    pathlib.Path(workdir) / REPORT_FILE if out is None else pathlib.Path(out)
  )
  if out.is_dir():
    out = out / REPORT_FILE
  if out.suffix != ".html":
    raise ValueError(f"out={str(out)!r} must end in .html.")
  groups = group(_members([workdir, *compare]))
  labels = [one.label for one in groups]
  title = " and ".join(labels if len(labels) < 4 else [f"{len(labels)} groups"])
  model = groups[0].members[0].config.get("model.name", "a network")
  data = groups[0].members[0].config.get("data.name", "its data")
  drawn: list[page.Chart] = []
  parts = [
    page.heading(f"{title}: {model} on {data}", 1),
    page.paragraph(tables.subtitle(groups), "soft"),
    *(page.paragraph(note, "note") for note in tables.going(groups)),
    *_overview(groups, drawn),
    *_by_layer(groups, drawn),
    *_how(groups),
  ]
  out.parent.mkdir(parents=True, exist_ok=True)
  images = out.with_suffix("")
  images.mkdir(exist_ok=True)
  for chart in drawn:
    _write(images / f"{chart.name}.png", chart.light)
    _write(images / f"{chart.name}_dark.png", chart.dark)
  _write(out, page.page(f"{title}: {model}", parts).encode())
  return out


def _members(workdirs):
  places = [pathlib.Path(workdir).resolve() for workdir in workdirs]
  for place, workdir in zip(places, workdirs, strict=True):
    if places.count(place) > 1:
      raise ValueError(f"{workdir} is named twice; name each run once.")
  return [read_member(workdir) for workdir in workdirs]


def _overview(groups: list[Group], drawn: list[page.Chart]) -> list[str]:
  styles = lines([one.method for one in groups])
  spread = ""
  if any(len(one.seeds) > 1 for one in groups):
    spread = " Bands are one sample deviation over the seeds."
  parts = [
    page.heading("Results"),
    page.table(tables.results(groups)),
    page.paragraph(tables.HONESTY, "soft"),
    page.heading("Accuracy and loss"),
    _picture(
      drawn,
      "curves",
      lambda theme: charts.curves(groups, styles, theme),
      "Accuracy and loss after each epoch; of training data the mean over the"
      f" epoch.{spread}",
    ),
    page.heading("Flips and silent weights"),
    _picture(
      drawn,
      "flips",
      lambda theme: charts.flips(groups, styles, theme),
      "Flip rate: share of the binary weights that change sign in a step, mean"
      " of each epoch. Never flipped: silent as in the paper's figures, since"
      " init. Silent as SAD has it: no flip lately, by its average of flips."
      f"{spread}",
    )
    or page.paragraph("There are no binary weights here."),
    _picture(
      drawn,
      "ags",
      lambda theme: layer_charts.ags_ratios(groups, styles, theme),
      "What AGS sees: the mean over each layer's filters, hollow in the last"
      " step of the first epoch, filled in that of the last. AGS lifts the"
      " gradient of every filter below delta to delta.",
    ),
  ]
  return [part for part in parts if part]


def _by_layer(groups: list[Group], drawn: list[page.Chart]) -> list[str]:
  """What each group's layers look like, all groups on the same scales."""
  found = [read_layers(one.members[0]) for one in groups]
  limits = layer_charts.flip_limits(groups)
  peaks = [layer_charts.peak(each.histograms) for each in found if each]
  top = 1.1 * max(peaks, default=1.0)
  parts = []
  for place, (one, style, layers) in enumerate(
    zip(groups, lines([g.method for g in groups]), found, strict=True)
  ):
    own = [
      _picture(
        drawn,
        f"heat_{place}",
        lambda theme, one=one: layer_charts.heat_maps(one, theme, limits),
        "Flips by layer and epoch, the first layer at the top: share of the"
        " layer's weights that change sign in a step, and share that never did"
        " since init.",
      ),
      *_weights(one, style, layers, top, place, drawn),
    ]
    if any(own):
      whose = f", seed {one.members[0].seeds[0]}" if len(one.seeds) > 1 else ""
      parts += [page.heading(f"Layers: {one.label}{whose}"), *own]
  return parts


def _weights(
  one: Group,
  style: Line,
  layers: Layers | None,
  top: float,
  place: int,
  drawn: list[page.Chart],
) -> list[str]:
  if layers is None:
    return []
  parts = [
    _picture(
      drawn,
      f"histograms_{place}",
      lambda theme: layer_charts.histograms(
        layers.histograms, style.colour, theme, top
      ),
      "Latent weights of each layer and, filled, those that never changed"
      f" sign, after Figure 1 of the paper. From {layers.source}.",
    )
  ]
  if layers.ratios:
    delta = one.members[0].config.get("method_args.delta")
    delta = delta if isinstance(delta, int | float) else None  # no schedule
    parts += [
      _picture(
        drawn,
        f"filters_{place}",
        lambda theme: filter_chart.filter_ratios(
          layers.ratios, delta, style.colour, theme
        ),
        "What AGS sees of each filter, a dot each, in the order of a layer's"
        f" filters from top to bottom. From {layers.source}.",
      ),
      page.folded(
        "The numbers, by layer",
        page.table(tables.filters(layers.ratios, delta))
        + page.paragraph(tables.FILTERS, "soft"),
      ),
    ]
  if layers.statistics:
    parts.append(page.table(tables.layers(one, layers.statistics)))
    parts.append(page.paragraph(tables.LAYERS, "soft"))
  return parts


def _how(groups: list[Group]) -> list[str]:
  return [
    page.heading("Runs"),
    page.table(tables.runs(groups)),
    page.folded(
      "All fields of the configs", page.table(tables.configs(groups))
    ),
  ]


def _picture(
  drawn: list[page.Chart],
  name: str,
  draw: Callable[[Theme], Figure | None],
  caption: str,
) -> str:
  """Draws a chart in both themes; "" if there is nothing to draw."""
  light, dark = (_png(draw(theme)) for theme in (LIGHT, DARK))
  if not light:
    return ""
  chart = page.Chart(name, light, dark, caption)
  drawn.append(chart)
  return page.picture(chart)


def _png(figure: Figure | None) -> bytes:
  if figure is None:
    return b""
  data = io.BytesIO()
  # Without Matplotlib's version the same runs give the same bytes.
  figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
  return data.getvalue()


def _write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole, or leaves what was there."""
  temporary = path.with_name(f"{path.name}.writing")
  try:
    temporary.write_bytes(content)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
