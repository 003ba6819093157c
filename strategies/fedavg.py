"""Federated averaging with server momentum."""

from __future__ import annotations

import numpy as np

from fedlite.parameters import Vector
from strategies.base import ServerState, Strategy


class FedAvg(Strategy):
    """McMahan et al. 2017; server momentum as in Hsu, Qi, Brown 2019.

    `momentum` is the running sum of mean updates, float32 [n].
    """

    def step(self, state: ServerState, mean: Vector) -> ServerState:
        """Return the state after `server_learning_rate` times the momentum."""
        momentum = np.float32(self.settings.server_momentum) * state.array("momentum") + mean
        rate = np.float32(self.settings.server_learning_rate)
        return state.having(model=state.model + rate * momentum, momentum=momentum)
