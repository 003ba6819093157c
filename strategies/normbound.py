"""The mean of updates none of which is longer than usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedlite.compression import Decoded
from fedlite.parameters import Vector
from fedlite.privacy import client
from fedlite.scenario import Federation
from strategies.base import Mean, weighted_mean
from strategies.gathered import Gathered, weighted


class NormBound(Gathered):
    """The mean, after every update was cut to `factor` times the median length of its round.

    Sun, Kairouz, Suresh, McMahan 2019, "Can you really backdoor federated learning?", with a bound
    that follows the updates. A bound that is known beforehand is `federation.update_norm`, which
    needs none of this memory and with which sites keep their residuals in proportion. It limits
    what a minority can do in a round, and does not stop it.

    It holds every update of a round, and is valid under noise at the sites (`Gathered`).
    """

    def __init__(
        self, federation: Federation, mean: Mean = weighted_mean, *, factor: float = 1.0
    ) -> None:
        """Raise ValueError for a factor that is not above 0, and where two updates make a round."""
        super().__init__(
            federation, mean, least=3, rule="of two updates nobody can tell which is the odd one"
        )
        if not 0 < factor < np.inf:
            raise ValueError(
                f"federation.strategy: {federation.strategy} must have a factor greater than 0, "
                f"got {factor!r}; leave it out"
            )
        self.factor = factor

    def combine(self, updates: Sequence[Decoded]) -> Vector:
        """Return the mean of the cut updates, float32 [n]."""
        lengths = [np.sqrt(np.square(u.values, dtype=np.float64).sum()) for u in updates]
        bound = self.factor * float(np.median(lengths))
        cut = [replace(update, values=client.clip(update.values, bound)) for update in updates]
        return weighted(cut, np.full(len(cut), 1 / len(cut)))
