"""What a mechanism costs: epsilon by three accountants, and the noise for a wanted epsilon.

PLD (Google's dp-accounting, pessimistic discretisation) is the bound that is planned and enforced:
the number of steps is committed before the first one, so the composed loss is that of a fixed plan.
PRV (Opacus, Gopi et al. 2021) is reported beside it by an independent library, with its stated
error; RDP (Mironov 2017) is the looser classic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedlite.privacy.composition import (
    MOST_NOISE,
    PLD_INTERVAL,
    PRV_ERROR,
    Parts,
    check_delta,
    compose_pld,
    compose_prv,
    compose_rdp,
    gaussian,
)
from fedlite.privacy.mechanism import (
    MAX_SLACK,
    Event,
    Mechanism,
    RecordMechanism,
    SharedMechanism,
    check_cap,
    check_count,
    check_positive,
    check_rate,
)
from fedlite.privacy.shared.lattice import rounding_slack

__all__ = [
    "PLD_INTERVAL",
    "PRV_ERROR",
    "Parts",
    "PrivacyLoss",
    "calibrate",
    "check_delta",
    "check_rounding",
    "compose_pld",
    "compose_prv",
    "compose_rdp",
    "pld",
    "prv",
    "rdp",
    "running",
    "seen_with",
    "spent",
    "spent_together",
    "table",
]

_COARSE = 1e-3
# How close the root is looked for, in the logarithm of the noise multiplier.
_CLOSE = 2.5e-4
_LEAST = 1e-2
# The coarse grid costs far less than this; beyond it the libraries contradict each other.
_FARTHEST = 1.02


@dataclass(frozen=True)
class PrivacyLoss:
    """Epsilon at one delta, three ways. `prv` is an upper bound that includes `prv_error`."""

    pld: float
    prv: float
    rdp: float
    prv_error: float = PRV_ERROR

    @property
    def agree(self) -> bool:
        """False raises an alarm: two independent libraries contradict each other."""
        slack = 0.005
        within = self.pld - slack <= self.prv <= self.pld + 2 * self.prv_error + slack
        # An infinite PRV was not computed: nothing that it could contradict.
        return (within or math.isinf(self.prv)) and self.rdp >= self.pld - slack


def spent(mechanism: Mechanism, steps: int, delta: float) -> PrivacyLoss:
    """Return the privacy loss of `steps` steps of the plan at `delta`; 0 steps cost nothing.

    Raises ValueError for a number outside its range, for more steps than planned, and for a
    `max_batch` whose cuts cost more than 1 % of `delta` (the other 99 % are then accounted).
    """
    parts, kept = _planned(mechanism, steps, delta)
    loss = compose_pld(parts, kept)
    _check_cut(mechanism, loss, delta)
    return PrivacyLoss(pld=loss, prv=compose_prv(parts, kept), rdp=compose_rdp(parts, kept))


def spent_together(mechanisms: Sequence[Mechanism], delta: float) -> PrivacyLoss:
    """Return the privacy loss at `delta` of several whole plans, all settled before the first step.

    As an audit adds up plans, 1 % of delta is left to samples that are cut, whether any are. Raises
    ValueError as `spent` does.
    """
    check_delta(delta)
    parts = [(mechanism.event, mechanism.steps) for mechanism in mechanisms]
    kept = delta * (1.0 - MAX_SLACK)
    loss = compose_pld(parts, kept)
    for mechanism in mechanisms:
        _check_cut(mechanism, loss, delta)
    return PrivacyLoss(pld=loss, prv=compose_prv(parts, kept), rdp=compose_rdp(parts, kept))


def running(mechanism: Mechanism, steps: int, delta: float) -> float:
    """Return a bound on epsilon after `steps` steps, quickly, for showing it round by round.

    The whole plan gets the fine grid of the report. Of its prefixes the loss is exact where all
    records are in every step, and else that of a ten times coarser grid, which is pessimistic too.
    Raises ValueError as `spent` does.
    """
    parts, kept = _planned(mechanism, steps, delta)
    if steps == mechanism.steps:
        loss = compose_pld(parts, kept)
    else:
        loss = gaussian(parts, kept) or compose_pld(parts, kept, _COARSE)
    _check_cut(mechanism, loss, delta)
    return loss


def _planned(mechanism: Mechanism, steps: int, delta: float) -> tuple[Parts, float]:
    check_count("steps", steps, 0)
    check_delta(delta)
    if steps > mechanism.steps:
        raise ValueError(
            f"steps: must be at most the {mechanism.steps} that the plan committed, got {steps}"
        )
    cuts = mechanism.delta_slack(0.0) > 0
    return [(mechanism.event, steps)], delta * (1.0 - MAX_SLACK) if cuts else delta


def _check_cut(mechanism: Mechanism, epsilon: float, delta: float) -> None:
    if isinstance(mechanism, SharedMechanism) and math.isfinite(epsilon):
        check_rounding(mechanism, epsilon, delta)
    # An infinite epsilon claims nothing that a cut could break.
    if isinstance(mechanism, RecordMechanism) and mechanism.max_batch and math.isfinite(epsilon):
        check_cap(
            epsilon,
            delta,
            mechanism.sampling_rate,
            mechanism.steps,
            mechanism.max_batch,
            mechanism.max_records,
        )


def check_rounding(mechanism: SharedMechanism, epsilon: float, delta: float) -> None:
    """Raise ValueError unless rounding at the sites costs at most 1 % of `delta`, at `epsilon`.

    Asked when the plan is made, before anything is spent, and again of what is accounted.
    """
    lost = mechanism.delta_slack(epsilon)
    if not lost <= MAX_SLACK * delta:
        raise ValueError(
            f"delta: rounding at the sites must cost at most {MAX_SLACK:.0%} of it (rule: no more "
            f"is kept for that, {MAX_SLACK * delta:.2g}), got {lost:.2g} at epsilon {epsilon:.4g} "
            f"over {mechanism.steps} sums of {mechanism.coordinates} values; set a lower epsilon, "
            "a lower density or fewer rounds"
        )


def pld(
    sigma: float, rate: float, steps: int, delta: float, interval: float = PLD_INTERVAL
) -> float:
    """Return epsilon by privacy loss distributions (`compose_pld`) of one kind of step."""
    return compose_pld([(Event(sigma, rate), steps)], delta, interval)


def prv(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Return an upper bound on epsilon by Opacus's PRV (`compose_prv`) of one kind of step."""
    return compose_prv([(Event(sigma, rate), steps)], delta)


def rdp(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Return epsilon by Renyi DP (`compose_rdp`) of one kind of step."""
    return compose_rdp([(Event(sigma, rate), steps)], delta)


def _bracket(over: Callable[[float], float], guess: float) -> tuple[float, float]:
    """Return logarithms of noise multipliers between which `over` falls below 0, ends excepted.

    guess: where to begin: what a Gaussian of many small steps needs is mostly a few percent too
    much. From there outwards in steps that double, as each look takes a tenth of a second or more.
    """
    least, most = math.log(_LEAST), math.log(MOST_NOISE)
    low = high = min(max(math.log(guess), least), most)
    width = 0.25
    while over(high) > 0 and high < most:
        low, high, width = high, min(high + width, most), 2 * width
    while over(low) <= 0 and low > least:
        low, high, width = max(low - width, least), low, 2 * width
    return low, high


def seen_with(mechanism: SharedMechanism, count: int, delta: float) -> float:
    """Return epsilon of the whole plan when the noise of `count` honest sites is in every sum.

    With 1 all other sites collude with the server. By PLD, on the grid of the report. Where
    rounding by so many would cost more of `delta` than is kept for it, the figure is that of fewer,
    whose noise is in the sum as well; of one, rounding costs nothing.
    """
    most = MAX_SLACK * delta
    for left in range(count, 0, -1):
        loss = compose_pld([(mechanism.seen_with(left), mechanism.steps)], delta - most)
        lost = rounding_slack(loss, left, mechanism.coordinates, mechanism.steps)
        if lost <= most:
            break
    return loss


def table(mechanism: SharedMechanism, delta: float) -> dict[int, float]:
    """Return epsilon by how many of all sites are honest, from the fewest whose noise is sure.

    Of those as many may be missing in a sum as `least` lets, and all who are not may be in one
    group. Where those that are left are no more than may be missing, each can be singled out
    (`SharedMechanism.hidden_among`), and its row is the first: what is left when all others of it
    collude with the server.
    """
    # Each honest one more is one more whose noise is sure.
    others = mechanism.honest - mechanism.carried
    return {
        count: seen_with(mechanism, mechanism.hidden_among(count - others), delta)
        for count in range(others + 1, mechanism.sites + 1)
    }


@lru_cache(maxsize=64)
def calibrate(
    epsilon: float,
    delta: float,
    rate: float,
    steps: int,
    max_batch: int = 0,
    max_records: int = 0,
) -> float:
    """Return the smallest noise multiplier, to about 0.1 %, whose plan fits `epsilon`.

    It fits when PLD is at most `epsilon`, and PRV, where it has an answer, at most `epsilon` plus
    its stated error.
    `max_batch` and `max_records` as in `RecordMechanism`: 1 % of `delta` is kept for the cuts.

    Raises ValueError when a number is outside its range, `max_batch` is too small, no noise
    multiplier up to 1,000,000 is enough, or the libraries do not agree on any near the smallest.
    """
    from scipy.optimize import brentq

    check_count("steps", steps, 1)
    check_delta(delta)
    check_positive("epsilon", epsilon)
    check_rate(rate)
    if max_batch and check_cap(epsilon, delta, rate, steps, max_batch, max_records) > 0:
        delta *= 1.0 - MAX_SLACK

    def over(size: float) -> float:
        """Return how many times too large the loss is with noise e^size, as a logarithm."""
        # The coarse grid is pessimistic too, only looser, and ten times faster.
        ratio = pld(math.exp(size), rate, steps, delta, _COARSE) / epsilon
        return math.log(min(max(ratio, 1e-9), 1e9))

    low, high = _bracket(over, rate * math.sqrt(2 * steps * math.log(1 / delta)) / epsilon)
    if over(high) > 0:
        raise ValueError(
            f"epsilon: must be one that a noise multiplier of {MOST_NOISE:.0e} can meet over "
            f"{steps} steps at delta {delta:g}, got {epsilon!r}; set it higher"
        )
    if over(low) > 0:
        high = brentq(over, low, high, xtol=_CLOSE) + _CLOSE
    # A site and its server must find the same number, and a root finder carries on what their
    # processors round otherwise: so no more digits than both are sure of.
    high = float(f"{math.exp(high):.4e}")

    def agreed(sigma: float) -> bool:
        """Return whether the fine grid and the second library both say that the plan fits."""
        if pld(sigma, rate, steps, delta) > epsilon:
            return False
        # Not Opacus: loading it takes longer than all of the above.
        found = compose_prv([(Event(sigma, rate), steps)], delta, library="prv-accountant")
        return found <= epsilon + PRV_ERROR or found == math.inf

    found = high
    while not agreed(high):
        high *= 1.0002
        if high > _FARTHEST * found:
            raise ValueError(
                f"delta: must be one at which the accountants agree on the noise for epsilon "
                f"{epsilon:g} over {steps} steps, got {delta:g}; set it higher, 1e-10 is enough"
            )
    return high
