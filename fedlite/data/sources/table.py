"""A user's own CSV file as a data source."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from array import array
from pathlib import Path

import numpy as np

from fedlite.data.dataset import Dataset, Features, Indices, Source
from fedlite.data.hints import differs_in_case, foreign, near_name

log = logging.getLogger("fedlite.site")

NAME = "csv"
SITE_COLUMN = "site"
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_CLASSES = 1000
FLOAT32_MAX = float(np.finfo(np.float32).max)


def _wrong(path: str, line: int, column: str, rule: str, value: object, mend: str) -> ValueError:
    return ValueError(f"{path}, line {line}, column {column!r}: {rule}, got {value!r}; {mend}")


def _feature(text: str, path: str, line: int, column: str) -> float:
    """Return the number, or NaN for an empty cell, which is the only way to say missing."""
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= FLOAT32_MAX:
        raise _wrong(
            path,
            line,
            column,
            "a feature must be a finite number (float32), or empty where it is missing",
            text,
            "correct or empty the cell, or remove the column",
        )
    return value


def _label(text: str, path: str, line: int, column: str) -> str:
    """Return the label as text; `1.0` and `1` are the same label."""
    if text.lower() in ("", "nan", "na", "null", "none"):
        mend = "fill in the label or remove the row"
        raise _wrong(path, line, column, "a label must be present", text, mend)
    try:
        number = float(text)
    except ValueError:
        return text
    if not number.is_integer():
        rule = "a numeric label must be a whole number (this is classification)"
        raise _wrong(path, line, column, rule, text, "name the classes, or choose another target")
    return str(int(number))


def _site(text: str, path: str, line: int) -> str:
    if not SITE_NAME.fullmatch(text):
        rule = "a site's name must be 1-64 of A-Z a-z 0-9 . _ - and start with a letter or digit"
        mend = f"write {near_name(text)!r} for example"
        raise _wrong(path, line, SITE_COLUMN, rule, f"{text:.80}", mend)
    return text


def _header(names: list[str], path: str, target: str) -> None:
    """Refuse a header that cannot be read in one way only."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or "" in names:
        what = repeated[0] if repeated else ""
        raise _wrong(path, 1, what, "each column needs a name of its own", names, "rename it")
    if wrong := differs_in_case(SITE_COLUMN, names):
        rule = f"the column that names a record's owner is {SITE_COLUMN!r}, in small letters"
        mend = f"did you mean {SITE_COLUMN!r}? Rename it, or call a feature otherwise"
        raise _wrong(path, 1, wrong, rule, wrong, mend)
    if not target or target not in names:
        close = differs_in_case(target, names)
        raise _wrong(
            path,
            1,
            target,
            "the label column `target` must be in the header",
            names,
            f"did you mean {close!r}?"
            if close
            else "set `target` to one of these, and separate columns by commas",
        )
    if target == SITE_COLUMN:
        rule = f"the column {SITE_COLUMN!r} names the owner of a record"
        raise _wrong(path, 1, target, rule, target, "choose another label column")
    if not set(names) - {target, SITE_COLUMN}:
        raise _wrong(path, 1, "", "a feature column is needed", names, "add a numeric column")


def _cells(text: str, path: str, line: int) -> list[str]:
    """Return the cells of one line, which is read by itself.

    A quote that stays open would otherwise swallow the rows below it: one row would change others.
    """
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        mend = "check its quotes; a cell may not hold a line end"
        raise _wrong(path, line, "", "every line must be CSV", str(error), mend) from error


def _record(
    row: list[str], path: str, line: int, names: list[str], target: str, labels: tuple[str, ...]
) -> tuple[list[float], str, str]:
    """Return a row's features, its label and its owner ("" without a column for it)."""
    if len(row) != len(names):
        rule = f"a row must have {len(names)} cells, as the header has"
        raise _wrong(path, line, "", rule, len(row), "add or remove commas")
    cell = dict(zip(names, (text.strip() for text in row), strict=True))
    features = [
        _feature(text, path, line, column)
        for column, text in cell.items()
        if column not in (target, SITE_COLUMN)
    ]
    label = _label(cell[target], path, line, target)
    if labels and label not in labels:
        rule = f"the label must be one of {', '.join(labels)}"
        raise _wrong(path, line, target, rule, label, "correct it or extend `labels`")
    return features, label, _site(cell[SITE_COLUMN], path, line) if SITE_COLUMN in cell else ""


def _classes(found: list[str], path: str, target: str) -> tuple[str, ...]:
    """Return the classes of a file whose labels nobody has fixed."""
    if not found:
        raise _wrong(path, 2, target, "at least one record is needed", 0, "add rows")
    present = sorted(set(found), key=_numeric_first)
    if not 2 <= len(present) <= MAX_CLASSES:
        rule = f"the labels must form 2 to {MAX_CLASSES} classes"
        shown = present[0] if len(present) == 1 else len(present)
        raise _wrong(path, 2, target, rule, shown, "add records, or choose another target")
    return tuple(present)


def _numeric_first(label: str) -> tuple[bool, int, str]:
    number = re.fullmatch(r"-?\d+", label)
    return (number is None, int(label) if number else 0, label)


def load_csv(
    path: str,
    *,
    target: str,
    shape: tuple[int, ...] = (),
    labels: tuple[str, ...] = (),
    skip_wrong: bool = False,
) -> Source:
    """Return the records of a UTF-8, comma-separated file with a header, a line each.

    `target` names the label column; a column `site`, if there is one, gives natural groups (sorted
    by name); every other column is a numeric feature, and its empty cells are missing: NaN in `x`,
    until `standardize` fills them in at each site. `shape` reshapes the feature columns, in file
    order, for example (6, 100) for six channels of a hundred readings. `labels` fixes the class
    numbers; without it they follow the sorted labels of THIS file, so sites that hold one file
    each must all give the same `labels`. With it, no class need occur in the file, nor a record.

    skip_wrong: a row that does not fit, whose text is no CSV or no UTF-8 included, counts as absent
    and is named in the log of this machine only. It is for a site whose records are private: a
    refusal for one row would tell outside that the row is there.

    Raises ValueError naming file, line, column, rule, value and mend.
    """
    if labels and (len(labels) < 2 or len(set(labels)) < len(labels)):
        raise ValueError(
            f"labels: must name at least two classes, each once, got {labels}; correct the list"
        )
    try:
        content = Path(path).expanduser().read_bytes()
        if other := foreign(content):
            raise ValueError(
                f"path: must name a CSV file, got {path!r}, which is {other[0]}; {other[1]}"
            )
        text = content.decode("utf-8-sig", "replace" if skip_wrong else "strict")
    except OSError as error:
        raise ValueError(
            f"path: must name a readable CSV file, got {path!r} ({error.strerror or error}); "
            "correct the path"
        ) from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        value = content[error.start : error.end]
        raise _wrong(path, line, "", "the text must be UTF-8", value, "save it so") from error

    lines = enumerate(io.StringIO(text, newline=""), 1)
    cells, found, owners = array("d"), list[str](), list[str]()
    names = [name.strip() for name in _cells(next(lines, (1, ""))[1], path, 1)]
    _header(names, path, target)
    columns = [name for name in names if name not in (target, SITE_COLUMN)]
    for number, one in lines:
        try:
            row = _cells(one, path, number)
            if not row:
                continue
            features, label, owner = _record(row, path, number, names, target, labels)
        except ValueError as error:
            if not skip_wrong:
                raise
            log.warning("a row counts as absent: %s", error)
            continue
        cells.extend(features)
        found.append(label)
        owners.append(owner)

    used = labels or _classes(found, path, target)
    if shape and math.prod(shape) != len(columns):
        raise ValueError(
            f"shape: must hold the {len(columns)} feature columns of {path}, got {shape} "
            f"({math.prod(shape)}); correct it, or leave it empty for ({len(columns)},)"
        )
    shape = shape or (len(columns),)
    x: Features = np.frombuffer(cells, np.float64).astype(np.float32).reshape(len(found), *shape)
    y: Indices = np.array([used.index(label) for label in found], np.int64)
    # Without a column for it every owner is "".
    owned = SITE_COLUMN in names
    groups = tuple(sorted(set(owners))) if owned else ()
    return Source(
        name=NAME,
        train=Dataset(x, y),
        test=None,
        groups=np.array([groups.index(o) for o in owners], np.int64) if owned else None,
        group_names=groups,
        shape=shape,
        classes=len(used),
        labels=used,
        # Neither its path nor its digest: this goes into records that are shown to others, and a
        # digest tells whoever guesses the file that he guessed right.
        origin="a table of one's own",
    )
