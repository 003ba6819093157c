"""How a server turns updates into the next model; one file a strategy, one line in the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fedlite.compression import Decoded
from fedlite.scenario import Federation
from strategies.fedavg import FedAvg, Mean, ServerState, weighted_mean


class Strategy(Protocol):
    """State in, state out: every array that must survive a restart is in `ServerState`."""

    def start(self, size: int) -> None:
        """Begin a round for vectors of `size` values, with an empty sum."""

    def add(self, update: Decoded, records: int) -> None:
        """Add one site's update; `records` is 0 when the site does not disclose it."""

    def finish(self, state: ServerState, round_number: int) -> ServerState:
        """Return the state after the round."""


STRATEGIES: dict[str, Callable[[Federation, Mean], Strategy]] = {"fedavg": FedAvg}


def make(federation: Federation, mean: Mean = weighted_mean) -> Strategy:
    """Return the strategy that the scenario names; raises ValueError when there is none.

    `mean` turns a round's sum and weight into its mean. A strategy sees the sum through it only, so
    that noise which the server adds cannot be forgotten.
    """
    if federation.strategy not in STRATEGIES:
        raise ValueError(
            f"federation.strategy: must be one of {', '.join(sorted(STRATEGIES))}, got "
            f"{federation.strategy!r}"
        )
    return STRATEGIES[federation.strategy](federation, mean)


__all__ = ["STRATEGIES", "FedAvg", "Mean", "ServerState", "Strategy", "make", "weighted_mean"]
