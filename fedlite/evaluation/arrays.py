"""Records as arrays in a `.npz` file, for models whose records are no rows of a table."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data import Dataset, Source
from fedlite.data.archive import Arrays
from fedlite.data.cells import SITE_COLUMN
from fedlite.data.sources.npz import OWNERS
from fedlite.data.usage import ranges_of
from fedlite.evaluation.trained import Trained


def read_arrays(
    trained: Trained, path: Path, answered: bool, columns: Sequence[str]
) -> tuple[Source, dict[str, tuple[str, ...]]]:
    """Return the records of a `.npz` file as a source, and these further columns as text.

    x: numbers, [n, *shape], or shaped as the arrays that the run itself has read; of a model whose
    records came scaled already floating-point, or, as they were, bytes from 0 to 255. y: class
    numbers or names, [n], or numbers, [n, width]; read where `answered`. site, or what the run has
    in its place: whose each record is, [n], if it is there. No array may hold objects.

    Raises ValueError naming file, array, rule, value and mend.
    """
    file, shape = Arrays(str(path)), tuple(trained.model.shape)
    there = file.headers()
    _needs(path, there, "x")
    held, dtype = there["x"]
    raw, own = trained.scaling != "source", trained.scenario.data.name == "npz"
    fits = held[1:] == shape or (own and held and math.prod(held[1:]) == math.prod(shape))
    scaled = own and not raw and dtype == np.uint8
    if not fits or not (dtype.kind in "biuf" if raw else scaled or dtype.kind == "f"):
        raise ValueError(
            f"{path}: x must be floating-point numbers of shape [n, "
            f"{', '.join(map(str, shape))}], got {dtype} {list(held)}; reshape it, and scale "
            "it as the model's own records were"
        )
    further = (*(["y"] if answered else []), *columns)
    for name in further:
        _needs(path, there, name)
    asked = (trained.scenario.data.partition_column, *OWNERS)
    owner = next((name for name in asked if name in there), SITE_COLUMN)
    wanted = {"x", owner, *further} & there.keys()
    found = {name: file.read(name) for name in sorted(wanted)}
    x = found["x"].reshape(-1, *shape)
    if scaled:
        x = x.astype(np.float32) / np.float32(255)
    if not raw and not np.isfinite(x).all():
        raise ValueError(f"{path}: x must be finite, and is not; leave those records out")
    train = Dataset(
        x.astype(np.float64 if raw else np.float32),
        _answers(trained, path, found["y"]) if answered else np.zeros(len(x), np.int64),
        raw=raw,
    )
    sites = found.get(owner)
    owners, named = None, tuple[str, ...]()
    if sites is not None:
        order, owners = np.unique(sites.astype(str), return_inverse=True)
        named = tuple(map(str, order))
    ranges = None
    if trained.reading is not None and trained.reading.ranges:
        ranges = ranges_of(trained.reading, shape)
    source = Source(
        name="npz",
        train=train,
        test=None,
        groups=owners,
        group_names=named,
        shape=shape,
        classes=len(trained.labels),
        labels=trained.labels,
        origin=str(path),
        ranges=ranges,
    )
    return source, {name: tuple(map(str, found[name].tolist())) for name in columns}


def _needs(path: Path, there: Collection[str], name: str) -> None:
    if name not in there:
        raise ValueError(
            f"{path}: must hold the array {name!r}, holds {', '.join(there) or 'none'}; add it"
        )


def _answers(trained: Trained, path: Path, y: NDArray[Any]) -> NDArray[Any]:
    """Return the answers of an array, as the model's task has them."""
    width = len(trained.labels)
    if trained.scenario.classifies:
        if y.ndim != 1:
            raise ValueError(
                f"{path}: y must be one class a record, of shape [n], got {list(y.shape)}; correct "
                "it"
            )
        if y.dtype.kind in "iu":
            wrong = np.flatnonzero((y < 0) | (y >= width))
            found: NDArray[Any] = y.astype(np.int64)
        else:
            place = {name: at for at, name in enumerate(trained.labels)}
            found = np.array([place.get(str(one), -1) for one in y.tolist()], np.int64)
            wrong = np.flatnonzero(found < 0)
        if len(wrong):
            raise ValueError(
                f"{path}: y must be class numbers below {width}, or among "
                f"{', '.join(trained.labels)}, got {y[wrong[0]]}; correct it"
            )
        return found
    y = y[:, None] if y.ndim == 1 else y
    if y.shape[1:] != (width,) or y.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: y must be numbers of shape [n, {width}] ({', '.join(trained.labels)}), got "
            f"{y.dtype} {list(y.shape)}; correct it"
        )
    if not np.isfinite(y).all():
        raise ValueError(f"{path}: y must be finite, and is not; leave those records out")
    if trained.scale is None:
        return y.astype(np.float32)
    low, high = trained.scale
    scaled: NDArray[np.float32] = ((y - low) * (2 / (high - low)) - 1).astype(np.float32)
    return scaled
