"""metrics.jsonl and the progress lines: strict, whole, and resumable."""

import importlib.util
import io
import json
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax.analysis import metrics
from ovsw_jax.training import progress, writers


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
  """The tests' numbers do not depend on what is installed beside JAX."""
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *args: (
      None if name == "tensorboardX" else find_spec(name, *args)
    ),
  )


def _steps(path):
  return [record["step"] for record in metrics.read_metrics(path)]


def test_records_come_back_as_written(tmp_path):
  with writers.MetricsWriter(tmp_path / "new") as writer:
    writer.write(
      "train",
      np.int64(10),
      jnp.int32(1),
      {
        "loss": jnp.float32(0.1),
        "accuracy": np.float64(0.1),
        "count": jnp.int32(3),
        "bf16": jnp.bfloat16(0.5),
        "done": np.bool_(True),
        "note": "warm",
        "nothing": None,
      },
    )
    writer.write("layers", 10, 1, {"ags_ratio": {"conv/latent": 0.25}})
  assert metrics.read_metrics(tmp_path / "new") == [
    {
      "kind": "train",
      "step": 10,
      "epoch": 1,
      "loss": 0.1,
      "accuracy": 0.1,
      "count": 3,
      "bf16": 0.5,
      "done": True,
      "note": "warm",
      "nothing": None,
    },
    {
      "kind": "layers",
      "step": 10,
      "epoch": 1,
      "ags_ratio": {"conv/latent": 0.25},
    },
  ]


def test_a_float32_comes_back_to_the_bit(tmp_path):
  values = np.random.default_rng(0).normal(size=200).astype(np.float32)
  values *= np.float32(10.0) ** np.arange(-30, 30, 0.3).astype(np.float32)
  with writers.MetricsWriter(tmp_path) as writer:
    for step, value in enumerate(values, start=1):
      writer.write("train", step, 1, {"loss": value})
  back = [record["loss"] for record in metrics.read_metrics(tmp_path)]
  np.testing.assert_array_equal(np.array(back, np.float32), values)


def test_non_finite_values_are_null_and_named(tmp_path):
  values = {"loss": jnp.nan, "norm": np.inf, "ags": {"conv": -np.inf, "d": 1.0}}
  with writers.MetricsWriter(tmp_path) as writer:
    writer.write("train", 1, 1, values)
  text = (tmp_path / "metrics.jsonl").read_text()
  record = json.loads(text, parse_constant=lambda token: pytest.fail(token))
  assert record["loss"] is None
  assert record["norm"] is None
  assert record["ags"] == {"conv": None, "d": 1.0}
  assert record["non_finite"] == {
    "loss": "nan",
    "norm": "inf",
    "ags/conv": "-inf",
  }


def test_every_record_is_on_disk_at_once(tmp_path):
  writer = writers.MetricsWriter(tmp_path)
  for step in (1, 2, 3):
    writer.write("train", step, 1, {"loss": 0.0})
    assert _steps(tmp_path)[-1] == step
  writer.close()
  writer.close()


@pytest.mark.parametrize("value", [np.zeros(3), [1, 2], {1, 2}, 1j, object()])
def test_what_is_no_scalar_is_refused_by_name(tmp_path, value):
  with writers.MetricsWriter(tmp_path) as writer:
    with pytest.raises(ValueError, match="Metric 'ags/conv' is a "):
      writer.write("train", 1, 1, {"ags": {"conv": value}})
    writer.write("train", 2, 1, {"loss": 0.0})
  assert _steps(tmp_path) == [2]


def test_resuming_drops_what_the_checkpoint_does_not_know(tmp_path):
  with writers.MetricsWriter(tmp_path) as writer:
    for step in (1, 2, 3, 4):
      writer.write("train", step, 1, {"loss": step})
    writer.write("eval", 2, 1, {"accuracy": 0.5})
  before = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"kind": "train", "step": 5, "lo')
  with writers.MetricsWriter(tmp_path, step=2) as writer:
    assert _steps(tmp_path) == [1, 2, 2]
    writer.write("train", 3, 1, {"loss": 33})
  after = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
  assert after[:3] == [before[0], before[1], before[4]]
  assert _steps(tmp_path) == [1, 2, 2, 3]
  assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_new_start_begins_an_empty_file(tmp_path):
  for _ in range(2):
    with writers.MetricsWriter(tmp_path) as writer:
      writer.write("train", 1, 1, {"loss": 0.0})
  assert _steps(tmp_path) == [1]


def test_truncation_happens_whole_or_not_at_all(tmp_path, monkeypatch):
  with writers.MetricsWriter(tmp_path) as writer:
    for step in (1, 2):
      writer.write("train", step, 1, {"loss": step})
  path = tmp_path / "metrics.jsonl"
  before = path.read_bytes()

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(writers.os, "replace", killed)
  with pytest.raises(KeyboardInterrupt):
    writers.truncate_after(path, 1)
  assert path.read_bytes() == before


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    ("{oops}", "line 2 is not JSON"),
    ("", "line 2 is not JSON"),
    ('{"step": 1, "loss": NaN}', "line 2 is not JSON .NaN is not a JSON"),
    ("[1, 2]", "line 2 is not a record with a step"),
    ('{"loss": 1.0}', "line 2 is not a record with a step"),
  ],
)
def test_garbage_is_reported_with_its_line_and_left_alone(
  tmp_path, line, reason
):
  path = tmp_path / "metrics.jsonl"
  path.write_text(f'{{"kind": "train", "step": 1}}\n{line}\n{{"step": 2}}\n')
  before = path.read_bytes()
  with pytest.raises(ValueError, match=reason):
    metrics.read_metrics(path)
  with pytest.raises(ValueError, match=reason):
    writers.MetricsWriter(tmp_path, step=1)
  assert path.read_bytes() == before
  assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_reading_what_is_not_there(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"No metrics at .*jsonl"):
    metrics.read_metrics(tmp_path)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with writers.MetricsWriter(tmp_path / "run") as writer:
    writer.write("train", 1, 1, {"loss": 0.0})
  assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
  scalars, calls = [], []

  class SummaryWriter:
    def __init__(self, directory, **args):
      calls.append((directory, args))

    def add_scalar(self, tag, value, step):
      scalars.append((tag, value, step))

    def close(self):
      calls.append("closed")

  module = types.ModuleType("tensorboardX")
  module.SummaryWriter = SummaryWriter
  monkeypatch.setitem(sys.modules, "tensorboardX", module)
  monkeypatch.setattr(importlib.util, "find_spec", lambda *_: module)
  with writers.MetricsWriter(tmp_path, step=4) as writer:
    writer.write(
      "eval", 5, 1, {"loss": jnp.float32(0.1), "ags": {"a/b": 2}, "x": "y"}
    )
    writer.write("eval", 6, 1, {"loss": jnp.nan})
  assert scalars == [("eval/loss", 0.1, 5), ("eval/ags/a/b", 2, 5)]
  args = {"purge_step": 5, "filename_suffix": ".4"}
  assert calls == [(str(tmp_path / "tensorboard"), args), "closed"]


class _Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def _progress(stream, clock, **args):
  return progress.Progress(
    100, 0, 64, stream=stream, clock=clock, steps_per_epoch=25, **args
  )


def test_plain_lines_are_few_and_say_it_all():
  stream, clock = io.StringIO(), _Clock()
  with _progress(stream, clock, every=10) as bar:
    for step in range(4, 101, 4):
      clock.now += 2  # half a second a step
      bar.update(
        step,
        {"loss": np.float32(1.25), "accuracy": 0.5, "flip_rate": 1e-3, "lr": 1},
      )
  lines = stream.getvalue().splitlines()
  assert len(lines) == 5
  assert lines[0] == (
    "epoch 1/4  step  20/100  loss 1.2500  acc 50.0%  flips 0.100%"
    "  128 images/s  40s left"
  )
  assert lines[-1].startswith("epoch 4/4  step 100/100")
  assert lines[-1].endswith("  0s left")


def test_speed_leaves_compiling_and_evaluating_out(capsys):
  stream, clock = io.StringIO(), _Clock()
  bar = _progress(stream, clock)
  assert math.isnan(bar.images_per_second)
  clock.now += 60
  bar.update(1, {})
  assert math.isnan(bar.images_per_second)
  for step in range(2, 26):
    clock.now += 0.5
    bar.update(step, {})
  clock.now += 30
  bar.line("epoch 1/4  test 90%")
  clock.now += 0.5
  bar.update(26, {})
  assert bar.images_per_second == 128
  assert capsys.readouterr().out == "epoch 1/4  test 90%\n"


def test_a_terminal_gets_a_bar(capsys):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream, clock = Terminal(), _Clock()
  with _progress(stream, clock) as bar:
    clock.now += 100
    bar.update(2, {"loss": 1.25})
    bar.line("epoch 1/4")
    clock.now += 49
    bar.update(100, {"loss": 0.5, "accuracy": 1.0})
  text = stream.getvalue()
  assert "100/100" in text
  assert "loss 0.5000  acc 100.0%  128 images/s  0s left" in text
  assert capsys.readouterr().out.strip() == "epoch 1/4"


def test_a_resumed_run_starts_where_it_was():
  stream, clock = io.StringIO(), _Clock()
  bar = progress.Progress(100, 50, 64, stream=stream, clock=clock, every=0)
  clock.now += 5
  bar.update(60, {})
  clock.now += 5
  bar.update(70, {"loss": 2})
  assert stream.getvalue().splitlines() == [
    "step  60/100",
    "step  70/100  loss 2.0000  128 images/s  15s left",
  ]
