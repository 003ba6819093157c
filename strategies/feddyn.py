"""The server's half of FedDyn (Acar et al. 2021, algorithm 1)."""

from __future__ import annotations

import numpy as np

from fedlite.parameters import Vector
from strategies.base import ServerState, Strategy


class FedDyn(Strategy):
    """The mean of the sites' models, moved on by what the sites' slopes have added up to.

    With h of the paper, `drift` is -h / alpha, float32 [n]: the sum over the rounds of the mean
    update times the share of all sites that it came from. So alpha is the sites' alone.
    """

    by_portion = False

    def step(self, state: ServerState, mean: Vector) -> ServerState:
        """Return the state after `drift += share * mean` and a step of `mean + drift`."""
        share = np.float32(self._weight / self.settings.sites)
        drift = state.array("drift") + share * mean
        return state.having(model=state.model + mean + drift, drift=drift)
