"""A feature column on its way from cells of text to numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedlite.data.cells import decimal_comma, number, wrong
from fedlite.scenario.tabular import days

Values = NDArray[np.float64]
# A column of text with more values, or hardly a value twice, names its records.
MOST_VALUES = 20
NUMERIC = "a feature must be a finite number (float32), or empty where it is missing"
MIXED = "a column must hold numbers only, or text only"


def mend_of(text: str) -> str:
    """Return what to do about a cell that should hold a number and holds this text."""
    if decimal_comma(text):
        return (
            f"numbers have a decimal point, as in {text.replace(',', '.')!r}, and no sign between "
            "thousands: write them so"
        )
    return (
        "correct or empty the cell, list it in data.missing where it stands for no value, or drop "
        "the column (data.drop)"
    )


def _reads(plain: Callable[[str], float], text: str) -> bool:
    try:
        plain(text)
    except (ValueError, OverflowError):
        return False
    return True


@dataclass
class Column:
    """One column: where it stands, what its cells may hold, and which features they become.

    place: its index in a row. codes: of a column of text, the number of each value. form: of a
    column of dates, their format, else None. limits: its public range. settled: nothing about the
    column may be found out from the records. absent: what an empty cell may hold.
    found: whether its text was found in the records, on line `begins` first.
    """

    name: str
    place: int
    codes: dict[str, float] | None = None
    form: str | None = None
    limits: tuple[float, float] | None = None
    settled: bool = False
    absent: frozenset[str] = frozenset({""})
    found: bool = field(default=False, init=False)
    begins: int = field(default=2, init=False)

    @property
    def plain(self) -> bool:
        """Whether its cells are numbers."""
        return self.codes is None and self.form is None

    def quick(self) -> Callable[[str], float]:
        """Return what reads most cells; where it raises ValueError or KeyError, ask `read`."""
        if self.codes is not None:
            return self.codes.__getitem__
        plain = float if self.plain else partial(days, form=self.form or "")
        # A -9 that stands for no value is a number, too.
        if any(_reads(plain, text) for text in self.absent):
            return partial(self._unless_absent, plain)
        return plain

    def _unless_absent(self, plain: Callable[[str], float], text: str) -> float:
        if text.strip() in self.absent:
            raise ValueError(text)
        return plain(text)

    def read(self, text: str, path: str, line: int) -> float:
        """Return a cell's number, or that of its value or its day; NaN where it is missing.

        Raises ValueError naming file, line, column, rule, value and mend.
        """
        if self.codes is not None and text in self.codes:
            return self.codes[text]
        if text in self.absent:
            return math.nan
        if self.form is not None:
            return self._day(text, path, line)
        value = number(text)
        if self.codes is None:
            if value is None:
                mend = mend_of(text)
                if self.settled:
                    mend += "; data.categories lists the values of a column of text"
                raise wrong(path, line, self.name, NUMERIC, text, mend)
            return value
        if not self.found:
            rule = f"a value must be one of {', '.join(self.codes)}"
            mend = "correct it, or extend data.categories or data.missing"
            raise wrong(path, line, self.name, rule, text, mend)
        if value is not None:
            mend = "drop the column (data.drop), or list its values in data.categories"
            raise wrong(path, line, self.name, MIXED, text, mend)
        if len(self.codes) <= MOST_VALUES:
            self.codes[text] = float(len(self.codes))
        return self.codes.get(text, math.nan)

    def _day(self, text: str, path: str, line: int) -> float:
        try:
            return days(text, self.form or "")
        except (ValueError, OverflowError):
            rule = f"a date must be {self.form or 'ISO 8601, as in 2026-01-31'}"
            mend = f"give its format, as in data.dates = '{self.name}: %d/%m/%Y', or correct it"
            raise wrong(path, line, self.name, rule, text, mend) from None

    def become_text(self, line: int) -> None:
        """Take its values from the records, from this line on: none so far was a number."""
        self.codes, self.found, self.begins = {}, True, line

    def names_records(self, records: int) -> bool:
        """Whether its text has too many values to be features."""
        most = min(MOST_VALUES, max(2, records // 2))
        return self.found and self.codes is not None and len(self.codes) > most

    @property
    def values(self) -> tuple[str, ...]:
        """The values of a column of text, in the order of its features."""
        codes = self.codes or {}
        return tuple(sorted(codes) if self.found else codes)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of what it becomes."""
        if self.codes is None:
            return (self.name,)
        return tuple(f"{self.name}={value}" for value in self.values)

    def write(self, values: Values, out: Values) -> None:
        """Write the features, float64 [n, len(features)], of the numbers that `read` returned.

        A missing value is NaN, or 0 in all features of a column of text.
        """
        if self.codes is not None:
            out[:] = values[:, None] == np.array([self.codes[value] for value in self.values])
            return
        out[:, 0] = values

    def beyond(self, values: Values) -> int:
        """How many values lie outside its public range."""
        low, high = self.limits or (-math.inf, math.inf)
        return int(((values < low) | (values > high)).sum())
