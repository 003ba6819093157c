"""How far a round moved the model, and whether that is out of all proportion."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median_low

import numpy as np

from fedlite.parameters import Vector

TIMES = 100.0
"""A round that moves the model so many times as far as usual is told of, and not without a word."""


def distance(before: Vector, after: Vector) -> float:
    """Return the L2 norm of what a round changed; both float32 [n]."""
    return _length(after.astype(np.float64) - before)


def jump(moved: float, moves: Iterable[float], before: Vector) -> float:
    """Return how many times as far as usual a round has moved the model, 0 up to `TIMES`.

    moves: of the rounds before; usual is their median, so that one that grows by and by is seen as
    well. In the first round that moves it is the length of the model `before`, or of one with all
    weights 1 where that is longer.
    """
    known = [move for move in moves if move > 0.0]
    usual = median_low(known) if known else max(_length(before), float(before.size) ** 0.5)
    return moved / usual if moved > TIMES * usual else 0.0


def _length(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).sum()))
