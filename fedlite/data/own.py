"""What functions of the user's return of records: a source, or a division among sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.answers import MAX_CLASSES
from fedlite.data.cells import no_label
from fedlite.data.dataset import Dataset, Indices, Source
from fedlite.registry import Registry, label
from fedlite.scenario.records import PARTITIONS

# A tuple's, in their order.
COLUMNS = ("x", "y", "test_x", "test_y", "groups")
_LENGTHS = (2, 4, 5)
# Those of the house are in `partition`: they know more than a source and a number of sites.
DIVISIONS: Registry[Any] = Registry(
    "data.partition",
    "fedlite.partitions",
    dict.fromkeys(PARTITIONS),
    "data.partition_options",
    "(source, sites, *, seed, **options)",
)


def source_of(
    name: str, made: Any, labels: tuple[str, ...] = (), *, numeric: bool = False
) -> Source:
    """Return the source that `made` is, or is made into.

    made: a Source, a tuple or a table of columns, each of which numpy takes: `x` numbers [n,
    *shape], `y` a class for each of them (numbers or text), `test_x` and `test_y` for a test set
    that no site holds, `groups` the owner of each record of `x`, for a natural partition. labels:
    the classes by their numbers; without them a number is a class, and texts are sorted. numeric:
    `y` is numbers to be answered, [n] or [n, width], which `labels` name. name: what the scenario
    calls it.

    Raises ValueError, naming the column, for anything else, and for columns of unequal lengths.

    >>> source = source_of("mine.py:load", ([[0.5], [1.0], [2.0]], ["no", "yes", "no"]))
    >>> source.name, source.shape, source.labels, source.train.y.tolist()
    ('mine.load', (1,), ('no', 'yes'), [0, 1, 0])
    """
    if isinstance(made, Source):
        return made
    if isinstance(made, tuple | list) and len(made) in _LENGTHS:
        made = dict(zip(COLUMNS, made, strict=False))
    given = made
    if isinstance(made, Mapping):
        given = {key: value for key, value in made.items() if value is not None}
    if not isinstance(given, Mapping) or not {"x", "y"} <= given.keys() <= set(COLUMNS):
        raise ValueError(
            "must return a fedlite.data.Source, (x, y), (x, y, test_x, test_y), these with groups, "
            f"or a table of such columns, got {_told(given)}"
        )
    columns = {key: _array(key, value) for key, value in given.items()}
    _check_lengths(columns)
    labels = labels or _labels([columns[key] for key in ("y", "test_y") if key in columns], numeric)
    answers = _numbers if numeric else _classes
    train = Dataset(_features("x", columns["x"]), answers("y", columns["y"], labels))
    test = None
    if "test_y" in columns:
        found = answers("test_y", columns["test_y"], labels)
        test = Dataset(_features("test_x", columns["test_x"]), found)
    names: tuple[str, ...] = ()
    groups = None
    if "groups" in columns:
        owners, groups = np.unique(columns["groups"].astype(str), return_inverse=True)
        names, groups = tuple(map(str, owners)), groups.astype(np.int64)
    shape, origin = train.x.shape[1:], f"made by {label(name)}"
    return Source(label(name), train, test, groups, names, shape, len(labels), labels, origin)


def _labels(answers: list[NDArray[Any]], numeric: bool) -> tuple[str, ...]:
    """Return what to call the classes, or the numbers that are answered."""
    first = answers[0]
    if numeric:
        width = 1 if first.ndim < 2 else first.shape[1]
        return ("y",) if width == 1 else tuple(f"y{number}" for number in range(1, width + 1))
    if first.dtype.kind in "OUS":
        texts = np.unique(np.concatenate([part.astype(str).ravel() for part in answers]))
        for text in texts:
            if why := no_label(str(text).strip()):
                raise ValueError(f"y: {why[0]}, got {str(text)!r:.80}; {why[1]}")
        return _few(len(texts), tuple(map(str, texts)))
    whole = [part for part in answers if part.dtype.kind in "iub" and part.size]
    count = max([2, *(int(part.max()) + 1 for part in whole)])
    return _few(count, tuple(map(str, range(min(count, MAX_CLASSES)))))


def _few(count: int, names: tuple[str, ...]) -> tuple[str, ...]:
    if count > MAX_CLASSES:
        raise ValueError(
            f"y: must form at most {MAX_CLASSES} classes, numbered from 0, got {count}; number "
            "them anew, or set task.name to regression"
        )
    return names


def divided(
    source: Source, kind: str, sites: int, *, seed: int, options: Mapping[str, Any]
) -> list[Indices]:
    """Return the division that a function of others makes, ascending indices int64 for each site.

    It is called as `function(source, sites, seed=seed, **options)` and returns, for each site, the
    indices of its records in `source.train`. A record that it leaves out is at no site.

    Raises ValueError where it fails, and where an index is none or is given twice.
    """
    function = DIVISIONS.get(kind)
    made = DIVISIONS.call(kind, function, source, sites, seed=seed, options=options)
    try:
        parts = [np.sort(_array(f"site {n}", part)) for n, part in enumerate(made, 1)]
        return [part.astype(np.int64) for part in _checked(parts, sites, len(source.train))]
    except (TypeError, ValueError) as error:
        raise DIVISIONS.wrong(
            kind, function, f"must return one list of indices for each site: {error}"
        ) from None


def _checked(parts: list[NDArray[Any]], sites: int, records: int) -> list[NDArray[Any]]:
    if len(parts) != sites:
        raise ValueError(f"for {sites} sites it returned {len(parts)}")
    seen = np.zeros(records, np.int64)
    for number, part in enumerate(parts, 1):
        if part.ndim != 1 or (len(part) and part.dtype.kind not in "iu"):
            raise ValueError(f"site {number} got {part.dtype} {list(part.shape)}")
        if len(part) and not 0 <= int(part[0]) <= int(part[-1]) < records:
            raise ValueError(f"site {number} got {part[0]}..{part[-1]} of {records} records")
        np.add.at(seen, part.astype(np.int64), 1)
    if (twice := np.flatnonzero(seen > 1)).size:
        raise ValueError(f"record {twice[0]} is at {seen[twice[0]]} places")
    return parts


def _array(key: str, value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception as error:  # a ragged list, or whatever an object says to numpy
        raise ValueError(
            f"{key}: must be rows of one shape, got {_told(value)} ({error})"
        ) from None


def _check_lengths(columns: Mapping[str, NDArray[Any]]) -> None:
    if ("test_x" in columns) != ("test_y" in columns):
        raise ValueError("test_x and test_y: must both be there, or neither; give both")
    for key, other in (("x", "y"), ("test_x", "test_y"), ("x", "groups")):
        if other not in columns:
            continue
        one, two = columns[key], columns[other]
        if one.ndim < 1 or two.ndim < 1 or len(one) != len(two):
            raise ValueError(
                f"{other}: must be as long as {key}, got {list(two.shape)} beside "
                f"{list(one.shape)}; give one entry per row"
            )


def _features(key: str, column: NDArray[Any]) -> NDArray[Any]:
    """Return float32 [n, *shape]; a column of single numbers has the shape [n, 1]."""
    if column.dtype.kind not in "fiub":
        raise ValueError(f"{key}: must be numbers, got {column.dtype}; encode what is text")
    found = column.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{key}: must be finite, got NaN or infinity; fill in what is missing")
    return found[:, None] if found.ndim == 1 else found


def _numbers(key: str, column: NDArray[Any], labels: tuple[str, ...]) -> NDArray[Any]:
    """Return float32 [n, width]."""
    found = _features(key, column)
    if found.ndim != 2 or found.shape[1] != len(labels):
        raise ValueError(
            f"{key}: must hold a number for each of {', '.join(labels)}, got {list(found.shape)}"
        )
    return found


def _classes(key: str, column: NDArray[Any], labels: tuple[str, ...]) -> NDArray[Any]:
    """Return class numbers, int64 [n]."""
    if column.ndim != 1:
        raise ValueError(f"{key}: must be one class for each row, got {list(column.shape)}")
    if column.dtype.kind in "OUS":
        texts = column.astype(str)
        if unknown := sorted(set(texts.tolist()) - set(labels)):
            raise ValueError(
                f"{key}: must be one of data.labels, {', '.join(labels)}, got {unknown[0]!r}"
            )
        return np.array([labels.index(text) for text in texts.tolist()], np.int64)
    if column.dtype.kind in "iub":
        if len(column) and int(column.min()) < 0:
            raise ValueError(f"{key}: must be at least 0, a class's number, got {column.min()}")
        return column.astype(np.int64)
    raise ValueError(
        f"{key}: must be classes, whole numbers or text, got {column.dtype}; convert them, or set "
        "task.name to regression"
    )


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a table of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
