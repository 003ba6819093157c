"""The coordinate-wise median."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlite.scenario import Federation
from strategies.base import Mean, weighted_mean
from strategies.gathered import CoordinateWise, Values


class Median(CoordinateWise):
    """The median of each coordinate (Yin, Chen, Ramchandran, Bartlett 2018, definition 1).

    Of an even number it is the mean of the two in the middle. Fewer than half of the updates,
    whatever is in them, cannot bring a coordinate out of the range of the others. Where honest
    sites differ, a median of theirs is not their mean: labels that few sites have are outvoted.

    It holds every update of a round, and is valid under noise at the sites (`Gathered`).
    """

    def __init__(self, federation: Federation, mean: Mean = weighted_mean) -> None:
        """Raise ValueError where two updates could make a round: each is then half of it."""
        super().__init__(federation, mean, least=3, rule="of two updates no middle one can be told")

    def across(self, values: Values) -> NDArray[np.floating]:
        """Return the median of each column of float32 [k, m]."""
        return np.median(values, axis=0)
