"""A round as one flat row of numbers: what tables, trackers and pandas take."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from fedlite.reporting.record import RoundRecord

Row = dict[str, int | float | None]
_SCORES = ("accuracy", "auc", "scores")


def row_of(record: RoundRecord) -> Row:
    """Return a round's figures by name: scores as `accuracy.deep`, lists of sites as their length.

    None where there is no figure. A score that was not measured in this round has no entry.

    >>> row = row_of(RoundRecord(1, 4, missing=["a"], accuracy={"deep": 0.9}))
    >>> row["round"], row["missing"], row["accuracy.deep"], row["epsilon"]
    (1, 1, 0.9, None)
    """
    row: Row = {}
    for known in fields(record):
        if known.name not in _SCORES:
            value: Any = getattr(record, known.name)
            row[known.name] = len(value) if isinstance(value, list | dict) else value
    for name, figures in record.measured.items():
        row |= {f"{name}.{branch}": figure for branch, figure in figures.items()}
    return row


def columns_of(rows: list[Row]) -> list[str]:
    """Return the names in any of the rows, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))
