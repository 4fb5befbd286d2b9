"""The report: one page from what a run left, honest and legible."""

import base64
import io
import json
import re
import resource
import sys
import time

import jax
import numpy as np
import optax
import pytest
from matplotlib.image import imread

from ovsw_jax import analysis
from ovsw_jax.analysis import groups, run, tables
from tests.test_analysis import save, train, transform

LAYERS = [f"layer{i // 4 + 1}_block{i % 4}/conv1/latent" for i in range(2)]


def make(
  workdir,
  method="ovsw",
  seed=0,
  epochs=6,
  finished=True,
  model="cifar_resnet20",
  weights=True,
  layers=LAYERS,
  replicas=1,
  **config,
):
  """A workdir as training leaves it, with plausible numbers."""
  rng = np.random.default_rng(seed + 100 * len(method))
  workdir.mkdir(parents=True)
  binary = method != "full_precision"
  own = {"delta": 0.04, "threshold": 1e-4} if method == "ovsw" else {}
  nested = {
    "name": "test",
    "seed": seed,
    "replicas": replicas,
    "method": method,
    "method_args": own | config.pop("method_args", {}),
    "model": {"name": model},
    "data": {"name": config.pop("data", "digits")},
    "train": {"epochs": 6, "batch_size": 64} | config.pop("train", {}),
  } | config
  (workdir / "config.json").write_text(json.dumps(nested))
  lines = []
  for epoch in range(1, epochs + 1):
    record = {
      "accuracy": 0.9 - 0.5 / epoch + 0.01 * float(rng.normal()),
      "loss": 1 / epoch,
      "top5": 0.99,
      "train_loss": 0.9 / epoch,
      "train_accuracy": 0.95 - 0.5 / epoch,
      "seconds": 10.0,
    }
    if binary:
      record["flip_rate"] = 1e-3 / epoch
      record["never_flipped_fraction"] = 0.95 - 0.03 * epoch
      if method == "ovsw":
        record["silent_fraction"] = 0.96 - 0.03 * epoch
    if replicas > 1:
      record |= {f"{name}_std": 0.01 for name in list(record)}
    common = {"step": 20 * epoch, "epoch": epoch}
    lines.append({"kind": "eval"} | common | record)
    if binary:
      names = ["flip_rate", "never_flipped_fraction"]
      names += ["ags_ratio", "silent_fraction"] * (method == "ovsw")
      tables = {n: {one: float(rng.random()) for one in layers} for n in names}
      lines.append({"kind": "layers"} | common | tables)
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text)
  if finished:
    result = {
      "accuracy": lines[-1].get("accuracy"),
      "device": "cpu (2 cores)",
      "versions": {"ovsw_jax": "0.1.0", "jax": "0.10.2"},
      "command": f"main.py --config=x.py:{method} --workdir=<{method}>",
    }
    if replicas > 1:
      values = [0.80 + 0.01 * place for place in range(replicas)]
      result["accuracy_per_seed"] = values
    (workdir / "result.json").write_text(json.dumps(result))
  if binary and weights:
    run.save_weights(
      workdir,
      {
        name: (rng.normal(size=(3, 3, 8, 8)), rng.random((3, 3, 8, 8)) < 0.3)
        for name in layers
      },
    )
  return workdir


def rows(path):
  """The results table as {row: [cells]}."""
  first = re.search(r"<table>(.*?)</table>", path.read_text(), re.S).group(1)
  found = {}
  for row in re.findall(r"<tr>(.*?)</tr>", first):
    name, *cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", row)
    found[name] = cells
  return found


@pytest.fixture
def undrawn(monkeypatch):
  """Charts are made and not painted, where a test is of the words alone."""
  module = sys.modules["ovsw_jax.analysis.report"]
  monkeypatch.setattr(module, "_png", lambda figure: b"png" * bool(figure))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
  root = tmp_path_factory.mktemp("compared")
  places = [
    make(root / f"{method}{seed}", method, seed)
    for method in ("vanilla", "ovsw")
    for seed in (0, 1)
  ]
  return analysis.report(places[0], places[1:], out=root / "out/page.html")


def test_the_page_stands_alone_in_light_and_dark(compared):
  text = compared.read_text()
  assert compared.name == "page.html"
  assert not re.search(r"https?://|<script|<link|@import|url\(", text)
  assert "prefers-color-scheme: dark" in text and 'lang="en"' in text
  pictures = re.findall(r'srcset="data:image/png;base64,(.*?)"', text)
  plain = re.findall(r'<img src="data:image/png;base64,(.*?)"', text)
  # Curves, flips, AGS; heat map and histograms of each of two groups.
  assert len(pictures) == len(plain) == 7
  for dark, light in zip(pictures, plain, strict=True):
    colours = [
      imread(io.BytesIO(base64.b64decode(data)))[0, 0, :3].mean()
      for data in (dark, light)
    ]
    assert colours[0] < 0.2 and colours[1] == 1


def test_the_pictures_lie_beside_it_and_are_small(compared):
  files = sorted((compared.parent / "page").iterdir())
  assert len(files) == 14
  assert all(file.suffix == ".png" for file in files)
  assert all(file.stat().st_size < 300_000 for file in files)
  assert [p.name for p in compared.parent.iterdir() if p.is_file()] == [
    "page.html"
  ]


def test_seeds_are_grouped_by_mean_and_sample_deviation(compared):
  found = rows(compared)
  assert found[""] == ["vanilla", "OvSW"]
  assert found["seeds"] == ["0, 1", "0, 1"]
  for place, method in enumerate(("vanilla", "ovsw")):
    values = [
      groups.read_member(compared.parents[1] / f"{method}{seed}")
      for seed in (0, 1)
    ]
    finals = [100 * one.run.series("accuracy")[1][-1] for one in values]
    best = [100 * max(one.run.series("accuracy")[1]) for one in values]
    for name, numbers in (
      ("final test accuracy (%)", finals),
      ("best on test, no result (%)", best),
    ):
      mean, deviation = np.mean(numbers), np.std(numbers, ddof=1)
      assert found[name][place] == f"{mean:.2f} ± {deviation:.2f}"
  assert found["weights silent to SAD (%)"][0] == "-"  # vanilla keeps none
  text = compared.read_text()
  for words in ("chosen on the test data", "cpu (2 cores)", "jax 0.10.2"):
    assert words in text
  assert "--workdir=&lt;ovsw&gt;" in text  # the command, escaped


def test_the_same_runs_give_the_same_bytes(tmp_path):
  workdir = make(tmp_path / "run")
  first = analysis.report(workdir).read_bytes()
  assert analysis.report(str(workdir)).read_bytes() == first
  assert not list(tmp_path.rglob("*.writing"))


def test_a_checkpoint_adds_the_table_of_layers(tmp_path, undrawn):
  names = ["block0/conv/latent", "block1/conv/latent"]
  workdir = make(tmp_path / "run", layers=names, weights=False)
  params, opt_state, _ = train(transform("ovsw"))
  save(workdir, params, opt_state, step=120)
  text = analysis.report(workdir).read_text()
  assert "From the checkpoint of step 120." in text
  assert "What AGS sees of each filter" in text
  for words in ("block0/conv", "oscillating (%)", "sign corr. with init"):
    assert words in text
  assert '<tr class="total"><td>all</td><td>252</td>' in text
  assert "latent corr. with init" not in text  # there are no weights at init


def test_ratios_of_filters_as_numbers(tmp_path, undrawn):
  names = ["block0/conv/latent", "block1/conv/latent"]
  workdir = make(
    tmp_path / "run", layers=names, weights=False, method_args={"delta": 0.4}
  )
  params, opt_state, _ = train(transform("ovsw"))
  save(workdir, params, opt_state, step=120)
  text = analysis.report(workdir).read_text()
  ratios = jax.tree.leaves(optax.tree.get(opt_state, "ags_filter_ratio"))
  each = [*ratios, np.concatenate(ratios)]
  assert 0 < np.mean(each[-1] < 0.4) < 1
  for name, one in zip(
    ("block0/conv", "block1/conv", "all"), each, strict=True
  ):
    row = [f"{q:.3g}" for q in np.quantile(one, (0.1, 0.5, 0.9))]
    row = [name, str(one.size), *row, f"{100 * np.mean(one < 0.4):.1f}"]
    assert "".join(f"<td>{cell}</td>" for cell in row) in text
  table = tables.filters({"a": ratios[0]}, None)  # a schedule
  assert "lifted (%)" not in table.header
  assert {len(row) for row in table.rows} == {len(table.header)}


@pytest.mark.parametrize("when", ("old version", "before the first update"))
def test_a_checkpoint_without_ratios_of_filters(tmp_path, undrawn, when):
  names = ["block0/conv/latent", "block1/conv/latent"]
  workdir = make(tmp_path / "run", layers=names, weights=False)
  params, opt_state, _ = train(transform("ovsw"))
  if when == "old version":
    opt_state = optax.tree.set(opt_state, ags_filter_ratio=None)
  else:
    opt_state = transform("ovsw").init(params)
  save(workdir, params, opt_state, step=120)
  text = analysis.report(workdir).read_text()
  assert "From the checkpoint of step 120." in text
  assert "of each filter" not in text and "The numbers, by layer" not in text


@pytest.mark.parametrize("method", ("vanilla", "sad", "irnet", "my.own"))
def test_any_method(tmp_path, method, undrawn):
  text = analysis.report(make(tmp_path / "run", method)).read_text()
  assert "figure_data.npz" in text and "Gradient norm" not in text
  assert "of each filter" not in text


def test_a_network_without_bits(tmp_path, undrawn):
  path = analysis.report(make(tmp_path / "run", "full_precision"))
  assert "There are no binary weights here." in path.read_text()
  assert "Layers:" not in path.read_text()
  assert rows(path)["weights that never flipped (%)"] == ["-"]


def test_bits_beside_their_full_precision_twin(tmp_path, undrawn):
  twin = make(tmp_path / "twin", "full_precision")
  path = analysis.report(make(tmp_path / "run"), [twin])
  assert rows(path)[""] == ["OvSW", "full precision"]
  assert rows(path)["weights that never flipped (%)"] == ["77.00", "-"]


def test_replicas_count_as_seeds(tmp_path, undrawn):
  path = analysis.report(make(tmp_path / "run", replicas=3, seed=5))
  found = rows(path)
  assert found["seeds"] == ["5, 6, 7"]
  assert found["final test accuracy (%)"] == ["81.00 ± 1.00"]


def test_labels_tell_one_methods_groups_apart(tmp_path, undrawn):
  places = [
    make(tmp_path / "a"),
    make(tmp_path / "b", method_args={"delta": 0.1}),
    make(tmp_path / "c", train={"batch_size": 128}),
    make(tmp_path / "d", "vanilla", train={"batch_size": 128}),
  ]
  path = analysis.report(places[0], places[1:], out=tmp_path)
  assert path == tmp_path / "report.html"
  assert rows(path)[""] == [
    "OvSW, delta=0.04, batch_size=64",
    "OvSW, delta=0.1, batch_size=64",
    "OvSW, delta=0.04, batch_size=128",
    "vanilla",
  ]


def test_a_run_that_is_still_going(tmp_path, undrawn):
  going = make(tmp_path / "going", epochs=2, finished=False, weights=False)
  with (going / "metrics.jsonl").open("a") as file:
    file.write('{"kind": "train", "step": 41, "ep')  # half a line
  path = analysis.report(going)
  assert "is not finished: epoch 2 of 6 is its last" in path.read_text()
  assert rows(path)["epochs"] == ["2, not finished"]
  # Beside a finished run of another seed it does not enter the mean.
  path = analysis.report(make(tmp_path / "done", seed=1), [going])
  assert rows(path)["epochs"] == ["6"] and rows(path)["seeds"] == ["1"]
  assert "epoch 2 of 6" in path.read_text()


def no_config(workdir):
  (workdir / "config.json").unlink()


def no_metrics(workdir):
  (workdir / "metrics.jsonl").unlink()


def no_epoch(workdir):
  (workdir / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')


def broken_line(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  (workdir / "metrics.jsonl").write_text("{half\n" + text)


def broken_result(workdir):
  (workdir / "result.json").write_text('{"accuracy": ')


def damaged_weights(workdir):
  (workdir / "figure_data.npz").write_bytes(b"no archive")


@pytest.mark.parametrize(
  ("spoil", "error", "words"),
  [
    (no_config, FileNotFoundError, "has no config.json: no run was started"),
    (no_metrics, FileNotFoundError, "No metrics at"),
    (no_epoch, ValueError, "has no evaluated epoch yet"),
    (broken_line, ValueError, "line 1 is not JSON"),
    (broken_result, ValueError, r"result.json is not JSON"),
    (damaged_weights, ValueError, "figure_data.npz is damaged"),
  ],
)
def test_broken_workdirs_are_refused_in_one_sentence(
  tmp_path, spoil, error, words
):
  workdir = make(tmp_path / "run")
  spoil(workdir)
  with pytest.raises(error, match=words) as caught:
    analysis.report(workdir)
  assert "\n" not in str(caught.value)
  assert not (workdir / "report.html").exists()


def test_runs_that_do_not_compare_are_refused(tmp_path):
  one = make(tmp_path / "one")
  model = make(tmp_path / "model", model="vgg_small")
  data = make(tmp_path / "data", data="tfds:cifar10")
  twice = make(tmp_path / "twice")
  for other, words in (
    (model, "model.name=cifar_resnet20 and .* has model.name=vgg_small;"),
    (data, "data.name=digits and .*; compare runs of one data"),
    (twice, "are the same config and seed 0; name one of them"),
    (tmp_path / "one" / ".." / "one", "is named twice"),
  ):
    with pytest.raises(ValueError, match=words):
      analysis.report(one, [other])
  with pytest.raises(FileNotFoundError, match="There is no directory"):
    analysis.report(tmp_path / "nowhere")
  with pytest.raises(ValueError, match=r"must end in \.html"):
    analysis.report(one, out=tmp_path / "page.pdf")


def test_a_long_run_takes_little_time_and_memory(tmp_path):
  """200 epochs of 16 layers; a full ResNet-18 is measured by hand."""
  names = [f"layer{i}/conv/latent" for i in range(16)]
  workdir = make(tmp_path / "run", epochs=200, layers=names)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  began = time.process_time()
  analysis.report(workdir)
  assert time.process_time() - began < 30
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert (most - before) / 1024 < 512  # MiB; ru_maxrss is in KiB
