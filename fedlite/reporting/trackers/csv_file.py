"""Every round as a line of `rounds.csv`, which any spreadsheet opens."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.reporting.flat import Row, columns_of
from fedlite.settings import Value
from fedlite.storage import write_atomic

FILE = "rounds.csv"


class CsvFile:
    """Writes `rounds.csv` anew after each round: a score that comes later is a column, too."""

    def __init__(self, directory: Path) -> None:
        """Take the run's directory."""
        self._path = directory / FILE
        self._rows: list[Row] = []

    def start(self, name: str, settings: Mapping[str, Value]) -> None:
        """Begin with no rounds."""
        self._rows = []

    def round(self, row: Row) -> None:
        """Add a line."""
        self._rows.append(row)
        text = io.StringIO()
        table = csv.DictWriter(text, columns_of(self._rows), lineterminator="\n")
        table.writeheader()
        table.writerows(self._rows)
        write_atomic(self._path, text.getvalue().encode())

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing: all rounds are there."""
