"""The API reference: current, complete, and with examples that run."""

import ast
import doctest
import importlib
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import make_api  # noqa: E402

# What functions return or take and nobody builds: fields and their comments
# say all of them, the functions have the examples.
RESULTS = {
  *("AGSState", "SADState", "SignFlipsState"),
  *("CompactSADState", "CompactSignFlipsState"),
  *("LayerSummary", "Summary", "LayerStatistics"),
  *("Batch", "Examples", "Streamed"),
}
ENTRIES = [(m, e) for m in make_api.MODULES for e in make_api.entries(m)]


def whole(entry):
  """The docstrings of a name and of its methods."""
  methods = make_api._methods(entry)
  return "\n".join([entry.doc, *(method.doc for method in methods)])


def test_pages_are_current():
  written = {p.name: p.read_text() for p in (ROOT / "docs/api").glob("*.md")}
  stale = [n for n, text in make_api.pages().items() if text != written.get(n)]
  assert not stale, "run python docs/make_api.py"
  assert set(written) == set(make_api.pages())


def test_every_public_part_has_a_page():
  import ovsw_jax

  parts = [
    *(name for name in dir(ovsw_jax) if not name.startswith("_")),
    *("data", "analysis"),
  ]
  assert {m.split(".")[0] for m in make_api.MODULES} == (
    set(parts) - {"importlib", "typing", "training", "commands"}
  )


@pytest.mark.parametrize("module", make_api.MODULES)
def test_every_public_name_has_an_entry(module):
  name = make_api._PLACES.get(module, module).replace("/", ".")
  found = vars(importlib.import_module(f"ovsw_jax.{name}"))
  offered = found.get("__all__") or [
    n
    for n, value in found.items()
    if not n.startswith("_")
    and getattr(value, "__module__", "ovsw_jax").startswith("ovsw_jax")
    and type(value).__name__ != "module"
  ]
  assert set(offered) - {"importlib"} <= set(make_api.public_names(module))


@pytest.mark.parametrize(
  "entry", [pytest.param(e, id=f"{m}.{e.name}") for m, e in ENTRIES]
)
def test_an_entry_says_what_one_has_to_know(entry):
  assert entry.doc, "no docstring"
  builds = isinstance(entry.node, make_api._DEFINITIONS)
  if builds and entry.name not in RESULTS:
    assert ">>>" in whole(entry), "no example"
  if isinstance(entry.node, ast.FunctionDef):
    node = entry.node
    names = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
    if "Args:" in entry.doc:
      for name in names:
        assert f"  {name}:" in entry.doc, f"{name} is not explained"


def test_values_have_examples_that_run():
  """Docstrings after assignments, which pytest does not find."""
  parser, ran = doctest.DocTestParser(), 0
  for module, entry in ENTRIES:
    if not isinstance(entry.node, make_api._DEFINITIONS):
      test = parser.get_doctest(entry.doc, {}, entry.name, module, 0)
      ran += doctest.DocTestRunner(verbose=False).run(test).attempted
      assert test.examples or entry.name[0].isupper(), entry.name
  assert ran > 20


def test_docstrings_become_markdown():
  doc = """Sums ``x`` of :func:`f`, as `Paper <https://a.b>`_ has it::

    y = 1

  Args:
    x: shape (n,),
      float.

  Examples:
    >>> 1 + 1  # doctest: +SKIP
    2
  """
  made = make_api.markdown(make_api.inspect.cleandoc(doc))
  assert made == (
    "Sums `x` of `f`, as [Paper](https://a.b) has it:\n\n"
    "```python\ny = 1\n```\n\n**Args**\n\n- `x`: shape (n,),\n  float.\n\n"
    "**Examples**\n\n```python\n>>> 1 + 1\n2\n```"
  )
