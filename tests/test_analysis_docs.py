"""What the pages on concepts and questions say runs, and what they name is."""

import contextlib
import io
import pathlib
import re

import pytest

import ovsw_jax as ovsw
from ovsw_jax import analysis

ROOT = pathlib.Path(__file__).parents[1]
TEXTS = ("docs/concepts.md", "docs/faq.md")


@pytest.mark.parametrize("text", TEXTS)
def test_python_blocks_run_and_say_what_their_comments_say(text):
  blocks = re.findall(r"```python\n(.*?)```", (ROOT / text).read_text(), re.S)
  assert len(blocks) >= 4
  names: dict = {}
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    for block in blocks:
      exec(compile(block, text, "exec"), names)
  if text == "docs/faq.md":
    assert names["bits"].shape == (3, 3, 16, 16)
    assert names["scale"].shape == (16,) and bool(
      (abs(names["bits"]) == 1).all()
    )
    assert round(names["table"].compression_ratio, 1) == 21.8
    assert names["table"].memory_bytes == 49_768
    assert names["table"].float_memory_bytes == 1_085_416
  else:
    assert "40,551,040" in printed.getvalue()
    statistics = analysis.layer_statistics(names["weights"])
    assert statistics.never_flipped == 0.5


@pytest.mark.parametrize("text", TEXTS)
def test_names_of_the_library_exist(text):
  words = (ROOT / text).read_text()
  dotted = set(re.findall(r"\bovsw((?:\.[a-z_]\w*)+)", words))
  assert len(dotted) > 5
  for name in dotted:
    found = ovsw
    for part in name[1:].split("."):
      found = getattr(found, part)


def test_files_that_are_named_exist():
  for text in TEXTS:
    words = (ROOT / text).read_text()
    for path in re.findall(r"`((?:docs|benchmarks)/[\w./]*\w)`", words):
      assert (ROOT / path).exists(), path
