"""Networks of a user's own file or module, by name."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from flax import linen

from ovsw_jax import methods, models
from ovsw_jax.training import experiment, networks, settings

FILE = """
import ovsw_jax as ovsw

def network(num_classes, conv, activation="hardtanh", dtype="float32"):
  return ovsw.models.ResNet(
    stage_sizes=(1,), widths=(8,), num_classes=num_classes, conv=conv,
    activation=activation, dtype=dtype,
  )
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
  (tmp_path / "own_network.py").write_text(FILE)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[1])
  return tmp_path


@pytest.mark.parametrize("name", ("own_network.py", "nets.own_network"))
def test_a_file_and_a_module_are_networks(directory, name):
  (directory / "nets").mkdir()
  (directory / "nets" / "own_network.py").write_text(FILE)
  made = models.make(name, num_classes=7, conv=methods.irnet().conv, dtype=None)
  shape = jax.eval_shape(
    lambda x: made.init_with_output(jax.random.key(0), x)[0],
    jnp.ones((2, 8, 8, 1)),
  )
  assert shape.shape == (2, 7)


def test_the_trainer_takes_it_with_any_method(directory):
  from configs import digits

  config = digits.get_config("reactnet,ovsw,smoke")
  config.model.name = "own_network.py"
  config.mesh.data = 1
  settings.check(config)
  run = experiment.build(config)
  state = jax.eval_shape(run.initial_state)
  assert set(state.params["layer1_block0"]) >= {"conv1", "activation1"}
  network = networks.network(config, methods.reactnet(), 3)
  assert isinstance(network, linen.Module) and network.num_classes == 3


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("x = 1", "model.*defines no function `network`"),
    ("def network(num_classes, conv): return 7", "returned 7, which is no"),
    ("def network(classes): pass", "no option 'num_classes'.*takes classes"),
    ("def network(num_classes): pass", "no option 'conv'.*takes num_classes"),
  ],
)
def test_files_that_are_no_networks(tmp_path, text, message):
  path = tmp_path / "wrong.py"
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    models.make(str(path), num_classes=2, conv=methods.vanilla().conv)


def test_names_that_are_nothing():
  with pytest.raises(ValueError, match=r"'resnet19'.*file \('path/my_netw"):
    models.make("resnet19", num_classes=2)
  with pytest.raises(ValueError, match=r"model 'no\.py': there is no file"):
    models.make("no.py", num_classes=2)
  with pytest.raises(ValueError, match="no module 'no_such_package'"):
    models.make("no_such_package.network", num_classes=2)
