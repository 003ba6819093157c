"""Arrays of one's own in a `.npz` file: `x`, `y`, and perhaps `site`, `test_x` and `test_y`."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.answers import MAX_CLASSES, Numbers
from fedlite.data.archive import Arrays
from fedlite.data.cells import (
    FLOAT32_MAX,
    SITE_COLUMN,
    SITE_NAME,
    counted_in,
    in_unit,
    label,
    label_order,
    no_label,
    wrong,
)
from fedlite.data.dataset import Dataset, Source
from fedlite.data.entry import Entry, nothing_to_fetch
from fedlite.scenario import NUMERIC
from fedlite.scenario.tabular import Columns, Ranges, names

log = logging.getLogger("fedlite.site")

NAME = "npz"
_NAMED = 20
_NUMBERS = "biuf"
OWNERS = (SITE_COLUMN, "group")
Bad = NDArray[np.bool_]


def _check(arrays: Arrays, owners: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays that are used; raises ValueError where they do not fit."""
    headers = arrays.headers()
    path, shapes = arrays.path, {}
    for part in ("", "test_") if "test_x" in headers or "test_y" in headers else ("",):
        for name in (f"{part}x", f"{part}y"):
            if name not in headers:
                rule, mend = "the file must hold this array", "write it by numpy.savez"
                raise wrong(path, 1, name, rule, ", ".join(headers), mend)
            shapes[name], dtype = headers[name]
            kinds = _NUMBERS if name.endswith("x") else _NUMBERS + "U"
            if dtype.kind not in kinds or not shapes[name]:
                rule = "an array must hold numbers (y also text), a row for each record"
                raise wrong(path, 1, name, rule, f"{dtype} {shapes[name]}", "convert it")
        if shapes[f"{part}x"][0] != shapes[f"{part}y"][0]:
            rule = f"an array must have {shapes[f'{part}x'][0]} rows, as {part}x has"
            raise wrong(path, 1, f"{part}y", rule, shapes[f"{part}y"][0], "give each record one")
    if shapes.get("test_x", shapes["x"])[1:] != shapes["x"][1:]:
        rule = f"records must have the shape {shapes['x'][1:]}, as those of x have"
        raise wrong(path, 1, "test_x", rule, shapes["test_x"][1:], "reshape it")
    if owners:
        if owners not in headers:
            rule = "data.partition_column must be an array in the file"
            raise wrong(path, 1, owners, rule, ", ".join(headers), "name one of these")
        if headers[owners][0] != shapes["x"][:1] or headers[owners][1].kind not in "iuU":
            rule = f"it must hold text or whole numbers for each of {shapes['x'][0]} records"
            raise wrong(path, 1, owners, rule, f"{headers[owners][1]} {headers[owners][0]}", "mend")
    return shapes


def _features(
    arrays: Arrays, name: str, shape: tuple[int, ...], *, scaled: bool
) -> tuple[NDArray[Any], Bad]:
    """Return the records and which of them cannot be used.

    scaled: bytes as float32 from 0 to 1, whose range is public; else all numbers as float64.
    """
    raw = arrays.read(name)
    if shape and math.prod(shape) != math.prod(raw.shape[1:]):
        raise ValueError(
            f"shape: must hold the {math.prod(raw.shape[1:])} numbers of a record in "
            f"{arrays.path}, got {shape} ({math.prod(shape)}); correct it"
        )
    if scaled and raw.ndim == 3 and not shape:
        shape = (1, *raw.shape[1:])
    x = raw.reshape(len(raw), *(shape or raw.shape[1:] or (1,)))
    if scaled:
        return x.astype(np.float32) / np.float32(255), np.zeros(len(x), np.bool_)
    x = x.astype(np.float64)
    # A missing value is NaN; what float32 cannot hold is none.
    return x, (np.abs(x) > FLOAT32_MAX).reshape(len(x), -1).any(axis=1)


def _labels(
    path: str, name: str, y: NDArray[Any], given: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...], Bad]:
    """Return class numbers, the classes, and which records have none of them."""
    if y.ndim != 1:
        rule, mend = "it must hold one class for each record", "choose the task multilabel"
        raise wrong(path, 1, name, rule, y.shape, mend)
    if y.dtype.kind == "U":
        texts, places = np.unique(y, return_inverse=True)
        found = [label(str(text).strip()) for text in texts]
        present = {one for one in found if not no_label(one)}
        classes = given or tuple(sorted(present, key=label_order))
        known = {label(one): at for at, one in enumerate(classes)}
        numbers = np.array([known.get(one, -1) for one in found], np.int64)[places]
    else:
        whole = np.isfinite(y) & (y == np.floor(y)) & (np.abs(y) < 2**31)
        numbers = np.where(whole, y, -1).astype(np.int64)
        most = int(numbers.max(initial=0)) + 1
        classes = given or tuple(map(str, range(min(most, MAX_CLASSES + 1))))
    if not 2 <= len(classes) <= MAX_CLASSES:
        rule = f"it must hold 2 to {MAX_CLASSES} classes, as numbers from 0 or as text"
        raise wrong(path, 1, name, rule, len(classes), "number the classes from 0")
    return numbers, classes, (numbers < 0) | (numbers >= len(classes))


def _numbers(
    path: str, name: str, y: NDArray[Any], targets: tuple[str, ...], *, binary: bool
) -> tuple[NDArray[np.float64], tuple[str, ...], Bad]:
    """Return targets, float64 [n, width], their names, and which records have none."""
    if y.dtype.kind == "U" or y.ndim > 2:
        rule = "it must hold a number or a row of numbers for each record"
        raise wrong(path, 1, name, rule, f"{y.dtype} {y.shape}", "convert it")
    y = y.reshape(len(y), -1).astype(np.float64)
    several = tuple(f"y{number + 1}" for number in range(y.shape[1]))
    called = targets or (several if len(several) > 1 else ("y",))
    if len(called) != y.shape[1]:
        rule = f"data.target must name its {y.shape[1]} columns"
        raise wrong(path, 1, name, rule, ", ".join(called), "correct it")
    fits = np.isin(y, (0.0, 1.0)) if binary else np.abs(y) <= FLOAT32_MAX
    bad: Bad = np.logical_not(fits.all(axis=1))
    return y, called, bad


@dataclass(frozen=True)
class _Asked:
    """What is asked of a file. owners: the array that says whose a record is; "" for none."""

    owners: str
    shape: tuple[int, ...]
    scaled: bool
    task: str
    targets: tuple[str, ...]
    ranges: Ranges
    labels: tuple[str, ...]
    skip_wrong: bool

    @property
    def numeric(self) -> bool:
        return self.task in NUMERIC


@dataclass(frozen=True)
class _Part:
    """The records of a file or its test set, and what is known of them."""

    data: Dataset
    labels: tuple[str, ...]
    scale: NDArray[np.float64] | None
    owners: list[str]
    said: list[str]


def _part(arrays: Arrays, part: str, asked: _Asked) -> _Part:
    """Return the records of `part`, "" or "test_", without those that are skipped."""
    x, bad_x = _features(arrays, f"{part}x", asked.shape, scaled=asked.scaled)
    path, name, raw = arrays.path, f"{part}y", arrays.read(f"{part}y")
    binary = asked.task == "multilabel"
    y: NDArray[Any]
    if asked.numeric:
        y, called, bad_y = _numbers(path, name, raw, asked.targets, binary=binary)
    else:
        y, called, bad_y = _labels(path, name, raw, asked.labels)
    wrongs, values = {f"{part}x": bad_x, name: bad_y}, {f"{part}x": x, name: raw}
    whose = np.array([], np.str_)
    if asked.owners:
        whose = np.char.strip(arrays.read(asked.owners).astype(np.str_))
        names = {str(one): SITE_NAME.fullmatch(str(one)) is None for one in np.unique(whose)}
        wrongs[asked.owners] = np.array([names[one] for one in whose.tolist()], np.bool_)
        values[asked.owners] = whose
    kept = _kept(arrays.path, wrongs, values, skip_wrong=asked.skip_wrong)
    scale, said = None, list[str]()
    if asked.numeric:
        numbers = Numbers(arrays.path, list(called), called, binary, asked.ranges)
        numbers.values.frombytes(np.ascontiguousarray(y[kept]).tobytes())
        y, scale, said = numbers.y()
        data = Dataset(x[kept], y, raw=not asked.scaled)
    else:
        data = Dataset(x[kept], y[kept], raw=not asked.scaled)
    return _Part(data, called, scale, whose[kept].tolist() if asked.owners else [], said)


def _kept(
    path: str, wrongs: dict[str, Bad], values: dict[str, NDArray[Any]], *, skip_wrong: bool
) -> Bad:
    """Return which records are used; raises ValueError for the first that cannot be."""
    bad: Bad = np.logical_or.reduce(list(wrongs.values()))
    for row in np.flatnonzero(bad)[: _NAMED if skip_wrong else 1]:
        name = next(one for one, which in wrongs.items() if which[row])
        error = _row_error(path, name, int(row) + 2, values[name][row])
        if not skip_wrong:
            raise error
        log.warning("a record counts as absent: %s", in_unit(error, "row"))
    if skip_wrong and bad.sum() > _NAMED:
        log.warning("%s: %d records count as absent in all", path, bad.sum())
    return ~bad


def _row_error(path: str, name: str, line: int, value: Any) -> ValueError:
    shown = str(value) if np.ndim(value) == 0 else np.array2string(value, threshold=6)
    if name.endswith("x"):
        rule = "numbers must fit into float32; NaN is a missing one"
    elif name.endswith("y"):
        rule = "an answer must be one of the classes or, as the task is, a finite number or 0 or 1"
    else:
        rule = "a site's name must be 1-64 of A-Z a-z 0-9 . _ - and begin with no sign"
    return wrong(path, line, name, rule, shown[:80], "correct it, or leave the record out")


def load(
    path: str = "",
    target: str = "",
    shape: tuple[int, ...] = (),
    labels: tuple[str, ...] = (),
    columns: Columns = Columns(),  # noqa: B008 - frozen
    task: str = "classification",
    target_ranges: Ranges = (),
    settled: bool = False,
    skip_wrong: bool = False,
) -> Source:
    """Return the records of a file that `numpy.savez` has written.

    `x` [n, ...] holds numbers: bytes (uint8) become float32 from 0 to 1, those of [n, height,
    width] with a channel; all others are scaled as a table's, by each site or by one public range
    in `columns.ranges`; NaN is missing. `shape` reshapes a record. `y` holds class numbers from 0,
    which `labels` may name, or text that must be one of `labels`; with another task numbers [n] or
    [n, width], which `target` may name. `site` or `group` [n], or what `columns.owner` names, holds
    whose a record is; `test_x` and `test_y` are a test set of nobody's.

    Nothing is unpickled, and shapes are looked at before anything is loaded. settled, skip_wrong:
    as in `table.load_table`. Raises ValueError naming file, row, array, rule, value and mend.
    """
    if not path:
        raise ValueError("data.path: npz needs the path of your file")
    if columns.names or columns.drop or columns.categories or columns.dates:
        raise ValueError(
            f"columns: an array of {path} has none; leave out data.columns, data.drop, "
            "data.categories and data.dates"
        )
    if columns.ranges and (len(columns.ranges) > 1 or columns.ranges[0][0]):
        raise ValueError(
            "ranges: must be one LOW:HIGH for all numbers of an array, got several; give one"
        )
    if (settled or skip_wrong) and task not in NUMERIC and not labels:
        raise ValueError(
            "labels: must be set where records are private or at several sites (rule: no record "
            "decides which classes there are), got nothing; set data.labels"
        )
    arrays = Arrays(path)
    with counted_in("row"):
        headers = arrays.headers()
        owners = columns.owner
        if owners == SITE_COLUMN:
            owners = next((one for one in OWNERS if one in headers), "")
        _check(arrays, owners)
        scaled = headers["x"][1] == np.uint8 and not columns.ranges
        asked = _Asked(
            owners, shape, scaled, task, names(target), target_ranges, labels, skip_wrong
        )
        part, test = _part(arrays, "", asked), None
        if "test_x" in headers:
            test = _part(arrays, "test_", _like(asked, part)).data
    groups = sorted(set(part.owners))
    place = {name: at for at, name in enumerate(groups)}
    shape = part.data.x.shape[1:]
    limits = columns.ranges[0][1:] if columns.ranges else None
    return Source(
        name=NAME,
        train=part.data,
        test=test,
        groups=np.array([place[one] for one in part.owners], np.int64) if owners else None,
        group_names=tuple(groups),
        shape=shape,
        classes=len(part.labels),
        labels=part.labels,
        origin="arrays of one's own",
        ranges=None if limits is None else np.stack([np.full(shape, end) for end in limits]),
        notes=tuple(part.said),
        scale=part.scale,
    )


def _like(asked: _Asked, part: _Part) -> _Asked:
    """Return how the test set is read: as the records were."""
    ends = () if part.scale is None else tuple(zip(part.labels, *part.scale.tolist(), strict=True))
    labels = () if asked.numeric else part.labels
    return replace(asked, owners="", targets=part.labels, ranges=ends, labels=labels)


def survey(
    path: str, target: str = "", *, lenient: bool = False
) -> tuple[int, int, tuple[str, ...]]:
    """Return how many records there are, of how many classes or targets, and the sites."""
    arrays = Arrays(path)
    headers = arrays.headers()
    owners = next((one for one in OWNERS if one in headers), "")
    shapes = _check(arrays, owners)
    y = arrays.read("y")
    classes = len(np.unique(y)) if y.ndim == 1 and not names(target)[1:] else y[:1].size
    found = sorted(set(map(str, arrays.read(owners).tolist()))) if owners else []
    return shapes["x"][0], classes, tuple(found)


ENTRY = Entry(
    name=NAME,
    what="your own arrays x and y, as numpy.savez writes them; optionally whose each record is",
    records=0,
    licence="yours",
    size=0,
    how="give `path`",
    load=load,
    fetch=nothing_to_fetch(NAME),
    available=lambda: True,
    takes=(
        *("path", "target", "shape", "labels", "columns"),
        *("task", "target_ranges", "settled", "skip_wrong"),
    ),
    survey=survey,
    own=True,
)
