"""A table of one's own, whatever file its rows come from: what becomes of columns and answers."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedlite.data.answers import (
    NONE,
    Labels,
    Numbers,
    Read,
    Unread,
    asked_of,
    begin,
    finish,
    given_labels,
    in_order,
)
from fedlite.data.blame import check_text, odd_one_out
from fedlite.data.cells import FLOAT32_MAX, Wrong, counted_in, in_unit, owner, wrong
from fedlite.data.column import Column, Values
from fedlite.data.dataset import Dataset, Source
from fedlite.data.entry import Entry, nothing_to_fetch
from fedlite.data.header import alike, choose, row_number
from fedlite.data.rows import Opener, Reader
from fedlite.data.sources.texts import load_texts
from fedlite.scenario import NUMERIC
from fedlite.scenario.tabular import Columns, Ranges, names
from fedlite.scenario.texts import Texts

log = logging.getLogger("fedlite.site")

# Rows that do not fit and are named one by one in the log.
_NAMED = 20


@dataclass
class _Rows:
    """What has been read of a file so far: numbers, answers and owners, row by row."""

    path: str
    header: list[str]
    answers: Read
    columns: list[Column]
    owner: str
    cells: array[float] = field(default_factory=lambda: array("d"))
    owners: array[int] = field(default_factory=lambda: array("q"))
    # Sites by their numbers, and the numbers by a cell's own text.
    sites: dict[str, int] = field(default_factory=dict)
    _site_of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owned = self.owner in self.header
        self._site_at = self.header.index(self.owner) if self.owned else 0
        self._settle()

    def _settle(self) -> None:
        self._quick: list[tuple[Callable[[str], float], int]] = [
            (column.quick(), column.place) for column in self.columns
        ]

    def add(self, row: list[str], line: int, *, odd: bool) -> None:
        """Add one row; raises ValueError, the rows so far as they were, where it does not fit."""
        values = self._careful(row, line) if odd else self._values(row, line)
        answer = self.answers.read(row, line)
        if self.owned:
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
                column.become_text(line)
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
            name = owner(text.strip(), self.path, line, self.owner)
            known = self._site_of[text] = self.sites.setdefault(name, len(self.sites))
        return known


def _read(
    reader: Reader,
    answers_of: Callable[[list[str]], Read],
    targets: tuple[str, ...],
    settings: Columns,
    *,
    settled: bool,
    skip_wrong: bool,
    features: bool = True,
) -> tuple[_Rows, list[str]]:
    path, header = reader.path, reader.header
    fixed = features and (settled or skip_wrong)
    columns, said = choose(header, path, targets, settings, settled=fixed)
    rows = _Rows(path, header, answers_of(header), columns if features else [], settings.owner)
    wanted, skipped = {settings.owner, *targets, *(one.name for one in rows.columns)}, 0
    for line, row, odd in reader.rows(wanted):
        try:
            if isinstance(row, ValueError):
                raise row
            rows.add(row, line, odd=odd)
        except ValueError as error:
            if not skip_wrong:
                raise odd_one_out(error, reader, rows.columns, settings.missing) from None
            skipped += 1
            if skipped <= _NAMED:
                log.warning("a row counts as absent: %s", in_unit(error, reader.unit))
    if skipped > _NAMED:
        log.warning("%s: %d rows count as absent in all", path, skipped)
    return rows, said


def _none_fits(error: Wrong, columns: list[Column]) -> ValueError:
    """Return what to do where no row was left, by header and keys alone; else the error itself."""
    path, line, target, rule, value, _ = error.args
    if rule != NONE:
        return error
    numbers = ", ".join(column.name for column in columns if column.plain)
    mend = f"these are read as numbers, and a row that does not fit counts as absent: {numbers}; "
    mend += "name columns of text in data.categories, of dates in data.dates, others in data.drop"
    return wrong(path, line, target, "at least one row must fit the keys of [data]", value, mend)


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
    check_text(rows.path, columns, len(raw))
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


def load_table(
    open_: Opener,
    name: str,
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
    """Return the records of a file, a row each, as the source `name`; `open_` reads its rows.

    `target` names the label column; a column `site` (or what `columns.owner` says), if there is
    one, gives natural groups (sorted by name); every other column is a feature, as `columns` says.
    Features are float64 and missing ones NaN until each site's are scaled
    (`fedlite.data.spread.share_out`). `shape` reshapes the features, for example (6, 100) for six
    channels of a hundred readings. `labels` fixes the class numbers; without it they are those that
    the file itself names, or follow the sorted labels of THIS file, so sites that hold one file
    each must all give the same `labels`. With it, no class need occur in the file, nor a record.

    Where no key speaks of them, a first column that only counts the rows is left out, and one of
    text becomes a feature of 0 or 1 for each of its few values; the source's `notes` say so.

    With the task `regression` or `multilabel`, `target` names one column of numbers or more, split
    by commas; `target_ranges` are their public ranges (`fedlite.data.answers.Numbers`).

    settled: the records may not decide what the columns are, because they are private, or because
    other sites' files must be read alike. Then every column not named in `columns` holds numbers.

    skip_wrong: a row that does not fit, or cannot be read at all, counts as absent and is named in
    the log of this machine only. It is for a site whose records are private: a refusal for one row
    would tell outside that the row is there. It implies `settled`.

    answered: without it no target is looked at, and all answers are class 0 of `labels`.

    Raises ValueError naming file, row, column, rule, value and mend.
    """
    targets = asked_of(target, task)
    reader = open_(path, columns, targets if answered else (), settled or skip_wrong)
    labels = labels or (reader.labels.get(target, ()) if task not in NUMERIC else ())
    given = given_labels(labels, answered=answered)

    def answers(header: list[str]) -> Read:
        return begin(
            path, header, target, task, given, target_ranges, columns.missing, answered=answered
        )

    asked = (targets or ("",)) if answered else ()
    with counted_in(reader.unit):
        rows, said = _read(reader, answers, asked, columns, settled=settled, skip_wrong=skip_wrong)
        try:
            y, called, scale, told = finish(rows.answers, labels)
        except Wrong as error:
            raise _none_fits(error, rows.columns) if skip_wrong else error from None
        x, reading, ranges, more = _features(rows, columns)
    if shape and math.prod(shape) != reading.width:
        raise ValueError(
            f"shape: must hold the {reading.width} feature columns of {path}, got {shape} "
            f"({math.prod(shape)}); correct it, or leave it empty for ({reading.width},)"
        )
    shape = shape or (reading.width,)
    groups = sorted(rows.sites)
    test = None
    if answered and reader.test is not None:
        test = load_table(
            lambda *_: cast(Reader, reader.test),
            name,
            path,
            target=target,
            shape=shape,
            labels=called if task not in NUMERIC else (),
            columns=reading,
            task=task,
            target_ranges=_as_learnt(targets, scale),
            settled=True,
            skip_wrong=skip_wrong,
        ).train
    return Source(
        name=name,
        train=Dataset(x.reshape(len(x), *shape), y, raw=True),
        test=test,
        groups=in_order(rows.sites, groups, rows.owners) if rows.owned else None,
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


def _as_learnt(targets: tuple[str, ...], scale: NDArray[np.float64] | None) -> Ranges:
    return () if scale is None else tuple(zip(targets, *scale.tolist(), strict=True))


def survey(
    open_: Opener, path: str, target: str, *, lenient: bool = False
) -> tuple[int, int, tuple[str, ...]]:
    """Return how many records a file has, how many classes or targets, and its sites, sorted.

    Its features are left alone: what they are is for a scenario to say. lenient: only the sites are
    looked for, and a row that does not fit is left out. Raises ValueError when the file cannot be
    read, its header lacks a target or, unless lenient, the target holds neither labels nor numbers.
    Where none is named nothing is answered.
    """
    targets = names(target)

    def surveyed(targets: tuple[str, ...], of: Callable[[list[str]], Read]) -> _Rows:
        settings = Columns()
        reader = open_(path, settings, targets, False)
        with counted_in(reader.unit):
            return _read(
                reader, of, targets, settings, settled=lenient, skip_wrong=lenient, features=False
            )[0]

    if lenient or not target:
        targets = targets if targets[1:] else tuple(filter(None, (target,)))
        rows = surveyed(targets, lambda header: Unread(targets))
        return len(rows.answers), 0, tuple(sorted(rows.sites))
    try:
        found = surveyed((target,), lambda header: Labels(path, header, target))
        classes = len(found.answers.order()) if isinstance(found.answers, Labels) else 0
    except ValueError as error:
        try:
            found = surveyed(targets, lambda header: Numbers(path, header, targets))
        except ValueError:
            raise error from None
        if not len(found.answers):
            raise
        classes = len(targets)
    return len(found.answers), classes, tuple(sorted(found.sites))


def table_entry(name: str, what: str, open_: Opener) -> Entry:
    """Return the line of the catalogue of a kind of file that holds a table."""

    def load(path: str = "", *, texts: Texts = Texts(), **settings: Any) -> Source:  # noqa: B008
        if not path:
            raise ValueError(
                f"data.path: {name} needs the path of your file, and data.target its label column"
            )
        if texts.tokenizer:
            return load_texts(open_, name, path, texts=texts, **{"target": "", **settings})
        return load_table(open_, name, path, **{"target": "", **settings})

    return Entry(
        name=name,
        what=what,
        records=0,
        licence="yours",
        size=0,
        how="give `path` and `target`",
        load=load,
        fetch=nothing_to_fetch(name),
        available=lambda: True,
        takes=(
            "path",
            "target",
            "texts",
            "shape",
            "labels",
            "columns",
            "task",
            "target_ranges",
            "settled",
            "skip_wrong",
            "answered",
        ),
        survey=partial(survey, open_),
        own=True,
        table=True,
        rows=open_,
    )
