"""A user's own Parquet file, read by pyarrow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlite.data.hints import foreign
from fedlite.data.rows import Reader, Row
from fedlite.data.sources import arrow
from fedlite.data.sources.table import table_entry
from fedlite.scenario.tabular import Columns

NAME = "parquet"
_MAGIC = b"PAR1"


@dataclass
class ParquetFile:
    """Named columns that have types; of a row only what is asked for is read."""

    path: str
    unit: str = "row"
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    test: Reader | None = None

    def __post_init__(self) -> None:
        """Read the columns' names and types."""
        self._pyarrow = arrow.pyarrow(NAME)
        place = Path(self.path).expanduser()
        try:
            with place.open("rb") as file:
                head = file.read(16)
        except OSError as error:
            raise arrow.damaged(self.path, error.strerror or error) from error
        if not head.startswith(_MAGIC):
            kind, mend = foreign(head, NAME) or ("text, it seems", 'a CSV file has name = "csv"')
            raise ValueError(
                f"data.path: must name a Parquet file, got {self.path!r}, which is {kind}; {mend}"
            )
        self._place = place
        with self._open() as file:
            self._names = list(file.schema_arrow.names)
            self.header = [name.strip() for name in self._names]

    def _open(self) -> Any:
        from pyarrow import parquet

        try:
            # What the footer may make the reader allocate before anything was checked.
            file = parquet.ParquetFile(
                self._place,
                thrift_string_size_limit=1 << 24,
                thrift_container_size_limit=1 << 20,
            )
            _ = file.schema_arrow.names  # which may be no UTF-8
            return file
        except (self._pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise arrow.damaged(self.path, error) from error

    def rows(self, wanted: Collection[str]) -> Iterator[Row]:
        """Yield the rows."""
        with self._open() as file:
            about = file.metadata
            names = [n for n, told in zip(self._names, self.header, strict=True) if told in wanted]
            arrow.check_types(file.schema_arrow, self.path, names)
            arrow.check_size(self.path, about.num_rows, max(1, len(names)))
            for number in range(about.num_row_groups):
                arrow.check_size(self.path, about.row_group(number).total_byte_size // 8, 1)
            yield from arrow.rows(
                self.path, self._batches(file, names), self._names, names, self.labels
            )

    def _batches(self, file: Any, names: list[str]) -> Iterator[Any]:
        try:
            yield from file.iter_batches(arrow.BATCH, columns=names, use_threads=False)
        except (self._pyarrow.ArrowException, OSError) as error:
            raise arrow.damaged(self.path, error) from error


def read(path: str, columns: Columns, targets: tuple[str, ...], settled: bool) -> ParquetFile:
    """Return the file; its schema alone says what the columns are called."""
    return ParquetFile(path)


ENTRY = table_entry(NAME, "your own table as a Parquet file; needs the extra `parquet`", read)
