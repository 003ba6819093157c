"""From a table's header to its feature columns; no record is looked at."""

from __future__ import annotations

from collections.abc import Sequence

from fedlite.data.cells import SITE_COLUMN, counts, wrong
from fedlite.data.column import Column, Values
from fedlite.data.hints import differs_in_case
from fedlite.scenario.tabular import Columns

# What a table's first column is called where a program has written the row's number or name.
_UNNAMED = ("", "unnamed: 0", "rownames", "row.names")
_NUMBERED = (*_UNNAMED, "id", "index", "row", "#")


def choose(
    header: list[str], path: str, targets: tuple[str, ...], settings: Columns, *, settled: bool
) -> tuple[list[Column], list[str]]:
    """Return the feature columns of a file in their order, and what there is to say about them.

    Nothing but the header is looked at. Raises ValueError naming what cannot be read in one way.
    """
    owner = settings.owner
    if owner == SITE_COLUMN and (other := differs_in_case(owner, header)):
        rule = f"the column that names a record's owner is {owner!r}, in small letters"
        mend = f"did you mean {owner!r}? Rename it, or call a feature otherwise"
        raise wrong(path, 1, other, rule, other, mend)
    if owner != SITE_COLUMN and owner not in header:
        close = differs_in_case(owner, header)
        mend = f"did you mean {close!r}?" if close else "name one of these"
        raise wrong(path, 1, owner, "data.partition_column must be in the header", header, mend)
    if not any(header):
        rule, mend = "the first line must name the columns", "write a header, or name another file"
        raise wrong(path, 1, "", rule, "no names", mend)
    for target in targets:
        _check_target(header, path, target, owner)
    chosen, said = _named(header, path, targets, settings, settled=settled)
    for column in (*chosen, *targets, SITE_COLUMN, owner):
        if header.count(column) > 1 or not column:
            rule = "each column needs a name of its own"
            mend = "leave one out of the file; where a line ends in a comma, take that away"
            raise wrong(path, 1, column, rule, header, mend)
    if not chosen:
        mend = "add a column of numbers, or shorten data.drop"
        raise wrong(path, 1, "", "a feature column is needed", header, mend)
    return _described(header, chosen, path, settings, settled=settled), said


def _check_target(header: list[str], path: str, target: str, owner: str) -> None:
    if not target or target not in header:
        rule = "the label column `target` must be in the header"
        close = differs_in_case(target, header)
        mend = "set `target` to one of these"
        if len(header) == 1 and (other := next((c for c in ";\t|" if c in header[0]), "")):
            mend = f"separate columns by commas, not by {other!r}"
        mend = f"did you mean {close!r}?" if close else mend
        raise wrong(path, 1, target, rule, header, mend)
    if target in (SITE_COLUMN, owner):
        rule = f"the column {target!r} names the owner of a record"
        raise wrong(path, 1, target, rule, target, "choose another label column")


def _named(
    header: list[str], path: str, targets: tuple[str, ...], settings: Columns, *, settled: bool
) -> tuple[list[str], list[str]]:
    others = (*targets, SITE_COLUMN, settings.owner)
    lists = {"columns": settings.names, "drop": settings.drop}
    lists["categories"] = tuple(name for name, _ in settings.categories)
    lists["dates"] = tuple(name for name, _ in settings.dates)
    lists["ranges"] = tuple(name for name, _, _ in settings.ranges if name)
    for key, named in lists.items():
        for name in named:
            if name not in header or name in others:
                rule = f"a column of data.{key} must be a feature column in the header"
                raise wrong(path, 1, name, rule, header, f"correct data.{key} or the file")
    if settings.names:
        return list(settings.names), []
    left = [name for name in header if name not in (*others, *settings.drop)]
    spoken = {*settings.drop, *lists["categories"], *lists["dates"], *lists["ranges"]}
    first = header[0]
    if first in spoken or first not in left:
        return left, []
    if first.lower() in _UNNAMED[:2]:
        left.remove(first)
        return left, ["the first column has no name, as row numbers have none, and is left out"]
    if settled and first.lower() in _NUMBERED:
        rule = "a first column of that name may number the rows, which the records may not decide"
        mend = f"set data.drop = {first!r}, or list all features in data.columns"
        raise wrong(path, 1, first, rule, first, mend)
    return left, []


def _described(
    header: list[str], chosen: list[str], path: str, settings: Columns, *, settled: bool
) -> list[Column]:
    listed, dated = dict(settings.categories), dict(settings.dates)
    absent = frozenset(("", *settings.missing))
    columns = []
    for name in chosen:
        column = Column(name, header.index(name), settled=settled, absent=absent)
        if name in listed:
            column.codes = {value: float(code) for code, value in enumerate(listed[name])}
        elif name in dated:
            column.form = dated[name]
        columns.append(column)
    if settings.ranges:
        _with_ranges([column for column in columns if column.codes is None], path, settings)
    return columns


def _with_ranges(columns: list[Column], path: str, settings: Columns) -> None:
    given = settings.ranges
    named = [name for name, _, _ in given if name]
    if not named and len(given) not in (1, len(columns)):
        rule = f"data.ranges must be one for all, or one for each of {len(columns)} columns"
        raise wrong(path, 1, "", rule, len(given), "name the columns, as in `age 0:120`")
    for column, ends in zip(columns, limits([one.name for one in columns], settings), strict=True):
        if ends is None:
            rule = "data.ranges must name each column of numbers or dates"
            mend = f"add `{column.name} LOW:HIGH`, or name it in data.categories or data.drop"
            raise wrong(path, 1, column.name, rule, ", ".join(named), mend)
        column.limits = ends


def limits(plain: Sequence[str], settings: Columns) -> list[tuple[float, float] | None]:
    """Return the public range of each column, None where `data.ranges` gives it none.

    plain: the feature columns without categories, in their order. Ranges without names are one for
    all of these, or one for each in turn; columns of text have no place in that count.
    """
    given = settings.ranges
    named = {name: (low, high) for name, low, high in given if name}
    if named or len(given) not in (1, len(plain)):
        return [named.get(name) for name in plain]
    return [given[index % len(given)][1:] for index in range(len(plain))]


def alike(columns: list[Column], settings: Columns) -> Columns:
    """Return what reads another file as these columns were read, however its records look."""
    listed = [c for c in columns if c.codes is not None]
    return Columns(
        names=tuple(column.name for column in columns),
        categories=tuple((c.name, c.values) for c in listed),
        missing=settings.missing,
        dates=tuple((c.name, c.form) for c in columns if c.form is not None),
        ranges=tuple((c.name, *c.limits) for c in columns if c.limits is not None),
    )


def row_number(columns: list[Column], raw: Values, settings: Columns) -> int | None:
    """Return the index of the column that only counts the rows, None where there is none.

    raw: float64 [n, len(columns)]. It is the file's first column, no key tells what it is, and
    another column is left.
    """
    if settings.names or len(settings.ranges) > 1 or len(columns) < 2:
        return None
    for index, column in enumerate(columns):
        named = any(column.name == name for name, _, _ in settings.ranges)
        if column.place == 0 and column.plain and not named and counts(raw[:, index]):
            return index
    return None
