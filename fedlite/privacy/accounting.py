"""What a mechanism costs: epsilon by three accountants, and the noise for a wanted epsilon.

PLD (Google's dp-accounting, pessimistic discretisation) is the bound that is planned and enforced:
the number of steps is committed before the first one, so the composed loss is that of a fixed plan.
PRV (Opacus, Gopi et al. 2021) is reported beside it by an independent library, with its stated
error; RDP (Mironov 2017) is the looser classic.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fedlite.privacy.mechanism import RecordMechanism

PLD_INTERVAL = 1e-4
_COARSE = 1e-3
PRV_ERROR = 0.01


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
        return (
            self.pld - slack <= self.prv <= self.pld + 2 * self.prv_error + slack
            and self.rdp >= self.pld - slack
        )


def spent(mechanism: RecordMechanism, steps: int, delta: float) -> PrivacyLoss:
    """Return the privacy loss of `steps` steps at `delta`; 0 steps cost nothing."""
    _check(steps, delta)
    if steps == 0:
        return PrivacyLoss(0.0, 0.0, 0.0)
    sigma, rate = mechanism.noise_multiplier, mechanism.sampling_rate
    return PrivacyLoss(
        pld=pld(sigma, rate, steps, delta),
        prv=prv(sigma, rate, steps, delta),
        rdp=rdp(sigma, rate, steps, delta),
    )


def _check(steps: int, delta: float) -> None:
    if steps < 0:
        raise ValueError(f"steps: must be at least 0, got {steps}")
    if not 0 < delta < 1:
        raise ValueError(f"delta: must be greater than 0 and less than 1, got {delta!r}")


@lru_cache(maxsize=4096)
def pld(
    sigma: float, rate: float, steps: int, delta: float, interval: float = PLD_INTERVAL
) -> float:
    """Epsilon by privacy loss distributions, add-or-remove one record; rounded up to `interval`.

    Doroshenko, Ghazi, Kamath, Kumar, Manurangsi (2022): "Connect the dots".
    """
    from dp_accounting.pld import privacy_loss_distribution as distributions

    if rate == 1.0:
        # Gaussians compose exactly: T steps with sigma are one step with sigma / sqrt(T).
        single = distributions.from_gaussian_mechanism(
            sigma / math.sqrt(steps), value_discretization_interval=interval
        )
        return float(single.get_epsilon_for_delta(delta))
    step = distributions.from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=interval
    )
    return float(step.self_compose(steps).get_epsilon_for_delta(delta))


@lru_cache(maxsize=256)
def prv(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Upper bound on epsilon by Opacus's PRV accountant (Gopi, Lee, Wutschitz 2021)."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(sigma, rate, steps)]
    with warnings.catch_warnings():
        # It sizes its grid by a rough RDP bound and warns that this bound is rough.
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, eps_error=PRV_ERROR))


@lru_cache(maxsize=256)
def rdp(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon by Renyi DP (Mironov 2017; Mironov, Talwar, Zhang 2019)."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    event: Any = GaussianDpEvent(sigma)
    if rate < 1.0:
        event = PoissonSampledDpEvent(rate, event)
    accountant = RdpAccountant()
    accountant.compose(event, steps)
    return float(accountant.get_epsilon(delta))


def running(mechanism: RecordMechanism, steps: int, delta: float) -> float:
    """Return a bound on epsilon after `steps` steps, quickly, for showing it round by round.

    The whole plan gets the fine grid of the report; its prefixes a ten times coarser one, which is
    pessimistic too.
    """
    _check(steps, delta)
    if steps == 0:
        return 0.0
    interval = PLD_INTERVAL if steps == mechanism.steps else _COARSE
    return pld(mechanism.noise_multiplier, mechanism.sampling_rate, steps, delta, interval)


@lru_cache(maxsize=64)
def calibrate(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Return the smallest noise multiplier, to about 0.1 %, whose plan fits `epsilon`.

    It fits when PLD is at most `epsilon`, and PRV at most `epsilon` plus its stated error.

    Raises ValueError when a number is outside its range.
    """
    _check(steps, delta)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon: must be finite and greater than 0, got {epsilon!r}")
    if not 0 < rate <= 1:
        raise ValueError(f"sampling_rate: must be greater than 0 and at most 1, got {rate!r}")

    # The coarse grid is pessimistic too, only looser, and ten times faster.
    low = high = 1.0
    while pld(high, rate, steps, delta, _COARSE) > epsilon:
        low, high = high, high * 2
    while low > 1e-2 and pld(low, rate, steps, delta, _COARSE) <= epsilon:
        low, high = low / 2, low
    while high / low > 1.0005:
        middle = math.sqrt(low * high)
        if pld(middle, rate, steps, delta, _COARSE) > epsilon:
            low = middle
        else:
            high = middle
    # The fine grid and the second library must agree that the plan fits.
    while (
        pld(high, rate, steps, delta) > epsilon
        or prv(high, rate, steps, delta) > epsilon + PRV_ERROR
    ):
        high *= 1.0002
    return high
