"""The report's charts: legible in light and dark, and told apart."""

import numpy as np
import pytest

from ovsw_jax.analysis import charts, filter_chart, groups, layer_charts, style
from tests.test_report import make


def drawn(tmp_path):
  """Every chart of two groups with long names and many layers, by name."""
  names = [f"layer{i}_block_of_a_long_name/conv1/latent" for i in range(36)]
  found = groups.group(
    [
      groups.read_member(make(tmp_path / "a", layers=names, weights=False)),
      groups.read_member(
        make(tmp_path / "b", "vanilla", layers=names, weights=False)
      ),
    ]
  )
  lines = style.lines([one.method for one in found])
  rng = np.random.default_rng(0)
  counts = {
    name: layer_charts.histogram(rng.normal(size=900), rng.random(900) < 0.5)
    for name in names
  }
  limits = layer_charts.flip_limits(found)
  for theme in style.THEMES:
    yield charts.curves(found, lines, theme)
    yield charts.flips(found, lines, theme)
    yield layer_charts.ags_ratios(found, lines, theme)
    yield layer_charts.heat_maps(found[0], theme, limits)
    top = layer_charts.peak(counts)
    yield layer_charts.histograms(counts, "ovsw", theme, top)
    ratios = {name: 10 ** rng.normal(-1.5, 0.5, size=64) for name in names}
    yield filter_chart.filter_ratios(ratios, 0.04, "ovsw", theme)


def test_no_words_overlap_or_leave_the_picture(tmp_path):
  for figure in drawn(tmp_path):
    figure.canvas.draw()
    renderer, boxes = figure.canvas.get_renderer(), []
    for axes in figure.axes:
      texts = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
      for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        texts += [
          tick.label1
          for tick in axis.get_major_ticks()
          if low <= tick.get_loc() <= high and tick.label1.get_visible()
        ]
      for text in texts:
        if axes.get_visible() and text.get_visible() and text.get_text():
          boxes.append((text.get_text(), text.get_window_extent(renderer)))
    assert len(boxes) > 20
    for place, (words, box) in enumerate(boxes):
      assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1, words
      assert box.y0 >= -1 and box.y1 <= figure.bbox.height + 1, words
      for other_words, other in boxes[place + 1 :]:
        apart = (
          box.x1 <= other.x0 + 1
          or other.x1 <= box.x0 + 1
          or box.y1 <= other.y0 + 1
          or other.y1 <= box.y0 + 1
        )
        assert apart, (words, other_words)


def test_flips_are_means_of_epochs_where_the_run_has_them(tmp_path):
  member = groups.read_member(make(tmp_path / "run", weights=False))
  (older,) = groups.group([member])
  name, title = layer_charts._flip_rate(older)
  assert name == "flip_rate" and "last step" in title
  for record in member.run.records:
    if record["kind"] == "layers":
      record["flip_rate_mean"] = {k: 0.5 for k in record["flip_rate"]}
  (newer,) = groups.group([member])
  assert "mean over each epoch" in layer_charts._flip_rate(newer)[1]
  low, high = layer_charts.flip_limits([newer])
  assert low == 50 and high == 50.5


def test_every_filter_has_a_dot_and_those_below_delta_are_filled():
  ratios = {"a/latent": np.array([0.01, 0.1]), "b/latent": np.array([0.02])}
  figure = filter_chart.filter_ratios(ratios, 0.04, "ovsw", style.LIGHT)
  (axes,) = figure.axes
  as_it_is, lifted = (dots.get_offsets().data for dots in axes.collections)
  np.testing.assert_allclose(as_it_is[:, 0], [0.1])
  np.testing.assert_allclose(lifted[:, 0], [0.01, 0.02])
  assert (np.round(lifted[:, 1]) == [0, 1]).all()
  words = axes.get_legend_handles_labels()[1]
  assert "gradient lifted: 2 filters" in words and "delta = 0.04" in words
  figure = filter_chart.filter_ratios(ratios, None, "ovsw", style.LIGHT)
  assert len(figure.axes[0].collections) == 1
  # The one filter of a layer lies on its line.
  assert lifted[1, 1] == 1


def luminance(colour):
  parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [
    c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
  ]
  return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("theme", style.THEMES, ids=lambda theme: theme.name)
def test_colours_stand_out_from_the_page(theme):
  """WCAG's contrast of at least 3 for what is drawn, and 7 for words."""

  def contrast(colour):
    low, high = sorted((luminance(colour), luminance(theme.page)))
    return (high + 0.05) / (low + 0.05)

  assert all(contrast(colour) >= 3 for colour in theme.colours.values())
  assert contrast(theme.ink) >= 7


def test_groups_are_drawn_apart():
  methods = ["ovsw", "vanilla", "ovsw", "ovsw", "mine", "a", "ovsw"]
  lines = style.lines(methods)
  assert len({line.colour for line in lines}) == len(lines)
  assert lines[0].colour == "ovsw" and lines[1].colour == "vanilla"
  assert len(set(style.lines(["x"] * 12))) == 12
