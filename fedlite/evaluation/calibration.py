"""Whether probabilities mean what they say: of those told at 0.8, are 80 % right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Answers of about one confidence: their mean confidence, their share of hits, how many."""

    confidence: float
    hits: float
    records: int


@dataclass(frozen=True)
class Calibration:
    """error: expected calibration error, the mean distance of confidence and hits, from 0 to 1.

    brier: mean squared distance of a probability to what was true: of classes summed over them
    (0 to 2), of labels the mean over all decisions (0 to 1). bins: those that hold answers.
    """

    error: float
    brier: float
    bins: list[Bin]


def of_classes(shares: NDArray[np.float64], true: NDArray[np.int64]) -> Calibration:
    """Return how the probabilities [n, classes] of the likeliest classes are kept.

    Source: Guo et al. 2017, "On calibration of modern neural networks", equation 3, with 15 bins
    of one width; Brier 1950.

    >>> right = np.array([[0.9, 0.1], [0.9, 0.1]])
    >>> round(of_classes(right, np.array([0, 1])).error, 6)
    0.4
    """
    told = shares.argmax(axis=1)
    wanted = np.zeros_like(shares)
    wanted[np.arange(len(true)), true] = 1.0
    brier = float(((shares - wanted) ** 2).sum(axis=1).mean())
    return _binned(shares.max(axis=1), told == true, brier)


def of_labels(shares: NDArray[np.float64], true: NDArray[np.bool_]) -> Calibration:
    """Return how the probabilities [n, labels] that labels hold are kept, all of them together."""
    flat, holds = shares.ravel(), true.ravel()
    return _binned(flat, holds, float(((flat - holds) ** 2).mean()))


def _binned(confidence: NDArray[np.float64], hits: NDArray[np.bool_], brier: float) -> Calibration:
    place = np.clip((confidence * BINS).astype(np.int64), 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = np.bincount(place, confidence, BINS)
    right = np.bincount(place, hits.astype(np.float64), BINS)
    error = float(np.abs(sums - right).sum() / len(confidence))
    bins = [
        Bin(float(sums[at] / counts[at]), float(right[at] / counts[at]), int(counts[at]))
        for at in np.flatnonzero(counts)
    ]
    return Calibration(error, brier, bins)
