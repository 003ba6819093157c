"""A user's own CSV file as a data source."""

from __future__ import annotations

import csv
import logging
import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.answers import Labels, Numbers, Unread, in_order
from fedlite.data.cells import FLOAT32_MAX, SITE_COLUMN, label, owner, wrong
from fedlite.data.column import Column, Values
from fedlite.data.dataset import Answers, Dataset, Source
from fedlite.data.entry import Entry
from fedlite.data.header import alike, choose, row_number
from fedlite.data.hints import foreign
from fedlite.scenario import NUMERIC
from fedlite.scenario.tabular import Columns, Ranges, names

log = logging.getLogger("fedlite.site")

Reader = Labels | Numbers | Unread
NAME = "csv"
# Longer lines go to the csv module, which refuses cells of more than it takes.
_LONG = 1 << 17
# Rows that do not fit and are named one by one in the log.
_NAMED = 20


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


@dataclass
class _Rows:
    """What has been read of a file so far: numbers, answers and owners, row by row."""

    path: str
    header: list[str]
    answers: Reader
    columns: list[Column]
    cells: array[float] = field(default_factory=lambda: array("d"))
    owners: array[int] = field(default_factory=lambda: array("q"))
    # Sites by their numbers, and the numbers by a cell's own text.
    sites: dict[str, int] = field(default_factory=dict)
    _site_of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._site_at = self.header.index(SITE_COLUMN) if SITE_COLUMN in self.header else None
        self._settle()

    def _settle(self) -> None:
        self._quick: list[tuple[Callable[[str], float], int]] = [
            (column.quick(), column.place) for column in self.columns
        ]

    def add(self, text: str, line: int) -> None:
        """Add one line; an empty one counts for nothing.

        Raises ValueError, the rows so far as they were, where it does not fit.
        """
        text = text.rstrip("\r\n")
        odd = '"' in text or "_" in text or not text.isascii() or len(text) >= _LONG
        row = _cells(text, self.path, line) if odd else text.split(",")
        if not text:
            return
        if len(row) != len(self.header):
            rule = f"a row must have {len(self.header)} cells, as the header has"
            raise wrong(self.path, line, "", rule, len(row), "add or remove commas")
        values = self._careful(row, line) if odd else self._values(row, line)
        answer = self.answers.read(row, line)
        if self._site_at is not None:
            self.owners.append(self._site(row[self._site_at], line))
        self.answers.add(answer)
        self.cells.extend(values)

    def _values(self, row: list[str], line: int) -> list[float]:
        try:
            values = [read(row[place]) for read, place in self._quick]
        except (ValueError, KeyError):
            return self._careful(row, line)
        # What float reads and a feature may not be, such as nan, is for `read` to refuse.
        return values if math.hypot(*values) <= FLOAT32_MAX else self._careful(row, line)

    def _careful(self, row: list[str], line: int) -> list[float]:
        values = []
        for number, column in enumerate(self.columns):
            text = row[column.place].strip()
            try:
                values.append(column.read(text, self.path, line))
            except ValueError:
                if column.settled or not column.plain or self._seen(number):
                    raise
                column.become_text()
                values.append(column.read(text, self.path, line))
                self._settle()
        return values

    def _seen(self, number: int) -> bool:
        """Whether the column has held a number already."""
        so_far = np.array(self.cells[number :: len(self.columns)])
        return bool((~np.isnan(so_far)).any())

    def _site(self, text: str, line: int) -> int:
        known = self._site_of.get(text)
        if known is None:
            name = owner(text.strip(), self.path, line)
            known = self._site_of[text] = self.sites.setdefault(name, len(self.sites))
        return known


def _lines(path: str) -> Iterator[str]:
    try:
        with Path(path).expanduser().open("rb") as file:
            if other := foreign(file.read(16)):
                raise ValueError(
                    f"path: must name a CSV file, got {path!r}, which is {other[0]}; {other[1]}"
                )
        # A byte that is no UTF-8 spoils its own line only.
        options = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
        with Path(path).expanduser().open(**options) as file:  # type: ignore[call-overload]
            yield from file
    except OSError as error:
        raise ValueError(
            f"path: must name a readable CSV file, got {path!r} ({error.strerror or error}); "
            "correct the path"
        ) from error


def _read(
    path: str,
    answers_of: Callable[[list[str]], Reader],
    targets: tuple[str, ...],
    settings: Columns,
    *,
    settled: bool,
    skip_wrong: bool,
    features: bool = True,
) -> tuple[_Rows, list[str]]:
    lines = enumerate(_lines(path), 1)
    first = next(lines, (1, ""))[1].rstrip("\r\n")
    header = [name.strip() for name in _cells(first, path, 1)]
    columns, said = choose(header, path, targets, settings, settled=settled or skip_wrong)
    rows, skipped = _Rows(path, header, answers_of(header), columns if features else []), 0
    for number, text in lines:
        try:
            rows.add(text, number)
        except ValueError as error:
            if not skip_wrong:
                raise
            skipped += 1
            if skipped <= _NAMED:
                log.warning("a row counts as absent: %s", error)
    if skipped > _NAMED:
        log.warning("%s: %d rows count as absent in all", path, skipped)
    return rows, said


def _features(rows: _Rows, settings: Columns) -> tuple[Values, Columns, Values | None, list[str]]:
    """Return the features [n, d], how they were read, their ranges [2, d] or None, and notes."""
    columns, said = rows.columns, list[str]()
    raw = np.frombuffer(rows.cells, np.float64).reshape(len(rows.answers), len(columns))
    if (number := row_number(columns, raw, settings)) is not None:
        what = f"column {columns[number].name!r} counts the rows"
        if columns[number].settled:
            said.append(f"{what}; if it is no feature, name it in data.drop")
        else:
            said.append(f"{what} and is left out; data.columns can keep it")
            columns, raw = columns[:number] + columns[number + 1 :], np.delete(raw, number, axis=1)
    many = [column.name for column in columns if column.names_records(len(raw))]
    if many:
        listed = ", ".join(many)
        rule = "a column of text must have few values, each in many records"
        mend = f"set data.drop = {listed!r}; dates go into data.dates, values into data.categories"
        raise wrong(rows.path, 2, many[0], rule, listed, mend)
    reading = alike(columns, settings)
    for number, column in enumerate(columns):
        if beyond := column.beyond(raw[:, number]):
            low, high = column.limits or (0, 0)
            said.append(
                f"column {column.name!r}: {beyond} of {len(raw)} values lie beyond its range "
                f"{low:g}:{high:g} and are cut to it; widen it in data.ranges"
            )
    # A feature of 0 or 1 stays what it is.
    limits = [column.limits or (-1.0, 1.0) for column in columns for _ in column.features]
    ranges = np.array(limits, np.float64).T if settings.ranges else None
    if all(column.codes is None for column in columns):
        return raw, reading, ranges, said
    x, at = np.empty((len(raw), reading.width), np.float64), 0
    for number, column in enumerate(columns):
        values, width = raw[:, number], len(column.features)
        column.write(values, x[:, at : at + width])
        at += width
        if column.found:
            said.append(
                f"column {column.name!r} holds text and becomes {width} features of 0 or 1 "
                f"({', '.join(column.codes or ())}); data.categories fixes them"
            )
    return x, reading, ranges, said


def load_csv(
    path: str,
    *,
    target: str,
    shape: tuple[int, ...] = (),
    labels: tuple[str, ...] = (),
    columns: Columns = Columns(),  # noqa: B008 - frozen
    task: str = "classification",
    target_ranges: Ranges = (),
    settled: bool = False,
    skip_wrong: bool = False,
    answered: bool = True,
) -> Source:
    """Return the records of a UTF-8, comma-separated file with a header, a line each.

    `target` names the label column; a column `site`, if there is one, gives natural groups (sorted
    by name); every other column is a feature, as `columns` says. Features are float64 and missing
    ones NaN until each site's are scaled (`fedlite.data.spread.share_out`). `shape` reshapes the
    features, for example (6, 100) for six channels of a hundred readings. `labels` fixes the class
    numbers; without it they follow the sorted labels of THIS file, so sites that hold one file each
    must all give the same `labels`. With it, no class need occur in the file, nor a record.

    Where no key speaks of them, a first column that only counts the rows is left out, and one of
    text becomes a feature of 0 or 1 for each of its few values; the source's `notes` say so.

    With the task `regression` or `multilabel`, `target` names one column of numbers or more, split
    by commas; `target_ranges` are their public ranges (`fedlite.data.answers.Numbers`).

    settled: the records may not decide what the columns are, because they are private, or because
    other sites' files must be read alike. Then every column not named in `columns` holds numbers.

    skip_wrong: a row that does not fit, whose text is no CSV or no UTF-8 included, counts as absent
    and is named in the log of this machine only. It is for a site whose records are private: a
    refusal for one row would tell outside that the row is there. It implies `settled`.

    answered: without it no target is looked at, and all answers are class 0 of `labels`.

    Raises ValueError naming file, line, column, rule, value and mend.
    """
    given = tuple(label(name) for name in labels)
    if answered and labels and (len(labels) < 2 or len(set(given)) < len(labels)):
        raise ValueError(
            f"labels: must name at least two classes, each once, got {labels}; correct the list"
        )
    targets = names(target) if task in NUMERIC else (target,)

    def answers(header: list[str]) -> Reader:
        if not answered:
            return Unread(())
        if task in NUMERIC:
            return Numbers(path, header, targets, task == "multilabel", target_ranges)
        return Labels(path, header, target, given)

    asked = (targets or ("",)) if answered else ()
    rows, said = _read(path, answers, asked, columns, settled=settled, skip_wrong=skip_wrong)
    y, called, scale, told = _answers(rows.answers, labels)
    x, reading, ranges, more = _features(rows, columns)
    if shape and math.prod(shape) != reading.width:
        raise ValueError(
            f"shape: must hold the {reading.width} feature columns of {path}, got {shape} "
            f"({math.prod(shape)}); correct it, or leave it empty for ({reading.width},)"
        )
    shape = shape or (reading.width,)
    owned = SITE_COLUMN in rows.header
    groups = sorted(rows.sites)
    return Source(
        name=NAME,
        train=Dataset(x.reshape(len(x), *shape), y, raw=True),
        test=None,
        groups=in_order(rows.sites, groups, rows.owners) if owned else None,
        group_names=tuple(groups),
        shape=shape,
        classes=len(called),
        labels=called,
        # Neither its path nor its digest: this goes into records that are shown to others, and a
        # digest tells whoever guesses the file that he guessed right.
        origin="a table of one's own",
        features=reading.features,
        ranges=None if ranges is None else ranges.reshape(2, *shape),
        notes=(*said, *more, *told),
        scale=scale,
        reading=reading,
    )


def _answers(
    read: Reader, labels: tuple[str, ...]
) -> tuple[Answers, tuple[str, ...], NDArray[np.float64] | None, list[str]]:
    """Return the answers, their names, what -1 and 1 stand for, and what there is to say."""
    if isinstance(read, Labels):
        order = tuple(read.order())
        return read.y(), labels or order, None, []
    if isinstance(read, Unread):
        return np.zeros(len(read), np.int64), labels, None, []
    y, scale, said = read.y()
    return y, read.targets, scale, said


def survey(path: str, target: str) -> tuple[int, int, tuple[str, ...]]:
    """Return how many records a file has, how many classes or targets, and its sites, sorted.

    Its features are left alone: what they are is for a scenario to say. Raises ValueError as
    `load_csv` does, where the target holds neither labels nor numbers.
    """
    try:
        rows = _surveyed(path, (target,), lambda header: Labels(path, header, target))
    except ValueError:
        targets = names(target)
        try:
            rows = _surveyed(path, targets, lambda header: Numbers(path, header, targets))
        except ValueError:
            rows = _Rows(path, [], Unread(targets), [])
        if not len(rows.answers):
            raise
        return len(rows.answers), len(targets), tuple(sorted(rows.sites))
    read = rows.answers
    classes = len(read.order()) if isinstance(read, Labels) else 0
    return len(read), classes, tuple(sorted(rows.sites))


def parts(path: str, target: str) -> tuple[str, ...]:
    """Return the sites that a file names, sorted; a row that does not fit is left out.

    Raises ValueError when the file cannot be read or its header lacks a target.
    """
    targets = (target,) if not names(target)[1:] else names(target)
    rows = _surveyed(path, targets, lambda header: Unread(targets), settled=True)
    return tuple(sorted(rows.sites))


def _surveyed(
    path: str,
    targets: tuple[str, ...],
    answers: Callable[[list[str]], Reader],
    *,
    settled: bool = False,
) -> _Rows:
    rows, _ = _read(
        path, answers, targets, Columns(), settled=settled, skip_wrong=settled, features=False
    )
    return rows


def _load(path: str = "", **settings: Any) -> Source:
    if not path:
        raise ValueError("path: csv needs the path of your file and its label column `target`")
    return load_csv(path, **{"target": "", **settings})


def _nothing_to_fetch() -> Path:
    raise ValueError("csv: is your own file, so there is nothing to fetch; give its `path`")


ENTRY = Entry(
    name=NAME,
    what="your own table: feature columns, a label column, optionally a column `site`",
    records=0,
    licence="yours",
    size=0,
    how="give `path` and `target`",
    load=_load,
    fetch=_nothing_to_fetch,
    available=lambda: True,
    takes=(
        "path",
        "target",
        "shape",
        "labels",
        "columns",
        "task",
        "target_ranges",
        "settled",
        "skip_wrong",
        "answered",
    ),
    own=True,
    table=True,
)
