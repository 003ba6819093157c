"""Columns of a CSV file as their text: what tells records apart and is no feature."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path


def header(path: Path) -> list[str]:
    """Return the names of a file's columns; raises ValueError when it cannot be read."""
    names = next(_rows(path), [])
    return [name.strip() for name in names]


def columns_of(path: Path, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return these columns of a file, a text a record, as the source `csv` counts its records.

    Raises ValueError when a column is not there, or a row is too short.
    """
    rows = _rows(path)
    found = [name.strip() for name in next(rows, [])]
    for name in names:
        if found.count(name) != 1:
            raise ValueError(
                f"{path}: must have one column {name!r}, has {', '.join(found) or 'none'}; name "
                "one of these"
            )
    places = [found.index(name) for name in names]
    kept: list[tuple[str, ...]] = []
    for number, row in enumerate(rows, 2):
        if row and len(row) <= max(places, default=-1):
            raise ValueError(f"{path}: record {number - 1}: has {len(row)} cells; add commas")
        if row:
            kept.append(tuple(row[place].strip() for place in places))
    return {name: tuple(row[at] for row in kept) for at, name in enumerate(names)}


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the cells of each line, which is read by itself, as the source `csv` reads it."""
    try:
        with path.expanduser().open(encoding="utf-8-sig", newline="") as file:
            for line in file:
                text = line.rstrip("\r\n")
                yield next(csv.reader([text], strict=True), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{path}: must be a readable CSV file in UTF-8 ({why}); correct the path or the file"
        ) from error
