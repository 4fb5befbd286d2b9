"""The pages on how to do things: their code runs, their commands are right."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from ovsw_jax import methods, models
from ovsw_jax.training import settings

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(page, language):
  text = (ROOT / "docs" / page).read_text()
  return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def run(page, count):
  """Runs a page's Python blocks one after the other; their names at the end."""
  names: dict = {"__name__": page}
  found = blocks(page, "python")
  assert len(found) == count
  for block in found:
    exec(compile(block, page, "exec"), names)
  return names


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(ROOT)
  return tmp_path


def test_getting_started():
  config = run("getting_started.md", 1)["get_config"]("irnet,ovsw")
  assert config.train.epochs == 40 and config.method == "irnet+ovsw"


def test_own_model(directory, capsys):
  names = run("own_model.md", 3)
  assert names["losses"][-1] < 0.9 * names["losses"][0]
  assert re.search(
    r"loss 2.* -> .*\n[\d.]+% never flipped", capsys.readouterr().out
  )
  # The last block is the file that the page's command names.
  (directory / "my_network.py").write_text(blocks("own_model.md", "python")[2])
  method = methods.make("irnet+ovsw")
  made = models.make(
    "my_network.py", num_classes=10, conv=method.conv, dtype=jnp.float32
  )
  shapes = jax.eval_shape(
    made.init, jax.random.key(0), jnp.ones((1, 16, 16, 1))
  )
  assert "latent" in shapes["params"]["layer2_block0"]["conv1"]
  # The network of the first block is called as the trainer calls its own.
  net, progress = names["Net"](conv=method.conv), jnp.float32(0.5)
  variables = {"params": names["params"], "batch_stats": names["batch_stats"]}
  logits = jax.eval_shape(
    lambda x: net.apply(variables, x, train=False, progress=progress),
    jnp.ones((2, 16, 16, 1)),
  )
  assert logits.shape == (2, 10)


def test_own_data():
  run("own_data.md", 3)


def test_fields_that_may_change_are_those_that_may():
  text = (ROOT / "docs/resume_and_hosts.md").read_text()
  told = re.search(r"may change\nbetween two sessions: (.*?)\. ", text, re.S)[1]
  named = set(re.findall(r"`([\w.]+)`", told))
  assert named == settings.FREE_TO_CHANGE - {"init_from", "loss.teacher"}


@pytest.mark.parametrize(
  "page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name
)
def test_commands_name_configs_and_fields_that_exist(page):
  from configs import digits

  text = page.read_text()
  for path in re.findall(r"--config=(configs/\w+\.py)", text):
    assert (ROOT / path).exists(), path
  known = set(settings.flatten(digits.get_config().to_dict()))
  for field in re.findall(r"--config\.([\w.]+)=", text):
    assert field in known, field
