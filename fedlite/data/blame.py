"""Which cell of a column of numbers and text is the odd one out, for whoever holds the open file.

A file is read from its top, so the first cell that contradicts those before it may be a good one.
All cells are looked at here: never where records may not decide what is said (`Column.settled`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedlite.data.cells import Wrong, decimal_comma, number, wrong
from fedlite.data.column import MIXED, NUMERIC, Column, mend_of
from fedlite.data.rows import Reader
from fedlite.scenario.tabular import days, listed

# So many texts that may stand for no value are named at most.
_MOST = 5


def odd_one_out(
    error: ValueError, reader: Reader, columns: Sequence[Column], missing: Sequence[str]
) -> ValueError:
    """Return the error of the cell that differs from most of its column, `error` where none does.

    error: of a cell. columns: as far as they were read. missing: what `data.missing` lists.
    """
    name = error.args[2] if isinstance(error, Wrong) else None
    column = next((one for one in columns if one.name == name), None)
    if column is None or column.settled or not (column.plain or column.found):
        return error
    numbers, texts, first = Counter[str](), Counter[str](), dict[str, int]()
    for line, row, _ in reader.rows({column.name}):
        if isinstance(row, ValueError) or (text := row[column.place].strip()) in column.absent:
            continue
        (texts if number(text) is None else numbers)[text] += 1
        first.setdefault(text, line)
    n, m = numbers.total(), texts.total()
    if not n or not m:
        return error
    near = sum(count for text, count in texts.items() if _nearly(text))
    # Many `?` among different numbers make no column of text.
    if n + near > m - near or len(numbers) > 2 * len(texts):
        odd = next(iter(texts))
        mend = _mend(odd, texts, missing)
        return wrong(reader.path, first[odd], column.name, NUMERIC, odd[:80], mend)
    if n == m:
        return error
    odd = next(iter(numbers))
    mend = "correct or empty the cell, drop the column (data.drop), or list its values in "
    return wrong(reader.path, first[odd], column.name, MIXED, odd, mend + "data.categories")


def check_text(path: str, columns: Sequence[Column], records: int) -> None:
    """Raise ValueError where columns that were found to hold text can be no features.

    Their values name the records, are dates, or numbers with a decimal comma. columns: as read.
    """
    found = [
        (column, next(iter(column.codes))) for column in columns if column.found and column.codes
    ]
    for column, text in found:
        if all(map(decimal_comma, column.codes or ())):
            raise wrong(path, column.begins, column.name, NUMERIC, text[:80], mend_of(text))
    many = [(column, text) for column, text in found if column.names_records(records)]
    if not many:
        return
    dated = [column.name for column, _ in many if all(map(_is_day, column.codes or ()))]
    others = [column.name for column, _ in many if column.name not in dated]
    mends = [f"data.dates = {listed(dated)!r}"] * bool(dated)
    mends += [f"data.drop = {listed(others)!r}"] * bool(others)
    rest = "" if dated else "dates go into data.dates, "
    column, text = many[0]
    rule = "a column of text must have few values, each in many records"
    mend = f"set {' and '.join(mends)}; {rest}values go into data.categories"
    raise wrong(path, column.begins, column.name, rule, text[:80], mend)


def _is_day(text: str) -> bool:
    try:
        days(text, "")
    except (ValueError, OverflowError):
        return False
    return True


def _nearly(text: str) -> bool:
    """Whether a text that is no number here was written as one, as `1,5` and `inf`."""
    if decimal_comma(text):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mend(odd: str, texts: Counter[str], missing: Sequence[str]) -> str:
    often = [text for text, count in texts.items() if count > 1 and not _nearly(text)]
    if odd not in often or len(often) > _MOST or any('"' in text for text in often):
        return mend_of(odd)
    return (
        f"{texts[odd]} cells hold it: where it stands for no value, set data.missing = "
        f"{listed((*missing, *often))!r}; else correct them, or drop the column (data.drop)"
    )
