"""A user's own file of JSON Lines: a record a line, an object of numbers and text."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlite.data.cells import wrong
from fedlite.data.rows import Reader, Row, careful, cell
from fedlite.data.sources.csv_file import lines_of
from fedlite.data.sources.table import table_entry
from fedlite.scenario.tabular import Columns

NAME = "jsonl"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {name.strip(): value for name, value in pairs}
    if len(found) < len(pairs):
        raise ValueError("a key stands in it twice")
    # A half of a pair, escaped, is no text: it could be written nowhere.
    "".join((*found, *(value for value in found.values() if isinstance(value, str)))).encode()
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON; a missing value is null, or left out")


def _parse(text: str, path: str, line: int) -> dict[str, Any]:
    """Return the object of one line, its numbers as they are written."""
    try:
        # surrogates stand for bytes that are no UTF-8
        text.encode()
        found = json.loads(
            text,
            parse_int=str,
            parse_float=str,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError) as error:
        mend = "write one JSON object a line, in UTF-8"
        raise wrong(path, line, "", "every line must be JSON", str(error)[:200], mend) from error
    if not isinstance(found, dict):
        mend = "write each record as {...} on a line of its own, without [ and ] around them"
        raise wrong(path, line, "", "every line must be an object", text[:40], mend)
    return found


@dataclass
class JsonLines:
    """Objects, a line each. A key that an object lacks is a missing value.

    header: the columns, where they are known; else the keys of all objects, as they appear first.
    """

    path: str
    header: list[str]
    unit: str = "line"
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    test: Reader | None = None

    def __post_init__(self) -> None:
        """Look for the columns where nobody has said which there are."""
        if not self.header:
            found: dict[str, None] = {}
            errors: list[ValueError] = []
            for line, text in self._lines():
                try:
                    found |= dict.fromkeys(_parse(text, self.path, line))
                except ValueError as error:
                    errors = errors or [error]  # `rows` tells of it where there are others
            if errors and not found:
                raise errors[0]
            self.header = list(found)

    def _lines(self) -> Iterator[tuple[int, str]]:
        return ((line, text) for line, text in lines_of(self.path, NAME, "JSONL") if text.strip())

    def rows(self, wanted: Collection[str]) -> Iterator[Row]:
        """Yield the rows; an empty line counts for nothing."""
        places = [(name, at) for at, name in enumerate(self.header) if name in wanted]
        for line, text in self._lines():
            row = [""] * len(self.header)
            try:
                record = _parse(text, self.path, line)
                for name, at in places:
                    row[at] = self._cell(record.get(name), line, name)
            except ValueError as error:
                yield line, error, True
            else:
                yield line, row, careful(row)

    def _cell(self, value: Any, line: int, name: str) -> str:
        text = cell(value)
        if text is None:
            rule = "a value must be a number, a text, true, false or null"
            mend = "name the column in data.drop, or make a column of each of its values"
            raise wrong(self.path, line, name, rule, str(value)[:80], mend)
        return text


def read(path: str, columns: Columns, targets: tuple[str, ...], settled: bool) -> JsonLines:
    """Return the file. settled: the keys have to say what the columns are; records may not.

    Raises ValueError where they then do not.
    """
    if not settled:
        return JsonLines(path, [])
    if not columns.names:
        raise ValueError(
            "data.columns: must be set for jsonl where records are private or at several sites "
            "(rule: no record decides what the columns are, and the file has no header), got "
            "nothing; list the features"
        )
    owner = (columns.owner,) if columns.grouped else ()
    return JsonLines(path, list(dict.fromkeys((*columns.names, *targets, *owner))))


ENTRY = table_entry(
    NAME, "your own table as JSON Lines: an object of numbers and text a line", read
)
