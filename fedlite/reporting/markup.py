"""Pages from templates: every value is escaped, no script, and nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fedlite.reporting import wording

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; `total` is a last, heavier row."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    total: Sequence[object] = ()
    caption: str = ""


@dataclass(frozen=True)
class Cell:
    """A figure in a matrix: its text, its shade from 0 to 1, whether it is the row's own column."""

    text: str
    depth: float
    home: bool


@dataclass(frozen=True)
class Matrix:
    """A table of shaded figures: `rows` are names with their cells."""

    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    caption: str


@dataclass(frozen=True)
class Figure:
    """An image as a `data:` address; none is shown when `image` is empty."""

    image: str
    alternative: str
    caption: str


def render(template: str, **values: object) -> str:
    """Return the page that a template of this package makes of `values`.

    Every value is escaped, and loses its control and direction characters. A value that the
    template asks for and is not given raises jinja2.UndefinedError: it is a mistake of ours.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )


def _plain(value: object) -> object:
    # What is markup by now was made by our own templates, from values that were plain.
    return value if hasattr(value, "__html__") else wording.plain(value)


def figure(path: Path, alternative: str, caption: str) -> Figure:
    """Return an image of the page, carried inside it as base64; empty when there is no file."""
    data = base64.b64encode(path.read_bytes()).decode("ascii") if path.is_file() else ""
    return Figure(f"data:image/png;base64,{data}" if data else "", alternative, caption)


def matrix(
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: dict[tuple[str, str], float],
    caption: str,
) -> Matrix:
    """Return a table of figures in [0, 1] by (row, column), shaded by size."""
    known = values.values()
    low, high = min(known, default=0.0), max(known, default=1.0)

    def cell(row: str, column: str) -> Cell:
        value = values.get((row, column))
        depth = 0.0 if value is None else 0.45 * (value - low) / max(high - low, 1e-9)
        return Cell(wording.score(value), round(depth, 2), row == column)

    shaded = [(row, [cell(row, column) for column in columns]) for row in rows]
    return Matrix((corner, *columns), shaded, caption)


def integer(value: object) -> str:
    """Return a whole number with its thousands apart; a dash when there is none."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else wording.ABSENT


def general(value: object) -> str | None:
    """Return a number in its shortest form, or None when there is none."""
    return f"{value:g}" if isinstance(value, int | float) else None
