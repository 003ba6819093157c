"""Adaptive server optimizers: FedAdagrad, FedYogi and FedAdam (Reddi et al. 2021, algorithm 2)."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from fedlite.parameters import Vector
from strategies.base import ServerState, Strategy

SECOND_DECAY = 0.99
"""beta_2, at which the paper leaves it in all its experiments."""

ADAPTIVITY = 1e-3
"""tau: steps shrink where updates are not much larger than it."""


class _FedOpt(Strategy):
    """What the three share; they differ in how they remember the squares of the updates.

    beta_1 is `federation.server_momentum`, for which the paper takes 0.9 (FedAdagrad: 0), and eta
    `federation.server_learning_rate`: about how far one coordinate may move in a round, so that
    0.01 to 0.1 is usual and the default of 1 far too long. As in the paper there is no correction
    of the first rounds' bias. `first` and `second` are m and v, float32 [n]; v starts at tau^2.

    Noise in `mean` adds its variance to v, and so makes steps shorter.
    """

    def step(self, state: ServerState, mean: Vector) -> ServerState:
        """Return the state after `x += eta m / (sqrt(v) + tau)`, float32."""
        decay = np.float32(self.settings.server_momentum)
        first = decay * state.array("first") + (np.float32(1) - decay) * mean
        second = self._second(state.array("second", ADAPTIVITY**2), np.square(mean))
        rate = np.float32(self.settings.server_learning_rate)
        model = state.model + rate * first / (np.sqrt(second) + np.float32(ADAPTIVITY))
        return state.having(model=model, first=first, second=second)

    @abstractmethod
    def _second(self, before: Vector, square: Vector) -> Vector:
        """Return v after a round whose mean update has the squares `square`."""


class FedAdagrad(_FedOpt):
    """v is the sum of all squares: steps become shorter and shorter."""

    def _second(self, before: Vector, square: Vector) -> Vector:
        return before + square


class FedAdam(_FedOpt):
    """v is a running mean of the squares."""

    def _second(self, before: Vector, square: Vector) -> Vector:
        decay = np.float32(SECOND_DECAY)
        return decay * before + (np.float32(1) - decay) * square


class FedYogi(_FedOpt):
    """v follows the squares by steps that do not grow with it, so it forgets large ones slowly."""

    def _second(self, before: Vector, square: Vector) -> Vector:
        step: Vector = square * np.sign(before - square)
        return before - np.float32(1 - SECOND_DECAY) * step
