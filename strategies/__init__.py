"""How a server turns updates into the next model; one file a strategy, one line in the registry."""

from __future__ import annotations

from fedlite.registry import Registry
from fedlite.scenario import Federation
from fedlite.settings import read_options
from strategies.base import Mean, ServerState, Strategy, weighted_mean
from strategies.fedavg import FedAvg
from strategies.feddyn import FedDyn
from strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from strategies.gathered import CoordinateWise, Gathered
from strategies.geometric import GeometricMedian
from strategies.krum import Krum, MultiKrum
from strategies.median import Median
from strategies.normbound import NormBound
from strategies.trimmed import TrimmedMean

STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": FedAvg,
    "feddyn": FedDyn,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "krum": Krum,
    "multi-krum": MultiKrum,
    "geometric-median": GeometricMedian,
    "norm-bound": NormBound,
}
RULES = Registry(
    "federation.strategy",
    "fedlite.strategies",
    STRATEGIES,
    "federation.strategy_options",
    "(federation, mean, **options)",
)

# What no rule may replace where the sum is not noised yet.
_SUM = {name: getattr(Strategy, name) for name in ("start", "add", "combined", "moved", "finish")}


def make(federation: Federation, mean: Mean = weighted_mean) -> Strategy:
    """Return the strategy that the scenario names, which may be one of your own (`registry`).

    `mean` turns a round's sum and weight into its mean. A strategy sees the sum through it only, so
    that noise which the server adds cannot be forgotten.

    Raises ValueError when there is none, and where the server adds noise for one that does not
    leave the sum to `Strategy`.
    """
    options = read_options(federation.strategy_options)
    strategy: Strategy = RULES.make(federation.strategy, federation, mean, options=options)
    if not isinstance(strategy, Strategy):
        raise ValueError(
            f"federation.strategy: {federation.strategy!r} must make a strategies.Strategy, got "
            f"{strategy!r}; name a class derived from it"
        )
    own = [name for name in _SUM if getattr(type(strategy), name, None) is not _SUM[name]]
    if mean is not weighted_mean and own:
        raise ValueError(
            f"federation.strategy: must leave {', '.join(_SUM)} to strategies.Strategy where the "
            "server adds the noise (rule: nobody but the mechanism sees a clear sum), got "
            f"{federation.strategy!r}, which has its own {', '.join(own)}; write its `step` alone"
        )
    return strategy


__all__ = [
    "STRATEGIES",
    "CoordinateWise",
    "FedAvg",
    "FedDyn",
    "Gathered",
    "Mean",
    "ServerState",
    "Strategy",
    "make",
    "weighted_mean",
]
