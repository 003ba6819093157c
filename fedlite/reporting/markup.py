"""The frame of the report page: HTML from escaped text, a style sheet, and no script."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from fedlite.reporting import wording

_CSS = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5a646e; --line: #d9dee3;
  --ground: #ffffff; --panel: #f4f6f8; --accent: #0072b2; --warn: #a33b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --line: #3a424a;
  --ground: #15191d; --panel: #1f252b; --accent: #56b4e9; --warn: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 54rem; background: var(--ground);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.15rem; border-bottom: 1px solid var(--line);
  padding-bottom: .25rem; }
p { margin: .6rem 0; overflow-wrap: anywhere; }
.soft, caption, figcaption { color: var(--soft); font-size: .9rem; }
.verdict { margin: 1.25rem 0; padding: .9rem 1.1rem; background: var(--panel);
  border-left: 4px solid var(--accent); font-size: 1.05rem; }
.narrow { display: none; }
.warn { color: var(--warn); font-weight: 600; }
dl.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: .75rem; margin: 1.25rem 0; }
dl.cards div { padding: .6rem .8rem; border: 1px solid var(--line); border-radius: 6px; }
dl.cards dt { color: var(--soft); font-size: .85rem; }
dl.cards dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; min-width: 60%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .25rem 0; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 600; font-size: .88rem; vertical-align: bottom;
  white-space: normal; }
tbody th { font-weight: 400; }
tr.total th, tr.total td { font-weight: 600; }
table.facts { min-width: 0; }
table.facts th { color: var(--soft); padding-right: 1.5rem; vertical-align: top; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.home { outline: 2px solid var(--accent); outline-offset: -2px; }
table.matrix td { padding: .3rem .8rem; text-align: center; }
table.matrix thead th { padding: .3rem .8rem; text-align: center; }
figure { margin: 1rem 0; }
img { display: block; width: 100%; min-width: 34rem; max-width: 800px; height: auto;
  background: #fff; border-radius: 6px; padding: 6px; }
@media (max-width: 34rem) { body { padding: 1.25rem .9rem 3rem; } table { min-width: 100%; }
  .narrow { display: inline; } th, td { padding-right: .6rem; } dl.cards dd { font-size: 1.1rem; } }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --ground: #fff; --panel: #fff;
  --accent: #0072b2; --warn: #a33b00; } body { padding: 0; max-width: none; font-size: 11pt; }
  img { min-width: 0; } th, td { white-space: normal; }
  figure, table, dl.cards { break-inside: avoid; } h2 { break-after: avoid; } }
"""

# The policy makes the promise checkable by the browser: nothing is fetched, nothing is run.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$css</style>
</head>
<body>
$body
</body>
</html>
""")


def text(value: object) -> str:
    """Return a value as safe HTML text: no markup, no control or direction characters."""
    return html.escape(wording.plain(value), quote=True)


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole document; `title` is plain text, `parts` are finished HTML."""
    return _PAGE.substitute(title=text(title), css=_CSS, body="\n".join(p for p in parts if p))


def heading(words: str) -> str:
    """Return a section's heading."""
    return f"<h2>{text(words)}</h2>"


def paragraph(words: str, style: str = "") -> str:
    """Return a paragraph of plain text, in one of the style sheet's classes if given."""
    return f'<p class="{text(style)}">{text(words)}</p>' if style else f"<p>{text(words)}</p>"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    total: Sequence[object] = (),
    caption: str = "",
) -> str:
    """Return a table whose first column names the row; `total` is a last, heavier row."""
    lines = [f"<tr>{_cells(row)}</tr>" for row in rows]
    if total:
        lines.append(f'<tr class="total">{_cells(total)}</tr>')
    named = f"<caption>{text(caption)}</caption>" if caption else ""
    columns = "".join(f'<th scope="col">{text(words)}</th>' for words in head)
    return (
        f'<div class="wide"><table>{named}<thead><tr>{columns}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Return a table of names and values; a row whose value is None or empty is left out."""
    lines = [
        f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>'
        for name, value in rows
        if value is not None and value != ""
    ]
    return f'<div class="wide"><table class="facts"><tbody>{"".join(lines)}</tbody></table></div>'


def matrix(
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: dict[tuple[str, str], float],
    caption: str,
) -> str:
    """Return a table of figures in [0, 1], shaded by size, with each row's own column outlined."""
    known = values.values()
    low, high = min(known, default=0.0), max(known, default=1.0)
    lines = []
    for row in rows:
        cells = [f'<th scope="row">{text(row)}</th>']
        for column in columns:
            value = values.get((row, column))
            depth = 0.0 if value is None else 0.45 * (value - low) / max(high - low, 1e-9)
            home = ' class="home"' if row == column else ""
            cells.append(
                f'<td{home} style="background: rgba(86, 180, 233, {depth:.2f})">'
                f"{text(wording.score(value))}</td>"
            )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{text(words)}</th>' for words in (corner, *columns))
    return (
        f'<div class="wide"><table class="matrix"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def cards(rows: Iterable[tuple[str, str]]) -> str:
    """Return the few figures to see first."""
    inner = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in rows)
    return f'<dl class="cards">{inner}</dl>'


def figure(path: Path, alternative: str, caption: str) -> str:
    """Return an image, carried inside the page as base64; nothing when the file is not there."""
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><div class="wide"><img alt="{text(alternative)}" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{text(caption)} "
        '<span class="narrow">Scroll it sideways for the names.</span></figcaption></figure>'
    )


def _cells(row: Sequence[object]) -> str:
    first = f'<th scope="row">{text(row[0])}</th>' if row else ""
    return first + "".join(f"<td>{text(value)}</td>" for value in row[1:])


def integer(value: object) -> str:
    """Return a whole number with its thousands apart; a dash when there is none."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else wording.ABSENT


def general(value: object) -> str | None:
    """Return a number in its shortest form, or None when there is none."""
    return f"{value:g}" if isinstance(value, int | float) else None
