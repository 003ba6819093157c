"""A user's own CSV file."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedlite.data.cells import wrong
from fedlite.data.hints import foreign
from fedlite.data.rows import Reader, Row
from fedlite.data.sources.table import table_entry
from fedlite.scenario.tabular import Columns

NAME = "csv"
# Longer lines go to the csv module, which refuses cells of more than it takes.
_LONG = 1 << 17


def _cells(text: str, path: str, line: int) -> list[str]:
    """Return the cells of one line, which is read by itself.

    A quote that stays open would otherwise swallow the rows below it: one row would change others.
    """
    if any("\udc80" <= letter <= "\udcff" for letter in text):
        shown = text.encode(errors="surrogateescape")[:80]
        raise wrong(path, line, "", "the text must be UTF-8", shown, "save it so")
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        mend = "check its quotes; a cell may not hold a line end"
        raise wrong(path, line, "", "every line must be CSV", str(error), mend) from error


def lines_of(path: str, source: str, kind: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file of text from 1, without their ends; bad bytes as surrogates.

    source: the name of the data source, for the mend where the file is no such text, and `kind` in
    words. Raises ValueError when the file cannot be read or is another kind of file.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            if other := foreign(file.read(16), source):
                raise ValueError(
                    f"data.path: must name a {kind} file, got {path!r}, which is {other[0]}; "
                    f"{other[1]}"
                )
        # A byte that is no UTF-8 spoils its own line only.
        options = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
        with Path(path).expanduser().open(**options) as file:  # type: ignore[call-overload]
            for line, text in enumerate(file, 1):
                yield line, text.rstrip("\r\n")
    except OSError as error:
        raise ValueError(
            f"data.path: must name a readable {kind} file, got {path!r} "
            f"({error.strerror or error}); correct the path"
        ) from error


@dataclass
class CsvFile:
    """UTF-8, commas, a header, a record a line."""

    path: str
    unit: str = "line"
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    test: Reader | None = None

    def __post_init__(self) -> None:
        """Read the header."""
        _, first = next(lines_of(self.path, NAME, "CSV"), (1, ""))
        self.header = [name.strip() for name in _cells(first, self.path, 1)]

    def rows(self, wanted: Collection[str]) -> Iterator[Row]:
        """Yield the rows; an empty line counts for nothing."""
        width = len(self.header)
        for line, text in lines_of(self.path, NAME, "CSV"):
            if line == 1 or not text:
                continue
            odd = '"' in text or "_" in text or not text.isascii() or len(text) >= _LONG
            try:
                row = _cells(text, self.path, line) if odd else text.split(",")
                if len(row) != width:
                    rule = f"a row must have {width} cells, as the header has"
                    raise wrong(self.path, line, "", rule, len(row), "add or remove commas")
            except ValueError as error:
                yield line, error, odd
            else:
                yield line, row, odd


def read(path: str, columns: Columns, targets: tuple[str, ...], settled: bool) -> CsvFile:
    """Return the file; its header alone says what the columns are called."""
    return CsvFile(path)


ENTRY = table_entry(
    NAME, "your own table: feature columns, a label column, optionally a column `site`", read
)
