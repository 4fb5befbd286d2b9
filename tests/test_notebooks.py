"""The notebooks run from top to bottom, and keep what they show."""

import asyncio
import configparser
import os
import pathlib
import re

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
# By notebook: pictures that it must keep, and what it must print when it runs.
NOTEBOOKS = {
  "comparing_methods": (1, [r"ovsw +[\d.]+ %", "± "]),
  "optax_pipeline": (1, ["'bin_conv' matches none", r"in \[-1\.000,"]),
  "silent_weights": (3, ["bits never flipped", "left alone for 2302 steps"]),
  "training": (
    1,
    [
      # Whenever the signal came, which a busy machine hears later.
      r"(?s)stopped at step (\d+) of.*status 143.*"
      r"resumes  after epoch \d.*step \1\n",
      "4 x cpu",
      "kB",
      "label 2: ",
    ],
  ),
}


def path(name):
  return ROOT / "notebooks" / f"{name}.ipynb"


def outputs(notebook):
  for cell in notebook.cells:
    yield from cell.get("outputs", [])


def printed(notebook):
  """All that the cells printed and showed as text."""
  texts = []
  for output in outputs(notebook):
    shown = output.get("data", {})
    texts += [output.get("text", ""), shown.get("text/plain", "")]
    texts += [shown.get("text/markdown", "")]
  return "\n".join(texts)


def check_quiet(notebook):
  """No cell failed, wrote to stderr or printed a warning."""
  for output in outputs(notebook):
    assert output.output_type != "error", output
    assert output.get("name") != "stderr", output.text
  assert "Warning" not in printed(notebook)


def execute(notebook, directory):
  """Runs a notebook in a kernel of its own, at the size for tests."""
  environment = os.environ | {
    "OVSW_SMOKE": "1",
    "PYTHONPATH": os.pathsep.join(
      [str(ROOT), os.environ.get("PYTHONPATH", "")]
    ),
    "XDG_CACHE_HOME": str(directory),
    # Programs run for a second: compiling them well takes longer.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  }
  client = nbclient.NotebookClient(
    notebook, kernel_name="python3", timeout=300, coalesce_streams=True
  )
  client.resources = {"metadata": {"path": str(directory)}}
  asyncio.run(client.async_execute(env=environment))


def test_these_are_the_notebooks():
  found = {file.stem for file in (ROOT / "notebooks").glob("*")}
  assert found - {".ipynb_checkpoints"} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_and_prints_no_warning(name, tmp_path):
  for link in ("main.py", "configs"):
    (tmp_path / link).symlink_to(ROOT / link)
  notebook = nbformat.read(path(name), as_version=4)
  execute(notebook, tmp_path)
  check_quiet(notebook)
  for pattern in NOTEBOOKS[name][1]:
    assert re.search(pattern, printed(notebook)), pattern


def test_a_cell_that_warns_or_fails_is_seen(tmp_path):
  cells = ["import warnings; warnings.warn('old')", "1 / 0"]
  notebook = nbformat.v4.new_notebook(
    cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
  )
  with pytest.raises(nbclient.exceptions.CellExecutionError):
    execute(notebook, tmp_path)
  del notebook.cells[1]
  with pytest.raises(AssertionError, match="UserWarning: old"):
    check_quiet(notebook)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_committed_is_valid_and_whole(name):
  assert path(name).stat().st_size < 400_000
  notebook = nbformat.read(path(name), as_version=4)
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  # Run once, from top to bottom, and saved.
  assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
  check_quiet(notebook)
  pictures = ["image/png" in o.get("data", {}) for o in outputs(notebook)]
  assert sum(pictures) >= NOTEBOOKS[name][0]
  texts = "".join(cell.source for cell in notebook.cells) + printed(notebook)
  assert not re.search(r"/(tmp|root|home|work)/", texts)
  # The size is chosen in one cell, which readers see.
  assert code[0].source.count("OVSW_SMOKE") == 1
  assert sum(c.source.count("OVSW_SMOKE") for c in code) == 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_colab_opens_this_project(name):
  config = configparser.ConfigParser()
  config.read(ROOT / "setup.cfg")
  url = config["metadata"]["url"]
  repository = url.removeprefix("https://github.com/")
  assert f'repository-code: "{url}"' in (ROOT / "CITATION.cff").read_text()
  first, install, *_ = nbformat.read(path(name), as_version=4).cells
  assert (
    f"https://colab.research.google.com/github/{repository}/blob/main/notebooks"
    f"/{name}.ipynb" in first.source
  )
  assert 'if "google.colab" in sys.modules:\n' in install.source
  assert url in install.source
