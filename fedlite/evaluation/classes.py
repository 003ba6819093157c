"""How a classifier does on each class: who is taken for whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class OfClass:
    """How one class is found: shares of 1, None where there is nothing to share.

    precision: of those told to be of it, how many are. recall: of those that are of it, how many
    are told to be. f1: their harmonic mean. records: how many are of it.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    records: int


def confusion(told: Counts, true: Counts, classes: int) -> Counts:
    """Return how many records of class i were told to be of class j, int64 [classes, classes].

    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.bincount(true * classes + told, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def by_class(counts: Counts, names: tuple[str, ...]) -> list[OfClass]:
    """Return how each class is found, from its row and column of the confusion matrix."""
    found = []
    for at, name in enumerate(names):
        hits, told, true = int(counts[at, at]), int(counts[:, at].sum()), int(counts[at].sum())
        found.append(_of(name, hits, told, true))
    return found


def by_label(
    told: NDArray[np.bool_], true: NDArray[np.bool_], names: tuple[str, ...]
) -> list[OfClass]:
    """Return how each of several labels is found; told and true are bool [n, labels]."""
    hits = (told & true).sum(axis=0)
    return [
        _of(name, int(hits[at]), int(told[:, at].sum()), int(true[:, at].sum()))
        for at, name in enumerate(names)
    ]


def _of(name: str, hits: int, told: int, true: int) -> OfClass:
    precision = hits / told if told else None
    recall = hits / true if true else None
    f1 = 2 * hits / (told + true) if told + true else None
    return OfClass(name, precision, recall, f1, true)
