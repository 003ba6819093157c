"""Krum and multi-Krum: the updates that have the nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlite.compression import Decoded
from fedlite.parameters import Vector
from fedlite.scenario import Federation
from strategies.base import Mean, weighted_mean
from strategies.gathered import Gathered, gram, hostile, squared_distances, weighted


class Krum(Gathered):
    """The one update whose nearest neighbours are nearest.

    Blanchard, El Mhamdi, Guerraoui, Stainer 2017: of k updates, the score of each is the sum of its
    squared distances to the k - f - 2 nearest others, and the lowest is taken. f is the share
    `attackers` of the sites that are asked in a round, rounded up; it needs 2 f + 3 updates.

    One site's update is the round's, with all the error of an unbiased compressor. One far from all
    others is never taken; a short one is nearer to noisy ones than they are to each other.

    It holds every update of a round, and is valid under noise at the sites (`Gathered`).
    """

    def __init__(
        self, federation: Federation, mean: Mean = weighted_mean, *, attackers: float = 0.2
    ) -> None:
        """Raise ValueError where a round could count with fewer than 2 f + 3 updates."""
        self.f = hostile(federation, attackers)
        rule = f"2 f + 3 updates, with f = {self.f} of {federation.participants} hostile"
        super().__init__(federation, mean, least=2 * self.f + 3, rule=rule)

    def combine(self, updates: Sequence[Decoded]) -> Vector:
        """Return the mean of the chosen updates, float32 [n]."""
        count = len(updates)
        squares = np.sort(squared_distances(gram(updates)), axis=1)
        # The first of each row is its distance to itself.
        scores = squares[:, 1 : max(2, count - self.f - 1)].sum(axis=1)
        chosen = np.argsort(scores, kind="stable")[: self.chosen(count)]
        weights = np.zeros(count)
        weights[chosen] = 1 / chosen.size
        return weighted(updates, weights)

    def chosen(self, count: int) -> int:
        """Return how many of so many updates are taken."""
        return 1


class MultiKrum(Krum):
    """The mean of the k - f - 2 updates with the lowest scores of `Krum`, or of fewer.

    As many as are proven (Damaskinos et al. 2019, "AggregaThor", section 3); `select` above 0 takes
    that many of them instead.
    """

    def __init__(
        self,
        federation: Federation,
        mean: Mean = weighted_mean,
        *,
        attackers: float = 0.2,
        select: int = 0,
    ) -> None:
        """Raise ValueError as `Krum` does, and for a negative number."""
        super().__init__(federation, mean, attackers=attackers)
        if select < 0:
            raise ValueError(
                f"federation.strategy: {federation.strategy} must select 0 (as many as are proven) "
                f"or more updates, got {select}; leave it out"
            )
        self._select = select

    def chosen(self, count: int) -> int:
        """Return how many of so many updates are taken: at least one."""
        most = max(1, count - self.f - 2)
        return min(self._select or most, most)
