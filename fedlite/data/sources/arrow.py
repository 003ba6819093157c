"""Columns of Arrow, which have types, as the cells of text that a table is made of."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Collection, Iterator, Mapping
from types import ModuleType
from typing import Any

from fedlite.data.cells import wrong
from fedlite.data.rows import Row, careful, cell, check_memory

# Records that are in memory as text at a time.
BATCH = 4096


def pyarrow(extra: str) -> ModuleType:
    """Return the library, which the named extra installs; raises ValueError where it is missing."""
    try:
        import pyarrow
    except ImportError as error:
        raise ValueError(
            f"data.name: {extra} needs pyarrow ({error}); install it by pip install "
            f"'fedlite[{extra}]'"
        ) from None
    return pyarrow  # type: ignore[no-any-return]


def check_types(schema: Any, path: str, wanted: Collection[str]) -> None:
    """Refuse wanted columns of an Arrow schema that hold neither numbers, text nor dates.

    Raises ValueError naming file, column, rule, type and mend.
    """
    from pyarrow import types

    scalar = (
        *(types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null),
        *(types.is_string, types.is_large_string, types.is_date, types.is_timestamp),
    )
    for field in schema:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if field.name in wanted and not any(fits(kind) for fits in scalar):
            rule = "a column must hold numbers, text, dates or true and false"
            mend = "name it in data.drop, or make a column of each of its values"
            raise wrong(path, 1, field.name, rule, str(field.type), mend)


def rows(
    path: str,
    batches: Iterator[Any],
    header: list[str],
    wanted: Collection[str],
    named: Mapping[str, tuple[str, ...]],
) -> Iterator[Row]:
    """Yield the rows of record batches, from line 2, with a cell for each column of the header.

    named: columns whose numbers stand for names. A number that stands for none is missing.
    """
    line = 2
    for batch in batches:
        columns: list[list[Any]] = []
        texts = []
        for at, name in enumerate(header):
            if name not in wanted:
                columns.append([""] * batch.num_rows)
                continue
            column = batch.column(batch.schema.get_field_index(name))
            columns.append([_cell(value, named.get(name)) for value in _values(column)])
            if str(column.type).endswith("string") or "dictionary" in str(column.type):
                texts.append(at)
        for row in zip(*columns, strict=True):
            bad = [at for at in texts if isinstance(row[at], bytes)]
            if bad:
                rule, mend = "the text must be UTF-8", "write it so"
                error = wrong(path, line, header[bad[0]], rule, row[bad[0]][:80], mend)
                yield line, error, True
            else:
                yield line, list(row), bool(texts) and careful([row[at] for at in texts])
            line += 1


def _values(column: Any) -> list[Any]:
    import pyarrow

    if pyarrow.types.is_timestamp(column.type):
        # Python's moments have no nanoseconds.
        column = column.cast(pyarrow.timestamp("us", tz=column.type.tz), safe=False)
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        # Nobody has looked whether a text of a Parquet file is one; the others are.
        return [_decoded(value) for value in column]


def _decoded(value: Any) -> str | bytes | None:
    """Return a text, or its bytes where they are none."""
    try:
        return value.as_py()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes()  # type: ignore[no-any-return]


def _cell(value: Any, names: tuple[str, ...] | None) -> str | bytes:
    return value if isinstance(value, bytes) else text(value, names)


def text(value: Any, names: tuple[str, ...] | None) -> str:
    """Return a value as a cell; names: what its numbers stand for, one that has none is missing."""
    if names is not None:
        known = isinstance(value, int) and 0 <= value < len(names)
        return names[value] if known else ""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    return cell(value) or ""


def check_size(path: str, records: int, columns: int) -> None:
    """Refuse a file that says that it holds more than this machine could; raises ValueError."""
    if records < 0:
        raise damaged(path, f"it says that it has {records} records")
    check_memory(path, records * columns, f"{records:,} records of {columns} columns")


def damaged(path: str, why: object) -> ValueError:
    """Return the error of a file that cannot be read."""
    told = " ".join(str(why).split())[:200]
    return ValueError(
        f"data.path: must name a file that is whole, got {path!r} ({told}); correct the path, or "
        "write the file again"
    )
