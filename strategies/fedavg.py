"""Federated averaging with server momentum and an average over the last rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import Decoded
from fedlite.parameters import Vector
from fedlite.scenario import Federation

# A site's claim of its size is a lever on the average; no honest site here has more.
MOST_RECORDS = 100_000_000


@dataclass(frozen=True)
class ServerState:
    """What the server must keep between rounds; arrays are float32 [n].

    model: the current model. momentum: the running sum of mean updates. total, averaged: sum and
    count of the models of the last rounds, whose mean is what the run releases.
    """

    model: Vector
    momentum: Vector
    total: NDArray[np.float64]
    averaged: int = 0

    @classmethod
    def initial(cls, vector: Vector) -> ServerState:
        """Return the state before the first round."""
        return cls(vector.copy(), np.zeros_like(vector), np.zeros(vector.shape, np.float64))

    @property
    def released(self) -> Vector:
        """The model to evaluate and deploy: the average so far, or else the current model."""
        if not self.averaged:
            return self.model
        return (self.total / self.averaged).astype(np.float32)


Mean = Callable[[NDArray[np.float64], float], Vector]


def weighted_mean(total: NDArray[np.float64], weight: float) -> Vector:
    """Return `total / weight`, float32 [n]: the mean without privacy."""
    return (total / weight).astype(np.float32)


class FedAvg:
    """McMahan et al. 2017; server momentum as in Hsu, Qi, Brown 2019; streaming.

    `start`, then `add` once an update, then `finish`. The sum is the only vector it holds, so
    memory does not grow with the number of sites. With `weighting = "uniform"` every site counts
    the same; with `"records"` as many times as it has training records.

    With `average_last = f` the released model is the mean over the last fraction f of the rounds
    (Polyak and Juditsky 1992): it averages out noise, of privacy or of compression.
    """

    def __init__(self, federation: Federation, mean: Mean = weighted_mean) -> None:
        """Keep the settings, and how a sum and its weight become a mean (with noise or without)."""
        self._settings = federation
        self._mean = mean
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._weight = 0.0

    def start(self, size: int) -> None:
        """Begin a round for vectors of `size` values, with an empty sum."""
        self._sum = np.zeros(size, np.float64)
        self._weight = 0.0

    def add(self, update: Decoded, records: int) -> None:
        """Add one site's update to the sum.

        Raises ValueError when the weights need the record count and it is missing or absurd; the
        sum is then unchanged.
        """
        weight = 1.0
        if self._settings.weighting == "records":
            if not 1 <= records <= MOST_RECORDS:
                raise ValueError(f"records: must be from 1 to {MOST_RECORDS}, got {records}")
            weight = float(records)
        update.add_to(self._sum, weight)
        self._weight += weight

    def finish(self, state: ServerState, round_number: int) -> ServerState:
        """Return the state after the round; without any update the model stays as it is."""
        settings = self._settings
        momentum = state.momentum
        if self._weight:
            mean = self._mean(self._sum, self._weight)
            momentum = np.float32(settings.server_momentum) * momentum + mean
        model = state.model
        if self._weight:
            model = model + np.float32(settings.server_learning_rate) * momentum
        after = replace(state, model=model, momentum=momentum)
        if round_number > settings.rounds * (1 - settings.average_last):
            after = replace(after, total=state.total + model, averaged=state.averaged + 1)
        return after
