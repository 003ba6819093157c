"""Records in memory: what a source offers, and what one site holds of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# float32; float64 in a table of one's own until its features are scaled.
Features = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Labelled records: `x` float32 [n, *shape], `y` int64 [n], one row per record.

    raw: the features are not scaled yet, and float64: float32 holds no unix time to a minute.

    Raises ValueError on another dtype or on different lengths.

    >>> data = Dataset(np.zeros((3, 2), np.float32), np.array([0, 1, 1]))
    >>> len(data), data.take(np.array([2])).y.tolist()
    (3, [1])
    """

    x: Features
    y: Indices
    raw: bool = False

    def __post_init__(self) -> None:
        """Refuse arrays that the rest of the library could misread."""
        kind = np.float64 if self.raw else np.float32
        if self.x.dtype != kind or self.x.ndim < 2:
            raise ValueError(
                f"x must be {kind.__name__} of shape [n, *shape], got {self.x.dtype} "
                f"{self.x.shape}; "
                f"convert it with numpy.asarray(x, numpy.{kind.__name__})"
            )
        if self.y.dtype != np.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"y must be int64 of shape [{len(self.x)}], got {self.y.dtype} {self.y.shape}; "
                "give one class number per row of x"
            )

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.y)

    def take(self, indices: Indices) -> Dataset:
        """Return a copy of the records at `indices` (int64 [m]), in that order."""
        return Dataset(self.x[indices], self.y[indices], self.raw)

    def digest(self) -> bytes:
        """Return SHA-256, 32 bytes, over exactly these records in this order.

        It tells whoever can guess the records that he guessed right: keep it where they are.
        """
        digest = hashlib.sha256()
        for array in (self.x, self.y):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.digest()


@dataclass(frozen=True)
class Source:
    """A named data set before it is divided among sites.

    `train` is what sites share out; `test` is a global test set, or None where the source has none.
    `groups` int64 [len(train)] numbers the natural owner of each record (a hospital, say) as an
    index into `group_names`, or is None. `shape` is the shape of one record, `labels` names the
    `classes` class numbers. `origin` says where the bytes came from, with the SHA-256 of what is
    public; it goes into the record of a run, so of a table of one's own it says nothing more.
    `features` names the columns of a table's records, where they have names; `ranges` float64 [2,
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
            if len(data) and not 0 <= int(data.y.min()) <= int(data.y.max()) < self.classes:
                raise ValueError(
                    f"{self.name}: {part} labels must lie in 0..{self.classes - 1}, got "
                    f"{int(data.y.min())}..{int(data.y.max())}; correct `classes` or the labels"
                )
        if len(self.labels) != self.classes:
            raise ValueError(
                f"{self.name}: labels must name all {self.classes} classes, got "
                f"{len(self.labels)} names; give one name per class"
            )
        if self.groups is not None and (
            self.groups.shape != self.train.y.shape
            or np.any((self.groups < 0) | (self.groups >= len(self.group_names)))
        ):
            raise ValueError(
                f"{self.name}: groups must hold an index into the {len(self.group_names)} group "
                f"names for each of {len(self.train)} records, got shape {self.groups.shape}"
            )


@dataclass(frozen=True)
class SiteData:
    """What one site holds: records to train on, and its own held-out part (possibly empty)."""

    name: str
    train: Dataset
    test: Dataset
