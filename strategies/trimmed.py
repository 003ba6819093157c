"""The coordinate-wise trimmed mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlite.scenario import Federation
from strategies.base import Mean, weighted_mean
from strategies.gathered import CoordinateWise, Values, hostile


class TrimmedMean(CoordinateWise):
    """The mean of each coordinate without its f smallest and f largest values.

    Yin, Chen, Ramchandran, Bartlett 2018, definition 2. f is the share `attackers` of the sites
    that are asked in a round, rounded up. It needs 2 f + 1 updates, and then f of them, whatever is
    in them, cannot bring a coordinate out of the range of the others.

    It holds every update of a round, and is valid under noise at the sites (`Gathered`).
    """

    def __init__(
        self, federation: Federation, mean: Mean = weighted_mean, *, attackers: float = 0.2
    ) -> None:
        """Raise ValueError where a round could count with fewer than 2 f + 1 updates."""
        self.cut = hostile(federation, attackers)
        least = 2 * self.cut + 1
        rule = f"2 f + 1 updates, with f = {self.cut} of {federation.participants} hostile"
        super().__init__(federation, mean, least=least, rule=rule)

    def across(self, values: Values) -> NDArray[np.floating]:
        """Return the trimmed mean of each column of float32 [k, m], float64 [m]."""
        count = len(values)
        cut = min(self.cut, (count - 1) // 2)
        kept = np.sort(values, axis=0)[cut : count - cut]
        found: NDArray[np.float64] = kept.mean(axis=0, dtype=np.float64)
        return found
