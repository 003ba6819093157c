"""What a table is read from: a file that has a header and gives its rows one by one, as text."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedlite.scenario.tabular import Columns

# A row's number, its cells or what is wrong with it, and whether it may hold more than plain
# numbers and words, so that its cells are to be read with care.
Row = tuple[int, "list[str] | ValueError", bool]


class Reader(Protocol):
    """A file of rows. unit: what a row is called, `line` or `row`; see `cells.Wrong`.

    header: its columns. labels: the classes that it names itself, by the column that holds them.
    test: a test set of the same columns.
    """

    @property
    def path(self) -> str:
        """The file."""

    @property
    def unit(self) -> str:
        """What a row is called."""

    @property
    def header(self) -> list[str]:
        """The names of the columns; raises ValueError where there are none."""

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Classes in their order, of the columns that have such."""

    @property
    def test(self) -> Reader | None:
        """The rows of a test set that comes with it, if one does."""

    def rows(self, wanted: Collection[str]) -> Iterator[Row]:
        """Yield every row, a cell for each column; those that are not `wanted` may be empty.

        A row that cannot be read is yielded as its error, and changes no other.
        """


# From a path, what is said of the columns, the targets, and whether records may say no more of
# the columns than the keys do (`load_table`).
Opener = Callable[[str, Columns, tuple[str, ...], bool], Reader]


def cell(value: Any) -> str | None:
    """Return a value that has a type as the text that a CSV file would hold; None if it has none.

    Nothing and NaN are missing, true and false are 1 and 0.

    >>> [cell(value) for value in (1.5, 3, True, None, float("nan"), "a", [1])]
    ['1.5', '3', '1', '', '', 'a', None]
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int | float | str):
        return str(value)
    return None


def careful(cells: list[str]) -> bool:
    """Whether a row needs care: Python reads `1_0` as 10, and digits of other scripts."""
    text = "".join(cells)
    return "_" in text or not text.isascii()


def check_memory(path: str | Path, numbers: int, what: str) -> None:
    """Refuse what would take more than half of this machine's memory; nothing is read yet.

    numbers: how many of 8 bytes there will be. Raises ValueError naming file, rule, value and mend.
    """
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if numbers * 8 > most:
        raise ValueError(
            f"{path}: must fit into half of this machine's memory, {most / 1e9:.3g} GB, and says "
            f"that it holds {what}, which take {numbers * 8 / 1e9:.3g} GB; make it smaller"
        )
