"""Stratified folds: every record in exactly one, every class spread evenly."""

from __future__ import annotations

import numpy as np

from fedlite.data.dataset import Indices


def stratified_folds(y: Indices, folds: int, rng: np.random.Generator) -> Indices:
    """Return the fold number, 0..folds-1, of each label in `y` (int64 [n]); random within a class.

    The sizes of two folds differ by at most one, and so do their counts of each class.

    >>> stratified_folds(np.array([0, 0, 1, 1]), 2, np.random.default_rng(0)).tolist()
    [0, 1, 0, 1]
    """
    shuffled = rng.permutation(len(y))
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    result = np.empty(len(y), np.int64)
    # Dealing out the records class after class, without starting anew at each class, is what
    # keeps both the fold sizes and the class counts within one of each other.
    result[by_class] = np.arange(len(y)) % folds
    return result
