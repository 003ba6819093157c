"""Which columns of a table are features, and how their cells are read: the texts of the keys.

All of it is public: no record is looked at here.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

Ranges = tuple[tuple[str, float, float], ...]

_DAY = 86400.0
_RANGE = re.compile(r"(?:(.*\S)\s+)?(\S+?):(\S+)")


@dataclass(frozen=True)
class Columns:
    """How a table becomes features.

    names: the feature columns in their order; empty: all but the label, `site`, the owner and
    `drop`, in the order of the file. categories: columns of text and the values each may hold,
    which become a feature of 0 or 1 each. missing: what stands in a cell without a value, beside
    nothing at all. dates: columns of dates and their format for strptime, "" for ISO 8601; they
    become days since 1970. ranges: column, lowest and highest value, mapped to -1 and 1, what is
    beyond being cut; one range with the name "" is for every column, several are for the columns
    in their order. owner: the column that names the site which owns a record. grouped: whether
    that is asked for.
    """

    names: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    categories: tuple[tuple[str, tuple[str, ...]], ...] = ()
    missing: tuple[str, ...] = ("NA",)
    dates: tuple[tuple[str, str], ...] = ()
    ranges: Ranges = ()
    owner: str = "site"
    grouped: bool = field(default=False, compare=False)

    @property
    def width(self) -> int:
        """How many features a record has; 0 where that depends on the file.

        >>> Columns(names=("age", "sex"), categories=(("sex", ("f", "m")),)).width
        3
        """
        return len(self.features)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in their order; empty where they depend on the file.

        >>> Columns(names=("age", "sex"), categories=(("sex", ("f", "m")),)).features
        ('age', 'sex=f', 'sex=m')
        """
        listed = dict(self.categories)
        found: list[str] = []
        for name in self.names:
            found += [f"{name}={value}" for value in listed[name]] if name in listed else [name]
        return tuple(found)


def names(text: str) -> tuple[str, ...]:
    """Split a list at its commas; a name that holds one stands in double quotes.

    >>> names('age, "weight, kg"')
    ('age', 'weight, kg')
    """
    line = text.replace("\n", " ").strip()
    return tuple(name.strip() for name in next(csv.reader([line], skipinitialspace=True), []))


def listed(found: Iterable[str]) -> str:
    """Return the list that `names` splits into these; none of them may hold a double quote.

    >>> listed(["age", "weight, kg"])
    'age, "weight, kg"'
    """
    return ", ".join(f'"{name}"' if "," in name else name for name in found)


def distinct(text: str, least: int = 0) -> tuple[str, ...]:
    """Return `names`; raises ValueError if one is empty or there twice, or fewer than `least`."""
    found = names(text)
    if not all(found) or len(set(found)) < len(found) or 0 < len(found) < least:
        raise ValueError(text)
    return found


def categories(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Read `column: value, value; column: ...`; raises ValueError on any other form.

    >>> categories("sex: f, m")
    (('sex', ('f', 'm')),)
    """
    found = []
    for part in text.split(";"):
        name, _, values = part.partition(":")
        if part.strip():
            split = distinct(values, least=2)
            if not (name.strip() and split):
                raise ValueError(part)
            found.append((name.strip(), split))
    _once([name for name, _ in found])
    return tuple(found)


def dates(text: str) -> tuple[tuple[str, str], ...]:
    """Read `column, column: format`, the format as in strptime; raises ValueError.

    >>> dates("born, seen: %d/%m/%Y")
    (('born', ''), ('seen', '%d/%m/%Y'))
    """
    found = []
    for entry in distinct(text):
        name, _, form = (part.strip() for part in entry.partition(":"))
        if not name or (form and not _is_format(form)):
            raise ValueError(entry)
        found.append((name, form))
    _once([name for name, _ in found])
    return tuple(found)


def _is_format(form: str) -> bool:
    """Whether strptime takes the format: a wrong one may not show by the first record only."""
    try:
        datetime.strptime(datetime(2000, 1, 31, tzinfo=UTC).strftime(form), form)
    except (ValueError, re.error):
        return False
    return "%" in form


def ranges(text: str) -> Ranges:
    """Read `LOW:HIGH` for all columns or each in turn, or `column LOW:HIGH`; raises ValueError.

    >>> ranges("age 0:120, seen 2000-01-01:2030-01-01")
    (('age', 0.0, 120.0), ('seen', 10957.0, 21915.0))
    """
    found = []
    for entry in names(text):
        match = _RANGE.fullmatch(entry)
        if match is None:
            raise ValueError(entry)
        low, high = (_end(end) for end in match.group(2, 3))
        if not low < high:
            raise ValueError(entry)
        found.append((match[1] or "", low, high))
    named = [name for name, _, _ in found if name]
    if named and len(named) < len(found):
        raise ValueError(text)
    _once(named)
    return tuple(found)


def _once(columns: list[str]) -> None:
    if len(set(columns)) < len(columns):
        raise ValueError(columns)


def _end(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return days(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def days(text: str, form: str = "") -> float:
    """Return a date, or a date and time (UTC unless it says otherwise), in days since 1970.

    Raises ValueError when it is neither ISO 8601 nor, where `form` is given, in that format.

    >>> days("1970-01-02T12:00"), days("31/12/1969", "%d/%m/%Y")
    (1.5, -1.0)
    """
    moment = datetime.strptime(text, form) if form else datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / _DAY


def reads(parser: Callable[[str], object]) -> Callable[[str], bool]:
    """Return the check of a key whose text `parser` reads."""

    def check(text: str) -> bool:
        try:
            parser(text)
        except (ValueError, csv.Error):
            return False
        return True

    return check
