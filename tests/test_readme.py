"""What the README says runs, and what it names is there."""

import pathlib
import re

import jax
import optax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXTS = ("README.md", "CONTRIBUTING.md")


def test_python_blocks_run(monkeypatch):
  monkeypatch.syspath_prepend(ROOT)
  blocks = re.findall(
    r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
  )
  assert len(blocks) == 4
  names: dict = {}
  for block in blocks:
    exec(compile(block, "README.md", "exec"), names)
  # The first block's chain takes a step and tells what the README reads.
  params = {"conv": {"latent": jax.numpy.ones((3, 3, 2, 4))}}
  tx = names["ovsw"].optax.ovsw()
  _, state = tx.update(params, tx.init(params), params)
  assert optax.tree.get(state, "silent_fraction") == 1
  config = names["get_config"](":".strip(":"))
  assert config.train.epochs == 120 and config.method_args.delta == 0.02


@pytest.mark.parametrize("text", TEXTS)
def test_files_that_are_named_exist(text):
  words = (ROOT / text).read_text()
  paths = re.findall(
    r"\b((?:configs|benchmarks|tests|docs|results)/[\w./]*\w)", words
  )
  assert paths
  for path in paths:
    assert (ROOT / path).exists(), path
