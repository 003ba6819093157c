"""How a server turns updates into the next model; one file a strategy, one line in the registry."""

from __future__ import annotations

from fedlite.scenario import Federation
from strategies.base import Mean, ServerState, Strategy, weighted_mean
from strategies.fedavg import FedAvg
from strategies.fedopt import FedAdagrad, FedAdam, FedYogi

STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": FedAvg,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}


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
