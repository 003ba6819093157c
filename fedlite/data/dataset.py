"""Records in memory: what a source offers, and what one site holds of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.cells import SITE_NAME
from fedlite.data.hints import near_name
from fedlite.scenario.tabular import Columns

# float32, or int64 for numbers of words; float64 in a table of one's own until it is scaled.
Features = NDArray[Any]
# Class numbers, int64 [n]; or numbers, float32 [n, width].
Answers = NDArray[Any]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Records as named columns of one length, a row each.

    x: what a model reads, float32 [n, *shape] (or int64: numbers of words, say). y: what it should
    answer: class numbers, int64 [n], or numbers, float32 [n, width]. raw: the features are not
    scaled yet, and float64: float32 holds no unix time to a minute. more: further columns by name,
    [n, ...] of any dtype: what a task reads beside `x`, or what scores are told apart by. version:
    a digest of the rules that made the records of what was read, where there are such.

    Raises ValueError on another dtype or on different lengths.

    >>> words = np.array([[5, 7], [9, 0], [3, 4]])
    >>> data = Dataset(words, np.array([0, 1, 1]), more={"mask": words > 0})
    >>> len(data), data.take(np.array([1])).more["mask"].tolist(), sorted(data.columns)
    (3, [[True, False]], ['mask', 'x', 'y'])
    """

    x: Features
    y: Answers
    raw: bool = False
    more: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    version: str = ""

    def __post_init__(self) -> None:
        """Refuse arrays that the rest of the library could misread."""
        kind = np.float64 if self.raw else np.float32
        if self.x.dtype not in (kind, np.int64) or self.x.ndim < 2:
            raise ValueError(
                f"x must be {kind.__name__} of shape [n, *shape], got {self.x.dtype} "
                f"{self.x.shape}; "
                f"convert it with numpy.asarray(x, numpy.{kind.__name__})"
            )
        numbers = self.y.dtype == np.float32 and self.y.ndim == 2 and self.y.shape[1] > 0
        if len(self.y) != len(self.x) or not (
            numbers or (self.y.dtype == np.int64 and self.y.ndim == 1)
        ):
            raise ValueError(
                f"y must be int64 of shape [{len(self.x)}], or float32 of shape [{len(self.x)}, "
                f"width], got {self.y.dtype} {self.y.shape}; give one class number, or one row of "
                "numbers, per row of x"
            )
        for name, column in self.more.items():
            if name in ("x", "y") or len(column) != len(self.x):
                raise ValueError(
                    f"more: column {name!r} must have a name of its own and a row for each of "
                    f"{len(self.x)} records, got {len(column)}"
                )

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.y)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """All columns by name."""
        return {"x": self.x, "y": self.y, **self.more}

    @property
    def classes(self) -> Indices | None:
        """The class numbers, int64 [n]; None where records have none."""
        return self.y if self.y.dtype == np.int64 else None

    def take(self, indices: Indices) -> Dataset:
        """Return a copy of the records at `indices` (int64 [m]), in that order."""
        more = {name: column[indices] for name, column in self.more.items()}
        return Dataset(self.x[indices], self.y[indices], self.raw, more, self.version)

    def digest(self) -> bytes:
        """Return SHA-256, 32 bytes, over exactly these records in this order, and their version.

        It tells whoever can guess the records that he guessed right: keep it where they are.
        """
        digest = hashlib.sha256(self.version.encode())
        more = [part for name in sorted(self.more) for part in (name, self.more[name])]
        for array in (self.x, self.y, *more):
            if isinstance(array, str):
                digest.update(array.encode())
                continue
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.digest()


@dataclass(frozen=True)
class Source:
    """A named data set before it is divided among sites.

    `train` is what sites share out; `test` is a global test set, or None where the source has none.
    `groups` int64 [len(train)] numbers the natural owner of each record (a hospital, say) as an
    index into `group_names`, or is None. `shape` is the shape of one record, `classes` the width of
    an answer: how many classes, labels or targets there are, which `labels` names. `scale` float64
    [2, classes] says what the targets -1 and 1 stand for, None where they stand as they are.
    `origin` says where the bytes came from, with the SHA-256 of what is
    public; it goes into the record of a run, so of a table of one's own it says nothing more.
    `features` names the columns of a table's records, where they have names; `reading` says how
    another file is read as this one was, without looking at its records; `ranges` float64 [2,
    *shape] holds the lowest and the highest value that is public of each, or is None. `notes` say
    what was found while reading, for whoever holds the records: they tell of them, so they go no
    further.

    Raises ValueError when these disagree.
    """

    name: str
    train: Dataset
    test: Dataset | None
    groups: Indices | None
    group_names: tuple[str, ...]
    shape: tuple[int, ...]
    classes: int
    labels: tuple[str, ...]
    origin: str
    features: tuple[str, ...] = ()
    ranges: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()
    scale: NDArray[np.float64] | None = None
    reading: Columns | None = None

    def check_finite(self) -> None:
        """Raise ValueError where a value is NaN or infinite, and is not for a site to fill in."""
        for part, data in (("train", self.train), ("test", self.test)):
            if data is None:
                continue
            for column in ("x", "y")[data.raw :]:
                if not np.isfinite(data.columns[column]).all():
                    raise ValueError(
                        f"{self.name}: {column} of {part} records must be finite, got NaN or "
                        "infinity; fill in what is missing, or leave those records out"
                    )

    def digest(self) -> bytes:
        """Return SHA-256, 32 bytes, over all records and whose they are; see `Dataset.digest`."""
        digest = hashlib.sha256(self.train.digest())
        if self.test is not None:
            digest.update(self.test.digest())
        if self.groups is not None:
            digest.update(repr(self.group_names).encode() + self.groups.tobytes())
        return digest.digest()

    def __post_init__(self) -> None:
        """Refuse a source whose parts disagree."""
        for part, data in (("train", self.train), ("test", self.test)):
            if data is None:
                continue
            if data.x.shape[1:] != self.shape:
                raise ValueError(
                    f"{self.name}: {part} records must have shape {self.shape}, "
                    f"got {data.x.shape[1:]}; reshape them or correct `shape`"
                )
            if data.classes is None:
                if data.y.shape[1] != self.classes:
                    raise ValueError(
                        f"{self.name}: {part} records must have {self.classes} targets, got "
                        f"{data.y.shape[1]}; correct `classes` or the targets"
                    )
            elif len(data) and not 0 <= int(data.y.min()) <= int(data.y.max()) < self.classes:
                raise ValueError(
                    f"{self.name}: {part} labels must lie in 0..{self.classes - 1}, got "
                    f"{int(data.y.min())}..{int(data.y.max())}; correct `classes` or the labels"
                )
        if len(self.labels) != self.classes:
            raise ValueError(
                f"{self.name}: labels must name all {self.classes} classes, got "
                f"{len(self.labels)} names; give one name per class"
            )
        for name in self.group_names:
            if not SITE_NAME.fullmatch(name):
                raise ValueError(
                    f"{self.name}: a site's name must be 1-64 of A-Z a-z 0-9 . _ - and begin with "
                    f"no sign, got {name!r:.80}; write {near_name(name)!r} for example"
                )
        if self.groups is not None and (
            self.groups.shape != self.train.y.shape[:1]
            or np.any((self.groups < 0) | (self.groups >= len(self.group_names)))
        ):
            raise ValueError(
                f"{self.name}: groups must hold an index into the {len(self.group_names)} group "
                f"names for each of {len(self.train)} records, got shape {self.groups.shape}"
            )


@dataclass(frozen=True)
class SiteData:
    """What one site holds: records to train on, and its own held-out part (possibly empty).

    calibration: the records that choose from which score on an input leaves early, and do nothing
    else; None where the scenario holds out none for it.
    """

    name: str
    train: Dataset
    test: Dataset
    calibration: Dataset | None = None

    def each(self, change: Callable[[Dataset], Dataset]) -> SiteData:
        """Return the site with each of its parts changed."""
        kept = None if self.calibration is None else change(self.calibration)
        return SiteData(self.name, change(self.train), change(self.test), kept)
