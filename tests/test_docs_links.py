"""Links between pages of the documentation lead somewhere."""

import pathlib
import re
import sys

import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import make_api  # noqa: E402

PAGES = [
  *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
  *sorted((ROOT / "docs").rglob("*.md")),
  *sorted((ROOT / "benchmarks").glob("*.md")),
  *sorted((ROOT / "notebooks").glob("*.ipynb")),
]


def text(page):
  """The prose of a page or notebook, without its code."""
  words = page.read_text()
  if page.suffix == ".ipynb":
    cells = nbformat.reads(words, as_version=4).cells
    words = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
  return re.sub(r"^```.*?^```", "", words, flags=re.S | re.M)


def anchors(page):
  seen: dict[str, int] = {}
  headings = re.findall(r"^#+ (.*)$", text(page), re.M)
  return {make_api.anchor(heading, seen) for heading in headings}


def links(page):
  found = re.findall(r"\]\(([^)\s]+)\)", text(page))
  return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
  for link in links(page):
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    assert target.exists(), f"{link}: there is no {target}"
    assert target.is_relative_to(ROOT), link
    if anchor:
      assert anchor in anchors(target), f"{link}: no heading of that name"


def test_every_page_is_reached_from_the_index():
  reached, ahead = set(), [ROOT / "docs/README.md"]
  while ahead:
    page = ahead.pop()
    if page in reached:
      continue
    reached.add(page)
    for link in links(page):
      target = (page.parent / link.partition("#")[0]).resolve()
      if target.suffix == ".md" and target.is_relative_to(ROOT / "docs"):
        ahead.append(target)
  assert reached >= set((ROOT / "docs").rglob("*.md"))
  assert "(docs/README.md)" in (ROOT / "README.md").read_text()
