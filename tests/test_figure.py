"""The figure of silent weights, and the numbers it is drawn from."""

import itertools
import json
import os
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from ovsw_jax import analysis
from ovsw_jax.analysis import run as run_lib
from ovsw_jax.analysis import silence


def _run(seed, epochs=20, binary=True, size=24):
  """A run with plausible numbers; without `binary`, of a real network."""
  rng = np.random.default_rng(seed)
  records, weights = [], {}
  for epoch in range(1, epochs + 1):
    record = {"kind": "eval", "step": 22 * epoch, "epoch": epoch}
    record["accuracy"] = 0.9 - 0.8**epoch + float(rng.normal()) / 200
    if binary:
      record["flip_rate"] = 3e-3 * 0.7 ** (epoch / (1 + seed))
    records.append({"kind": "train", "step": 22 * epoch - 1, "epoch": epoch})
    records.append(record)
  for layer in range(3 if binary else 0):
    latent = rng.normal(size=(3, 3, size, size)) * 10.0**-layer
    flips = (rng.random(latent.shape) < 0.2).astype(np.int32)
    weights[f"block{layer}/conv/latent"] = (latent, flips)
  return analysis.Run(records, weights)


def _texts(figure):
  return [
    text.get_text() for axes in figure.axes for text in axes.texts if text
  ]


@pytest.mark.parametrize(
  ("labels", "panels"),
  [
    (["ovsw"], 3),
    (["vanilla", "ovsw"], 4),
    (["vanilla", "ovsw", "ags", "sad"], 6),
    (["mine", "yours", "ovsw"], 5),
  ],
)
def test_png_is_small_and_as_wide_as_a_readme(tmp_path, labels, panels):
  runs = {label: _run(seed) for seed, label in enumerate(labels)}
  assert len(analysis.flip_figure(runs).axes) == panels
  analysis.save_flip_figure(tmp_path / "figure.png", runs)
  assert (tmp_path / "figure.png").stat().st_size < 300_000
  assert imread(tmp_path / "figure.png").shape[1] == 1200
  assert os.listdir(tmp_path) == ["figure.png"]


def test_curves_hold_the_runs_numbers_in_percent():
  runs = {"vanilla": _run(0), "ovsw": _run(1)}
  accuracy, flips = analysis.flip_figure(runs).axes[:2]
  for axes, name in ((accuracy, "accuracy"), (flips, "flip_rate")):
    for line, run in zip(axes.lines, runs.values(), strict=True):
      epochs, values = run.series(name)
      np.testing.assert_array_equal(line.get_xdata(), epochs)
      np.testing.assert_allclose(line.get_ydata(), 100 * np.array(values))
    assert "%" in axes.get_ylabel()
    assert axes.get_xlabel() == "epoch"


def test_histograms_share_axes_and_bins_and_count_every_weight():
  runs = {"vanilla": _run(0), "ovsw": _run(1)}
  panels = analysis.flip_figure(runs).axes[2:]
  assert panels[0].get_xlim() == panels[1].get_xlim()
  assert panels[0].get_ylim() == panels[1].get_ylim()
  for axes, run in zip(panels, runs.values(), strict=True):
    everything, never, _ = (stairs.get_data() for stairs in axes.patches)
    np.testing.assert_array_equal(everything.edges, never.edges)
    assert everything.values.sum() == pytest.approx(100)
    assert np.all(never.values <= everything.values)
    share = np.mean([n == 0 for _, n in run.weights.values()])
    assert never.values.sum() == pytest.approx(100 * share)
    assert f"{100 * share:.0f} %" in [text.get_text() for text in axes.texts]


def test_histogram_does_not_depend_on_the_layers_scale():
  run = _run(0)
  scaled = run._replace(
    weights={
      layer: (latent * 7.0 ** (index + 1), flips)
      for index, (layer, (latent, flips)) in enumerate(run.weights.items())
    }
  )
  left, right = (
    analysis.flip_figure({"ovsw": each}).axes[2].patches[0].get_data().values
    for each in (run, scaled)
  )
  np.testing.assert_allclose(left, right, atol=0.05)


@pytest.mark.parametrize("epochs", [1, 2, 7, 600])
def test_texts_do_not_overlap(epochs):
  """Ends that meet are moved apart; annotations stay clear of the legend."""
  labels = ["vanilla", "ovsw", "ags", "sad"]
  runs = {label: _run(1, epochs=epochs) for label in labels}
  figure = analysis.flip_figure(runs)
  figure.canvas.draw()
  renderer = figure.canvas.get_renderer()
  width, height = figure.bbox.width, figure.bbox.height
  for axes in figure.axes:
    boxes = [
      text.get_window_extent(renderer)
      for text in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)
      if text.get_text()
    ]
    if axes.get_legend() is not None:
      boxes.append(axes.get_legend().get_window_extent(renderer))
    for left, right in itertools.combinations(boxes, 2):
      assert not left.overlaps(right), (axes.get_title(), left, right)
    for box in boxes:
      assert box.x0 >= 0
      assert box.y0 >= 0
      assert box.x1 <= width
      assert box.y1 <= height


def test_a_network_without_binary_weights_has_an_accuracy():
  figure = analysis.flip_figure({"full_precision": _run(0, binary=False)})
  assert len(figure.axes) == 2
  assert "no binary weights" in _texts(figure)
  both = {"ovsw": _run(0), "full_precision": _run(1, binary=False)}
  figure = analysis.flip_figure(both)
  assert len(figure.axes) == 3
  assert len(figure.axes[0].lines) == 2
  assert len(figure.axes[1].lines) == 1


def test_epochs_without_a_flip_or_with_null_are_left_out():
  run = _run(0)
  run.records[1]["flip_rate"] = 0.0
  run.records[3]["accuracy"] = None
  figure = analysis.flip_figure({"ovsw": run})
  assert figure.axes[0].lines[0].get_xdata()[1] == 3
  assert figure.axes[1].lines[0].get_xdata()[0] == 2


def test_the_same_runs_give_the_same_bytes(tmp_path):
  runs = {"vanilla": _run(0), "ovsw": _run(1)}
  for name in ("a.png", "b.png"):
    analysis.save_flip_figure(tmp_path / name, runs)
  assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_pyplot_is_left_alone(monkeypatch):
  for name in list(sys.modules):
    if name.startswith("matplotlib.pyplot"):
      monkeypatch.delitem(sys.modules, name)
  analysis.flip_figure({"ovsw": _run(0)})
  assert "matplotlib.pyplot" not in sys.modules


def test_a_figure_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
  path = tmp_path / "figure.png"
  analysis.save_flip_figure(path, {"ovsw": _run(0)})
  before = path.read_bytes()

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", killed)
  with pytest.raises(KeyboardInterrupt):
    analysis.save_flip_figure(path, {"ovsw": _run(1)})
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ["figure.png"]


def test_wrong_runs_are_one_clear_error(tmp_path):
  with pytest.raises(ValueError, match="No runs to draw"):
    analysis.flip_figure({})
  with pytest.raises(ValueError, match="Run 'ovsw' has no test accuracy yet"):
    analysis.flip_figure({"ovsw": analysis.Run([], {})})
  with pytest.raises(FileNotFoundError, match="No metrics at"):
    analysis.flip_figure({"ovsw": tmp_path})


def _workdir(path, run):
  lines = [json.dumps(record) for record in run.records]
  (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
  run_lib.save_weights(path, run.weights)
  return path


def test_a_workdir_draws_as_its_run(tmp_path):
  run = _run(0)
  read = analysis.read_run(_workdir(tmp_path, run))
  assert read.records == run.records
  assert read.weights.keys() == run.weights.keys()
  for layer, (latent, flips) in run.weights.items():
    standardised, never = latent.ravel() / latent.std(), flips.ravel() == 0
    np.testing.assert_allclose(
      read.weights[layer][0], standardised, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(read.weights[layer][1] == 0, never)
  drawn = analysis.flip_figure({"ovsw": tmp_path})
  direct = analysis.flip_figure({"ovsw": run})
  assert _texts(drawn) == _texts(direct)


def test_a_run_without_binary_weights_keeps_none(tmp_path):
  read = analysis.read_run(_workdir(tmp_path, _run(0, binary=False)))
  assert read.weights == {}


@pytest.mark.parametrize("length", [0, 10, 5000])
def test_damaged_weights_are_one_clear_error(tmp_path, length):
  _workdir(tmp_path, _run(0))
  os.truncate(tmp_path / run_lib.WEIGHTS_FILE, length)
  with pytest.raises(ValueError, match=r"figure_data\.npz is damaged"):
    analysis.read_run(tmp_path)


def test_weights_and_flips_must_fit_each_other(tmp_path):
  weights = {"conv/latent": (np.zeros((3, 3)), np.zeros(9, np.int32))}
  with pytest.raises(
    ValueError, match="Layer 'conv/latent' has latent weights"
  ):
    run_lib.save_weights(tmp_path, weights)
  assert os.listdir(tmp_path) == []


def test_never_flipped_counts_weights_not_layers():
  flips = {"small": np.array([[0, 1]]), "large": np.zeros((2, 3, 1), np.int32)}
  assert silence.never_flipped(flips) == {
    "small": 0.5,
    "large": 1.0,
    "total": 7 / 8,
  }


def test_silent_is_the_references_strict_threshold(golden):
  """Against the masks of the authors' code, at every step of every setting."""
  archive = golden("sad")
  for index, (_, threshold, _, _) in enumerate(archive["cfg"]):
    trackers = archive[f"cfg{index}/f64/tracker"]
    fractions = archive[f"cfg{index}/f64/silent_fraction"]
    for tracker, fraction in zip(trackers, fractions, strict=True):
      shares = silence.silent({"conv": tracker}, threshold)
      assert shares["conv"] == pytest.approx(float(fraction), abs=1e-12)
      assert shares["total"] == shares["conv"]


@pytest.mark.parametrize(
  ("layers", "message"),
  [
    ({}, "No layers were given"),
    ({"conv": np.zeros((0, 3))}, "Layer 'conv' has 0 weights"),
    ({"total": np.zeros(3)}, "a name other than 'total'"),
  ],
)
def test_wrong_layers_are_one_clear_error(layers, message):
  with pytest.raises(ValueError, match=message):
    silence.never_flipped(layers)
  with pytest.raises(ValueError, match=message):
    silence.silent(layers)
