"""Writes `docs/api/*.md`, the reference of the public names, from docstrings.

python docs/make_api.py           writes the pages
python docs/make_api.py --check   fails if one is not what it would write

Nothing is imported: signatures and docstrings are read from the source, so
that a page shows them as they stand there.
"""

import ast
import inspect
import pathlib
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE, PAGES = ROOT / "ovsw_jax", ROOT / "docs" / "api"
MODULES = (
  "optax",
  "sign",
  "quantizers",
  "products",
  "nn",
  "models",
  "methods",
  "summary",
  "data",
  "analysis",
  "deploy",
  "interop.torch",
)
_PLACES = {"summary": "_summary", "interop.torch": "interop/torch"}
_SECTION = re.compile(
  r"(Args|Attributes|Returns|Yields|Raises|Examples|References):"
)
_DEFINITIONS = ast.FunctionDef | ast.ClassDef


class Entry(NamedTuple):
  """A public name: where it is defined, and what its docstring says."""

  name: str
  node: ast.stmt
  lines: list[str]  # of the file that defines it
  doc: str


def _source(module: str) -> pathlib.Path:
  """The file of a dotted module below the package, or of a package."""
  path = PACKAGE / module.removeprefix("ovsw_jax.").replace(".", "/")
  return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _targets(node: ast.stmt) -> list[str]:
  if isinstance(node, ast.Assign):
    return [t.id for t in node.targets if isinstance(t, ast.Name)]
  if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
    return [node.target.id]
  return [node.name] if isinstance(node, _DEFINITIONS) else []


def _entry(path: pathlib.Path, name: str) -> Entry:
  """The definition of a name in a file, followed through its imports."""
  source = path.read_text()
  body = ast.parse(source).body
  for place, node in enumerate(body):
    if isinstance(node, ast.ImportFrom):
      if name in [alias.asname or alias.name for alias in node.names]:
        return _entry(_source(node.module or ""), name)
    elif name in _targets(node):
      if isinstance(node, _DEFINITIONS):
        doc = ast.get_docstring(node) or ""
      else:
        doc = _string(body[place + 1]) if place + 1 < len(body) else ""
      return Entry(name, node, source.splitlines(), doc)
  raise ValueError(f"{path} defines no {name!r}")


def _string(node: ast.stmt) -> str:
  """What a statement says that is a string alone."""
  if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
    return ""
  value = node.value.value
  return inspect.cleandoc(value) if isinstance(value, str) else ""


def public_names(module: str) -> list[str]:
  """The names that a module of the package offers, in alphabetical order."""
  names = set()
  for node in ast.parse(_source(_PLACES.get(module, module)).read_text()).body:
    if "__all__" in _targets(node):
      return sorted(ast.literal_eval(node.value), key=_alphabetical)
    if isinstance(node, ast.ImportFrom):
      names |= {a.asname for a in node.names if a.asname == a.name}
    names |= {name for name in _targets(node) if not name.startswith("_")}
  return sorted(names - {None}, key=_alphabetical)


def _alphabetical(name: str) -> tuple[str, str]:
  return name.lower(), name


def entries(module: str) -> list[Entry]:
  """What a module of the package offers."""
  path = _source(_PLACES.get(module, module))
  return [_entry(path, name) for name in public_names(module)]


def _inline(text: str) -> str:
  """Inline markup of reStructuredText, which docstrings have, as Markdown."""
  text = re.sub(r"``(.+?)``", r"`\1`", text, flags=re.S)
  text = re.sub(r":(?:func|class|mod|meth):`~?([^`]+)`", r"`\1`", text)
  text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
  text = re.sub(r"^\.\. note:: ", "**Note.** ", text)
  link = lambda m: f"[{' '.join(m[1].split())}]({m[2]})"
  return re.sub(r"`([^`<]+?)\s*<(https?://[^>]+)>`_+", link, text, flags=re.S)


def _paragraphs(text: str) -> str:
  """Running text; tables and blocks after a double colon are kept as code."""
  parts: list[str] = []
  language, block = "", ""  # of the code that an indented paragraph is
  for part in re.split(r"\n\s*\n", text.strip("\n")):
    if language and part.startswith(" "):
      if block:
        parts.pop()  # it goes on after an empty line
      block = f"{block}\n\n{textwrap.dedent(part)}".strip("\n")
      parts.append(f"```{language}\n{block}\n```")
      continue
    block = ""
    if part == ".. math::":
      language = "math"
    elif re.match(r"=+ +=+", part):
      parts.append(f"```text\n{part}\n```")
    else:
      language = "python" if part.endswith("::") else ""
      parts.append(_inline(part[:-1] if language else part))
  return "\n\n".join(parts)


def _items(text: str) -> str:
  """`name: what it is`, one a line, as a list."""
  lines = []
  for line in textwrap.dedent(text).strip("\n").splitlines():
    named = re.match(r"(\*{0,2}[\w.]+): (.*)|(\*{0,2}[\w.]+):$", line)
    if named:
      lines.append(f"- `{named[1] or named[3]}`: {named[2] or ''}".rstrip())
    else:
      # Raises may be a sentence without a name.
      lines.append(line if line.startswith(" ") or not line else f"  {line}")
  return _inline("\n".join(lines))


def _examples(text: str) -> str:
  """Text between the examples, and these as code."""
  parts: list[str] = []
  for part in re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n")):
    shown = re.sub(r" *# doctest: \+\w+", "", part)
    parts.append(
      f"```python\n{shown}\n```" if part.startswith(">>>") else _inline(part)
    )
  return "\n\n".join(parts)


def markdown(doc: str) -> str:
  """A docstring in Google's form as Markdown."""
  text: list[str] = []
  sections: list[tuple[str, list[str]]] = [("", text)]
  for line in doc.splitlines():
    if _SECTION.fullmatch(line):
      sections.append((line[:-1], []))
    elif line and not line.startswith(" ") and sections[-1][0]:
      sections.append(("", [line]))
    else:
      sections[-1][1].append(line)
  parts = []
  for title, lines in sections:
    body = "\n".join(lines)
    if not title:
      parts.append(_paragraphs(body))
    elif title == "Examples":
      parts.append(f"**{title}**\n\n{_examples(body)}")
    elif title in ("Args", "Attributes", "Raises"):
      parts.append(f"**{title}**\n\n{_items(body)}")
    else:
      parts.append(f"**{title}**\n\n{_paragraphs(textwrap.dedent(body))}")
  return "\n\n".join(part for part in parts if part)


def signature(entry: Entry) -> str:
  """How a name is defined, without what it does, as in the source."""
  node, lines = entry.node, entry.lines
  if isinstance(node, ast.FunctionDef):
    head = "\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])
    return textwrap.dedent(head).rstrip().removesuffix(":")
  if isinstance(node, ast.ClassDef):
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    head = lines[node.lineno - 1 : node.body[0].lineno - 1]
    if not fields:
      return "\n".join(head).removesuffix(":")
    first = node.body[0].end_lineno or 0  # of the docstring
    last = fields[-1].end_lineno or 0
    return "\n".join([*head, *lines[first:last]])
  value = "\n".join(lines[node.lineno - 1 : node.end_lineno])
  return textwrap.dedent(value)


def _methods(entry: Entry) -> Iterator[Entry]:
  for node in entry.node.body if isinstance(entry.node, ast.ClassDef) else ():
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
      doc = ast.get_docstring(node) or ""
      yield Entry(f"{entry.name}.{node.name}", node, entry.lines, doc)


def section(entry: Entry, level: int = 2) -> str:
  """A name's section of its page."""
  code = re.sub(r"\n\s*\n", "\n", signature(entry))
  parts = [f"{'#' * level} `{entry.name}`", f"```python\n{code}\n```"]
  if entry.doc:
    parts.append(markdown(entry.doc))
  parts += [section(method, level + 1) for method in _methods(entry)]
  return "\n\n".join(parts)


def page(module: str) -> str:
  """The page of a module."""
  source = _source(_PLACES.get(module, module)).read_text()
  found = entries(module)
  seen: dict[str, int] = {}
  links = ", ".join(f"[`{e.name}`](#{anchor(e.name, seen)})" for e in found)
  return (
    "\n\n".join(
      [
        f"# `ovsw_jax.{module}`",
        "<!-- Written by docs/make_api.py from the docstrings; edit those. -->",
        markdown(ast.get_docstring(ast.parse(source)) or ""),
        textwrap.fill(
          links, 79, break_long_words=False, break_on_hyphens=False
        ),
        *map(section, found),
      ]
    ).rstrip()
    + "\n"
  )


def anchor(heading: str, seen: dict[str, int]) -> str:
  """The name by which a link finds a heading on GitHub.

  Args:
    heading: its text.
    seen: how often each name was taken by headings before, which is counted on.
  """
  name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
  seen[name] = seen.get(name, -1) + 1
  return f"{name}-{seen[name]}" if seen[name] else name


def index() -> str:
  """The page that lists the others."""
  lines = [
    "# API reference",
    "",
    "<!-- Written by docs/make_api.py from the docstrings; edit those. -->",
    "",
    "After `import ovsw_jax as ovsw`, every name is `ovsw.<module>.<name>`;",
    "`data` and `analysis` are imported by themselves, as in",
    "`from ovsw_jax import data`, and `ovsw.summary` is a function.",
    "",
    "| module | what it holds |",
    "|---|---|",
  ]
  for module in MODULES:
    source = _source(_PLACES.get(module, module)).read_text()
    first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
    says = _inline(" ".join(first.split()))
    lines.append(f"| [`{module}`]({module}.md) | {says} |")
  return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
  """All pages by the name of their file."""
  return {"README.md": index()} | {f"{m}.md": page(m) for m in MODULES}


def main(argv: list[str]) -> None:
  PAGES.mkdir(exist_ok=True)
  stale = []
  for name, text in pages().items():
    path = PAGES / name
    if not path.exists() or path.read_text() != text:
      stale.append(name)
      if "--check" not in argv:
        path.write_text(text)
  if "--check" in argv and stale:
    sys.exit(f"not current: {', '.join(stale)}; run python docs/make_api.py")
  print(f"{len(stale)} pages written" if stale else "all pages are current")


if __name__ == "__main__":
  main(sys.argv[1:])
