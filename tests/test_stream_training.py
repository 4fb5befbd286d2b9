"""Runs on streamed images: train, stop, go on to the same bits, evaluate."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util

from configs import digits
from ovsw_jax import data
from ovsw_jax.training import (
  batches,
  checkpoint,
  evaluate,
  experiment,
  loop,
  mesh,
  preemption,
  settings,
)
from tests import odd_images
from tests.test_interruptions import StopAt
from tests.test_loop import assert_same_bits, lines, timeless

# Pillow's word on the image with broken EXIF, which is read all the same.
pytestmark = [
  pytest.mark.filterwarnings("ignore:Corrupt EXIF data"),
  pytest.mark.usefixtures("tiny"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return odd_images.write(
    tmp_path_factory.mktemp("images"), train=36, test=11, classes=("a", "b")
  )


def streamed(folder, **fields):
  """Two epochs of four steps."""
  config = digits.get_config("ovsw,smoke")
  config.mesh.data = 1
  config.data.name = f"stream:{folder}"
  config.data.limit = None
  config.data.image_size, config.data.resize = 16, 20
  config.data.flip = True
  config.data.lighting = "ovsw"
  config.data.crop = (0.08, 1.25)
  config.data.workers = 0
  config.train.batch_size = 8
  config.eval.batch_size = 4
  config.update_from_flattened_dict(fields)
  return config


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
  """An undisturbed run: its last state and its workdir."""
  workdir = tmp_path_factory.mktemp("whole")
  before = loop.train_batch._cache_size()
  state = loop.train_and_evaluate(streamed(folder), workdir)
  assert loop.train_batch._cache_size() == before + 1
  assert int(state.step) == 8
  return state, workdir


def test_a_stopped_run_goes_on_to_the_same_bits(
  folder, whole, tmp_path, monkeypatch, capsys
):
  config = streamed(folder)
  state, workdir = whole
  # Stopped amid the second epoch, and gone on with by worker processes.
  with monkeypatch.context() as patch:
    patch.setattr(preemption, "Preemption", lambda: StopAt(6))
    with pytest.raises(SystemExit):
      loop.train_and_evaluate(config, tmp_path / "cut")
  assert "36 training and 11 test images of 16x16x3" in capsys.readouterr().out
  assert checkpoint.steps(tmp_path / "cut" / "checkpoints")[-1] == 6
  resumed = loop.train_and_evaluate(
    streamed(folder, **{"data.workers": 1}), tmp_path / "cut"
  )
  assert_same_bits(resumed, state)
  assert timeless(lines(tmp_path / "cut")) == timeless(lines(workdir))


def test_evaluation_takes_every_image_once(folder, whole, capsys):
  config = streamed(folder)
  state, workdir = whole
  values = evaluate.evaluate(config, workdir)
  result = json.loads((workdir / "result.json").read_text())
  assert values["accuracy"] == result["accuracy"]
  assert "on 11 test images" in capsys.readouterr().out
  run = experiment.build(config)
  crops = np.stack(
    [
      run.dataset.test_crop(data.rgb(run.dataset.test[i]), np.empty(0))
      for i in range(11)
    ]
  )
  labels = np.array([run.dataset.test[i].label for i in range(11)])
  logits = run.recipe.model.apply(
    {"params": state.params, "batch_stats": state.batch_stats},
    data.normalize(crops, run.recipe.mean, run.recipe.std),
  )
  np.testing.assert_allclose(
    values["accuracy"],
    np.mean(np.argmax(logits, -1) == labels),
    rtol=1e-6,
  )


def test_a_batch_is_cut_over_the_devices_as_it_comes(folder):
  run = experiment.build(streamed(folder, **{"mesh.data": 4}))
  single = experiment.build(streamed(folder))
  with (
    batches.training(run, 2) as several,
    batches.training(single, 2) as one,
  ):
    cut, whole = next(several), next(one)
  assert cut.images.sharding == mesh.split(run.mesh)
  assert cut.images.sharding.shard_shape(cut.images.shape) == (2, 16, 16, 3)
  assert whole.images.devices() == {jax.devices()[0]}
  assert_same_bits(cut, whole)


def test_a_process_of_several_has_its_part():
  """Rows 4 to 7 of 16 are here, on two of eight devices of four processes."""

  class Part:
    """What a process of several sees of a sharding."""

    mesh = mesh.make(8)
    addressable_devices = mesh.devices[2:4]

  rows = np.arange(4, 8)
  asked = {}

  def made(shape, sharding, of):
    del sharding
    asked["shape"] = shape
    return [of((slice(start, start + 2), slice(None))) for start in (4, 6)]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "make_array_from_callback", made)
    parts = batches._put_rows(rows[:, None] * 10, rows, Part)
  assert asked["shape"] == (16, 1)
  assert [part.ravel().tolist() for part in parts] == [[40, 50], [60, 70]]


def test_a_damaged_image_ends_a_run_with_its_name(tmp_path):
  folder = odd_images.write(tmp_path / "images", train=16)
  for path in (folder / "train").rglob("*.JPEG"):
    path.write_bytes(path.read_bytes()[:50])
  with pytest.raises(ValueError, match=r"images/train/.*JPEG cannot be decod"):
    loop.train_and_evaluate(streamed(folder), tmp_path / "run")


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("replicas", 2, r"replicas=2 need a data set in memory"),
    ("train.chunk", 2, r"train.chunk=2 needs a data set in memory.* choose 1"),
    ("data.resize", 8, r"data.image_size=16 is larger than data.resize=8"),
    ("data.crop", (0.5, 0.1), r"data.crop must be two numbers, 0 < low <="),
    ("data.lighting", "dim", r"data.lighting .*alexnet, ovsw, .* got 'dim'"),
    ("data.workers", -1, r"data.workers must be .*>= 0, or None, got -1"),
    ("data.image_size", 0, r"data.image_size must be .*got 0"),
    ("train.batch_size", 40, r"batch_size=40 is larger .* 36 images"),
    ("data.name", "digits", r"lighting=ovsw shifts colors.* 1 channels"),
  ],
)
def test_wrong_values_are_named_and_nothing_is_written(
  folder, tmp_path, field, value, message
):
  config = streamed(folder)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    loop.train_and_evaluate(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_workers_may_change_and_older_runs_go_on(folder, tmp_path):
  config = streamed(folder)
  settings.write(config, tmp_path)
  settings.check_workdir(streamed(folder, **{"data.workers": 3}), tmp_path)
  with pytest.raises(ValueError, match=r"data.lighting is 'alexnet' here"):
    settings.check_workdir(
      streamed(folder, **{"data.lighting": "alexnet"}), tmp_path
    )
  # A config from before these fields.
  plain = digits.get_config("smoke")
  old = settings.flatten(settings.resolved(plain))
  for field in ("image_size", "resize", "crop", "lighting", "workers"):
    del old[f"data.{field}"]
  settings.write_json(
    tmp_path / settings.CONFIG_FILE, traverse_util.unflatten_dict(old, sep=".")
  )
  settings.check_workdir(plain, tmp_path)


PROCESS = """
import sys
from ovsw_jax.data import crops
from ovsw_jax.training import loop, mesh, networks
from tests.test_step import Tiny
from tests.test_stream_training import streamed

networks.models.make = lambda name, **_: Tiny(name=None)
mesh.start_processes(False)
cut, count = crops.RandomCrop.__call__, 0
def counted(*arguments):
  global count
  count += 1
  return cut(*arguments)
crops.RandomCrop.__call__ = counted
config = streamed(sys.argv[1], **{"mesh.data": None})
loop.train_and_evaluate(config, sys.argv[2])
print("crops", count)
"""


def test_two_processes_share_the_decoding(folder, whole, tmp_path):
  """Eight steps of eight images, of which each process decodes four.

  They have two devices each; on one the result is the same but for rounding.
  """
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", PROCESS, str(folder), str(tmp_path / "two")],
      env=os.environ
      | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=pathlib.Path(__file__).parent.parent,
    )
    for index in range(2)
  ]
  said = [process.communicate(timeout=300) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  assert all("crops 32\n" in out for out, _ in said)
  two, one = (
    json.loads((workdir / "result.json").read_text())
    for workdir in (tmp_path / "two", whole[1])
  )
  assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
