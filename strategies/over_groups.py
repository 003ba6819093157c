"""A rule over the sums of groups: each is one update to it, so that a robust rule can judge it."""

from __future__ import annotations

from dataclasses import replace

from fedlite.scenario import Scenario
from strategies import make
from strategies.base import Mean, Strategy, weighted_mean
from strategies.gathered import TooFew


def make_over(scenario: Scenario, mean: Mean = weighted_mean) -> Strategy:
    """Return the strategy of a scenario, over the groups' sums where `privacy.groups` is above 1.

    What the rule is told of a federation are then groups: so many are asked, and a share of
    `attackers` of them is hostile. One hostile site spoils one group of a round.

    Raises ValueError as `make` does, and where there are fewer groups than the rule needs.
    """
    groups = scenario.privacy.groups
    if groups == 1:
        return make(scenario.federation, mean)
    asked = replace(scenario.federation, sites=groups, quorum=groups, participation=1.0, members="")
    try:
        return make(asked, mean)
    except TooFew as few:
        raise ValueError(
            f"privacy.groups: must be at least {few.least} with {few.strategy} (rule: {few.rule}), "
            f"got {groups}; take more groups, with more sites"
        ) from None


def needed(strategy: Strategy, groups: int) -> int:
    """Return with how many groups' sums a round counts: more than half, and what the rule needs."""
    return max(groups // 2 + 1, getattr(strategy, "least", 1))
