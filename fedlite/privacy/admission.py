"""Which plans a site admits: the rule that enforces a ceiling on one data set.

A plan (an event and a number of steps) is admitted, and charged, as a whole before its first step.
The first plan is charged by pessimistic PLD: nothing has been released that it could depend on.
Every later one may have been chosen with earlier releases in view. To compose such plans by PLD and
stop at the ceiling is not private in general; to add up Renyi DP at one order that was fixed
beforehand is: a Renyi filter (Feldman and Zrnic 2021, "Individual privacy accounting via a Renyi
filter"; filters as such: Rogers, Roth, Ullman, Vadhan 2016; for plans that take turns, Haney et al.
2023, "Concurrent composition for interactive differential privacy").

Why both rules together hold a ceiling (epsilon, delta). Let r be the first plan's RDP at the order
alpha, and R the largest RDP at alpha that converts to at most epsilon at delta; conversion is
monotone. r is known before the first step, and so is which case applies:

1. r > R: every sum that holds the first plan converts to more than epsilon, so no second plan is
   ever admitted. All that is ever released is the first plan, (epsilon, delta)-DP by its PLD.
2. r <= R: at every later admission the sum of the RDP of all admitted plans is at most R, or the
   plan is refused. The steps run so far, in whatever order plans take turns, never sum to more than
   the plans they belong to. So all of it runs inside a Renyi filter with budget R at alpha and is
   (alpha, R)-RDP, which converts to (epsilon, delta).

Case 1 needs the first plan in every later sum: what a plan left unused is never given back. The
promise is that of the largest ceiling that was ever in force; the order stays that of the first.
Where samples are cut (`cut_slack`), both cases hold for the uncut runs at 99 % of delta, and the
slack of all plans, kept within the other 1 % on every path, is the delta that cutting adds. The
share is the same for all later plans, cut or not, because it too would be chosen adaptively.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fedlite.privacy.composition import PLD_INTERVAL, check_delta, compose_pld, merge, rdp_at
from fedlite.privacy.mechanism import MAX_SLACK, Event, check_count, check_positive

_LARGEST_ORDER = 1024
_COARSE = 10 * PLD_INTERVAL


@dataclass(frozen=True)
class Admission:
    """How many steps of a plan are admitted, and what all plans then cost.

    steps: admitted steps, 0 if none.
    bound: the rule that charged: "pld" for a first plan, "rdp" for every later one.
    charged: epsilon, by `bound`, of the history with this plan of `steps` steps; 0.0 where nothing
    is admitted.
    """

    steps: int
    bound: Literal["pld", "rdp"]
    charged: float


def order_for(epsilon: float, delta: float) -> float:
    """Return the whole Renyi order, 2 to 1024, that lets the most Gaussian steps fit a ceiling.

    With L = log(1 / (delta a)), the RDP `a rho` of Gaussians converts to epsilon where
    `rho = (epsilon - log(1 - 1/a) - L / (a - 1)) / a`, which is largest at the only root of
    `L (2 a - 1) / (a - 1)^2 + log(1 - 1/a) = epsilon` (the left side falls with a). Of its two
    whole neighbours the better is returned, because the RDP of sampled Gaussians is computed
    exactly at whole orders only: against the root that costs less than 0.5 % of rho up to an
    epsilon of 8 at delta 1e-5, and 3 % at 10.

    Raises ValueError when a number is outside its range.

    >>> [order_for(epsilon, 1e-5) for epsilon in (0.5, 1.0, 3.0, 8.0)]
    [32.0, 18.0, 8.0, 4.0]
    """
    check_positive("epsilon", epsilon)
    check_delta(delta)

    def rho(order: int) -> float:
        known = math.log1p(-1.0 / order) - math.log(delta * order) / (order - 1)
        return (epsilon - known) / order

    # rho has one maximum, so the whole number after which it first falls is the best.
    low, high = 2, _LARGEST_ORDER
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if rho(middle + 1) > rho(middle) else (low, middle)
    return float(low)


def rdp_epsilon(parts: Sequence[tuple[Event, int]], order: float, delta: float) -> float:
    """Return epsilon at `delta` of the summed RDP of `parts` at `order`; 0 for no steps.

    Raises ValueError when a number is outside its range.
    """
    return rdp_at(parts, order, delta)


def admit(
    history: Sequence[tuple[Event, int]],
    event: Event,
    steps: int,
    *,
    epsilon: float,
    delta: float,
    order: float,
    slack: float = 0.0,
) -> Admission:
    """Return how much of a plan fits under a ceiling: the largest number of steps, up to `steps`.

    history: every plan admitted before, in its whole length. steps: at least 1.
    epsilon, delta: the ceiling; an epsilon of 0 or less admits nothing.
    order: Renyi order of the ledger, fixed at its first row (`order_for`).
    slack: sum of `delta_slack(epsilon)` over all plans, this one included. Nothing is admitted
    where it is more than 1 % of `delta`. The other 99 % are accounted, or all of it for a first
    plan without slack.

    The admitted steps must be committed before the first of them. Raises ValueError when a number
    is outside its range.

    >>> admit([], Event(10.0), 30, epsilon=3.0, delta=1e-5, order=8.0).steps
    30
    >>> admit([(Event(10.0), 30)], Event(10.0), 30, epsilon=3.0, delta=1e-5, order=8.0).steps
    14
    """
    check_count("steps", steps, 1)
    check_delta(delta)
    for name, value in (("epsilon", epsilon), ("slack", slack)):
        if not math.isfinite(value):
            raise ValueError(f"{name}: must be finite, got {value!r}")
    if slack < 0:
        raise ValueError(f"slack: must be at least 0, got {slack!r}")
    before = bool(merge(history))
    left = delta * (1.0 - MAX_SLACK) if before or slack else delta
    # Checks the order also where it is not used: it is fixed for what comes later.
    rdp_at(history, order, delta)
    if epsilon <= 0 or slack > MAX_SLACK * delta:
        return Admission(0, "rdp" if before else "pld", 0.0)

    def by_rdp(count: int) -> float:
        return rdp_at([*history, (event, count)], order, left)

    def by_pld(count: int) -> float:
        return compose_pld([(event, count)], left)

    def by_coarse_pld(count: int) -> float:
        return compose_pld([(event, count)], left, _COARSE)

    if before:
        found = _largest(by_rdp, epsilon, steps, steps)
        return Admission(found, "rdp", by_rdp(found) if found else 0.0)
    if (charged := by_pld(steps)) <= epsilon:
        return Admission(steps, "pld", charged)
    found = steps
    # RDP is quick and never too low, the coarse grid ten times faster than the fine one: each leads
    # close to what the next decides.
    for bound in (by_rdp, by_coarse_pld, by_pld):
        found = _largest(bound, epsilon, steps, found)
    return Admission(found, "pld", by_pld(found) if found else 0.0)


def _largest(cost: Callable[[int], float], ceiling: float, most: int, guess: int) -> int:
    """Return the largest count of 1..`most` that costs at most `ceiling`, 0 if none.

    cost: must not fall as the count grows. The search begins at `guess`.
    """
    low, high, reach = 0, most + 1, 1
    probe = max(1, guess)
    while high - low > 1:
        if cost(probe) <= ceiling:
            low = probe
            probe = min(low + reach, (low + high) // 2)
        else:
            high = probe
            probe = max(high - reach, (low + high) // 2)
        reach *= 2
    return low
