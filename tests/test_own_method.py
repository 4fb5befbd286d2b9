"""The page *Add your own method*: its example is run as it stands there."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import methods, nn
from ovsw_jax.training import experiment, settings
from tests.test_methods_invariants import IMAGES, LABELS
from tests.two_layers import Network, train

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add_your_own_method.md").read_text()
FILE, USE, CONFIG = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture
def directory(tmp_path, monkeypatch):
  """A directory with the page's file, as the working directory."""
  (tmp_path / "my_method.py").write_text(FILE)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(ROOT)
  return tmp_path


def test_the_file_is_short():
  assert len(FILE.splitlines()) <= 32


def test_the_layer_of_the_page_works(directory):
  names: dict = {}
  exec(compile(USE, "page", "exec"), names)
  params = names["gradient"]["params"]
  assert params["latent"].shape == (3, 3, 4, 8)
  assert params["activation_quantizer"]["shift"].shape == (4,)
  for leaf in jax.tree.leaves(params):
    assert np.isfinite(leaf).all() and np.any(leaf != 0)
  assert names["method"].name == "my_method"


def test_the_method_trains_and_does_what_the_page_says(directory):
  method = methods.make("my_method.py")
  losses, variables = train(method, IMAGES, LABELS, steps=16)
  assert min(losses[-4:]) < 0.9 * losses[0]
  _, state = Network(method).apply(variables, IMAGES, mutable="intermediates")
  bits, scale = state["intermediates"]["conv1"]["quantized"][0]
  latent = variables["params"]["conv1"]["latent"]
  np.testing.assert_array_equal(
    bits, jnp.where(latent >= latent.mean((0, 1, 2)), 1, -1)
  )
  np.testing.assert_allclose(scale, jnp.abs(latent).mean((0, 1, 2)), rtol=1e-6)


def test_the_config_of_the_page_builds(directory):
  names: dict = {}
  exec(compile(CONFIG, "page", "exec"), names)
  config = names["get_config"]("smoke")
  config.mesh.data = 1
  settings.check(config)
  run = experiment.build(config)
  state = jax.eval_shape(run.initial_state)
  block = state.params["layer1_block0"]["conv1"]
  assert block["activation_quantizer"]["shift"].shape == (16,)


def test_what_the_page_names_is_there():
  for field in methods.Method.__dataclass_fields__:
    assert field in ("name", "binary") or f"`{field}`" in PAGE, field
  for path in re.findall(r"`((?:tests|docs|configs)/[\w./]*)`", PAGE):
    assert (ROOT / path).exists(), path
  for slot in ("weight_quantizer", "activation_quantizer", "output_scale"):
    assert hasattr(nn.BinaryConv, slot) and f"`{slot}`" in PAGE
