"""One cell of a table: what a number, a label and an owner may look like."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from fedlite.data.hints import near_name

SITE_COLUMN = "site"
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FLOAT32_MAX = float(np.finfo(np.float32).max)
_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")
_WHOLE = re.compile(r"(-?[0-9]+)(\.0+)?")
_LONGEST = 200
# What programs write where nothing is.
_NOTHING = ("", "nan", "na", "n/a", "#n/a", "<na>", "nat", "null", "none")


class Wrong(ValueError):
    """One place in a file: `unit` says what a record of it is, a `line` or a `row`.

    Line 1 is the header, also of a file that has none: its rows are counted from 1.
    """

    unit = "line"

    def __str__(self) -> str:
        """Return file, place, rule, value and mend."""
        path, line, column, rule, value, mend = self.args
        place = f", line {line}" if self.unit == "line" else f", row {line - 1}" * (line > 1)
        return f"{path}{place}, column {column!r}: {rule}, got {value!r}; {mend}"


def wrong(path: str, line: int, column: str, rule: str, value: object, mend: str) -> ValueError:
    """Return the error of one place in a file."""
    return Wrong(path, line, column, rule, value, mend)


def in_unit(error: ValueError, unit: str) -> ValueError:
    """Return the error, which counts a file's records in this unit."""
    if isinstance(error, Wrong):
        error.unit = unit
    return error


@contextmanager
def counted_in(unit: str) -> Iterator[None]:
    """Let the errors of a file count its records in this unit."""
    try:
        yield
    except Wrong as error:
        in_unit(error, unit)
        raise


def number(text: str) -> float | None:
    """Return the number that a cell holds, finite in float32; None if it holds none.

    Only ASCII digits and no underscores: Python would read `1_0` as 10.

    >>> number("2e1"), number("1_0"), number("nan")
    (20.0, None, None)
    """
    if "_" in text or not text.isascii():
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= FLOAT32_MAX else None


def decimal_comma(text: str) -> bool:
    """Whether a cell holds a number with a decimal comma, which is none here.

    >>> decimal_comma("-0,126"), decimal_comma("0.126"), decimal_comma("a,1")
    (True, False, False)
    """
    return _COMMA.fullmatch(text) is not None


def label(text: str) -> str:
    """Return a label, which is text; only `1.0` and `1` are the same one.

    >>> label("1.0"), label("01"), label("2E1"), label("900000000000000003")
    ('1', '01', '2E1', '900000000000000003')
    """
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def no_label(text: str) -> tuple[str, str] | None:
    """Return the rule and the mend of a cell that hardly holds a label, unless one is listed so."""
    if text.lower() in _NOTHING:
        mend = "fill in the label, remove the row, or list the label in data.labels"
        return "a label must be present", mend
    if len(text) > _LONGEST:
        return f"a label has at most {_LONGEST} characters", "choose another target"
    try:
        fraction = not float(text).is_integer()
    except ValueError:
        return None
    if fraction and not _WHOLE.fullmatch(text):
        rule = "a numeric label must be a whole number (this is classification)"
        return rule, "name the classes, or choose another target"
    return None


def label_order(text: str) -> tuple[bool, int, str]:
    """Return the place of a label among others: whole numbers by their value, then text.

    >>> sorted(["b", "10", "-1", "-20", "2"], key=label_order)
    ['-20', '-1', '2', '10', 'b']
    """
    whole = _WHOLE.fullmatch(text)
    return (whole is None, int(text) if whole else 0, text)


def owner(text: str, path: str, line: int, column: str = SITE_COLUMN) -> str:
    """Return the name of the site that owns a record; raises ValueError."""
    if not SITE_NAME.fullmatch(text):
        rule = "a site's name must be 1-64 of A-Z a-z 0-9 . _ - and start with a letter or digit"
        mend = f"write {near_name(text)!r} for example"
        raise wrong(path, line, column, rule, f"{text:.80}", mend)
    return text


def counts(values: NDArray[np.float64]) -> bool:
    """Whether a column, float64 [n], does nothing but count its rows from 0 or 1; n at least 10."""
    n = len(values)
    return n >= 10 and values[0] in (0, 1) and bool((np.diff(values) == 1).all())
