"""The area under the ROC curve, of many owners at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def area_under_curve(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the area under the ROC curve of `scores` [n] for labels [n] in {0, 1}, both present.

    >>> area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    (area,) = areas_under_curves(scores, labels, np.zeros(len(labels), np.int64), 1)
    return float(area)


def areas_under_curves(
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    owners: NDArray[np.int64],
    count: int,
) -> NDArray[np.float64]:
    """Return each owner's area under the ROC curve, float64 [count]; NaN where one label is absent.

    scores: finite, [n]. labels: in {0, 1}, [n]. owners: from 0 to count - 1, [n].

    It is the share of an owner's pairs of one positive and one negative that are ranked right, ties
    counting half (Mann and Whitney 1947). One sort ranks the records of all owners.

    >>> areas_under_curves(np.array([0.1, 0.4, 0.2]), np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([ 1., nan])
    """
    order = np.lexsort((scores, owners))
    scores, labels, owners = scores[order], labels[order], owners[order]
    another = (scores[1:] != scores[:-1]) | (owners[1:] != owners[:-1])
    new = np.r_[True, another][: len(order)]
    first = np.flatnonzero(new)
    after = np.r_[first[1:], len(order)][: len(first)]
    # Equal scores share the middle of their places, counted from 1.
    places = ((first + after + 1) / 2)[np.cumsum(new) - 1]
    sizes = np.bincount(owners, minlength=count)
    places -= (np.cumsum(sizes) - sizes)[owners]
    positive = np.bincount(owners, labels, minlength=count)
    negative = sizes - positive
    ranks = np.bincount(owners, places * labels, minlength=count)
    with np.errstate(invalid="ignore"):
        areas: NDArray[np.float64] = (ranks - positive * (positive + 1) / 2) / (positive * negative)
    return areas
