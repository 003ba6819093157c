"""The geometric median, by the smoothed Weiszfeld algorithm (RFA)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlite.compression import Decoded
from fedlite.parameters import Vector
from fedlite.scenario import Federation
from strategies.base import Mean, weighted_mean
from strategies.gathered import Gathered, gram, weighted

_SMOOTHING = 1e-6
_SETTLED = 1e-9
# Shorter than any update of float32 that is not zero.
_NOTHING = 1e-100


class GeometricMedian(Gathered):
    """The vector with the least sum of distances to the updates.

    Pillutla, Kakade, Harchaoui 2022, "Robust aggregation for federated learning", algorithm 2: from
    the mean on, each update counts by one over its distance to the last estimate, and no distance
    for less than a millionth of the median length. It ends when no weight moves by more than 1e-9,
    or after `iterations`. Fewer than half of the updates, whatever is in them, move it by no more
    than a multiple of what the others differ by.

    The estimate is a mean of the updates with other weights, so all is done on their inner
    products, and an iteration costs k^2, whatever the model's size.

    It holds every update of a round, and is valid under noise at the sites (`Gathered`).
    """

    def __init__(
        self, federation: Federation, mean: Mean = weighted_mean, *, iterations: int = 1000
    ) -> None:
        """Raise ValueError for less than one iteration, and where two updates make a round."""
        super().__init__(federation, mean, least=3, rule="of two updates no middle one can be told")
        if iterations < 1:
            raise ValueError(
                f"federation.strategy: {federation.strategy} must have at least 1 of iterations, "
                f"got {iterations}; leave it out"
            )
        self.iterations = iterations

    def combine(self, updates: Sequence[Decoded]) -> Vector:
        """Return the geometric median, float32 [n]."""
        products = gram(updates)
        lengths = np.diag(products)
        least = max(_SMOOTHING * float(np.sqrt(np.median(lengths))), _NOTHING)
        weights = np.full(len(updates), 1 / len(updates))
        for _ in range(self.iterations):
            along = products @ weights
            squares = lengths - 2 * along + weights @ along
            after = 1 / np.maximum(np.sqrt(np.maximum(squares, 0.0)), least)
            after /= after.sum()
            moved = float(np.abs(after - weights).max())
            weights = after
            if moved <= _SETTLED:
                break
        return weighted(updates, weights)
