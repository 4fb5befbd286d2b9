"""The report as one HTML page: no script, no network, light and dark."""

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #262626;
  --soft: #5c5c5c; --line: #d9d9d9; --note: #fff4e0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --ink: #e4e4e4; --soft: #a5abb3; --line: #383e45;
    --note: #3a2f18; }
}
body { background: var(--page); color: var(--ink); margin: 2rem auto;
  max-width: 1040px; padding: 0 1rem; line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
.soft, figcaption { color: var(--soft); }
figure { margin: 1rem 0; }
figcaption { font-size: .9rem; }
img { max-width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, .text td { text-align: left; }
.text td:nth-child(2), .text td:nth-child(6), .text td:last-child {
  white-space: normal;
  overflow-wrap: anywhere; }
.text th { text-align: left; white-space: nowrap; }
tr.total td { font-weight: 600; border-top: 2px solid var(--ink); }
code { font-family: ui-monospace, Menlo, Consolas, monospace; }
.note { background: var(--note); padding: .6rem .9rem; border-radius: 4px; }
"""


class Chart(NamedTuple):
  """A picture, once for light and once for dark pages, and what it shows."""

  name: str  # of the PNG files
  light: bytes
  dark: bytes
  caption: str


class Table(NamedTuple):
  """Rows of text under a header; `text` sets prose instead of numbers."""

  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  text: bool = False
  total: bool = False  # whether the last row is one


def heading(words: str, level: int = 2) -> str:
  return f"<h{level}>{html.escape(words)}</h{level}>"


def paragraph(words: str, kind: str = "") -> str:
  name = f' class="{kind}"' if kind else ""
  return f"<p{name}>{html.escape(words)}</p>"


def picture(chart: Chart) -> str:
  """A chart inside of the page, that of the reader's colour scheme."""
  light, dark = (
    f"data:image/png;base64,{base64.b64encode(data).decode()}"
    for data in (chart.light, chart.dark)
  )
  caption = html.escape(chart.caption)
  return (
    "<figure><picture>"
    f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    f'<img src="{light}" alt="{caption.split(".")[0]}"></picture>'
    f"<figcaption>{caption}</figcaption></figure>"
  )


def table(content: Table) -> str:
  def cells(row, tag):
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)

  last = len(content.rows) - 1
  rows = "".join(
    f'<tr class="total">{cells(row, "td")}</tr>'
    if content.total and place == last
    else f"<tr>{cells(row, 'td')}</tr>"
    for place, row in enumerate(content.rows)
  )
  kind = ' class="text"' if content.text else ""
  return (
    f'<div class="wide"><table{kind}><thead><tr>'
    f"{cells(content.header, 'th')}</tr></thead>"
    f"<tbody>{rows}</tbody></table></div>"
  )


def folded(words: str, content: str) -> str:
  """What a click on `words` unfolds."""
  return f"<details><summary>{html.escape(words)}</summary>{content}</details>"


def page(title: str, parts: Sequence[str]) -> str:
  """A whole document of parts made by the functions above."""
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
    f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
  )
