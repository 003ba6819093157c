"""The epsilon of composed steps, by three accountants, for plans, reports and auditors.

A composition says what a *fixed* list of steps costs. Plans that are chosen one after the other are
admitted by `fedlite.privacy.admission`, and only reported by PLD and PRV.

Only PRV by Opacus needs torch: who audits without it takes `library="prv-accountant"`.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

from fedlite.privacy.mechanism import Event, check_count, check_positive

PLD_INTERVAL = 1e-4
PRV_ERROR = 0.01
# Below this noise one step costs an epsilon of more than 100,000.
_LEAST_NOISE = 1e-3
# Beyond these bounds floats overflow or cancel; they are charged as if they were on the bound.
MOST_NOISE = 1e6
_LEAST_RATE = 1e-9
# Each sampled step is charged with one Gaussian of this noise more: an RDP of 1e-14 x order, which
# is more than the rounding errors of the series that gives its RDP.
_ROUNDING_NOISE = math.sqrt(0.5e14)
# Points of a PLD grid on each side of zero; a larger one is made coarser.
_PLD_POINTS = 500_000
# Losses and steps beyond which a PLD grid is not worth its memory and time: RDP bounds them.
_PLD_REACH = 10_000.0
_PLD_STEPS = 1_000_000
# The masses that a PLD cuts off add up to some 1e-15 a step and count as certain loss: of a delta
# below this they are a part worth seeing, and below them PLD is infinite.
_PLD_DELTA = 1e-9
_PRV_POINTS = 3_000_000
_REACH_ORDERS = (2, 3, 4, 6, 8, 16, 32, 64)

Parts = Sequence[tuple[Event, int]]
_Merged = tuple[tuple[Event, int], ...]


def check_delta(delta: float) -> None:
    """Raise ValueError unless `delta` is between 0 and 1."""
    if not 0 < delta < 1:
        raise ValueError(f"delta: must be greater than 0 and less than 1, got {delta!r}")


def merge(parts: Parts) -> _Merged:
    """Return `parts` in a canonical order, equal events added up and empty ones left out.

    Gaussians without sampling become one: T steps with sigma are, exactly, one step with
    `sigma / sqrt(T)`, and so T1 / sigma1^2 + T2 / sigma2^2 is that of both.

    >>> merge([(Event(3.0), 9), (Event(2.0, 0.1), 4), (Event(2.0, 0.1), 1)])
    ((Event(noise_multiplier=1.0, sampling_rate=1.0), 1), \
(Event(noise_multiplier=2.0, sampling_rate=0.1), 5))
    """
    total: dict[Event, int] = {}
    for given, steps in parts:
        check_count("steps", steps, 0)
        sigma, rate = given.noise_multiplier, given.sampling_rate
        event = Event(min(sigma, MOST_NOISE), max(rate, _LEAST_RATE))
        if steps:
            total[event] = total.get(event, 0) + steps
    sampled = [(event, steps) for event, steps in sorted(total.items()) if event.sampling_rate < 1]
    plain = [(event, steps) for event, steps in sorted(total.items()) if event.sampling_rate == 1]
    if not plain:
        return tuple(sampled)
    least = plain[0][0].noise_multiplier
    # In units of the least sigma, so that no square underflows.
    weight = math.fsum(steps * (least / e.noise_multiplier) ** 2 for e, steps in plain)
    return ((Event(least / math.sqrt(weight)), 1), *sampled)


def compose_pld(parts: Parts, delta: float, interval: float = PLD_INTERVAL) -> float:
    """Return epsilon at `delta` of all `parts` by privacy loss distributions; never too low.

    parts: (event, number of steps), fixed before the first step. The losses are rounded up to
    multiples of `interval` (of a coarser one where epsilon is about 25 or more). Where a grid would
    not fit or not resolve one step (epsilon beyond about 5,000, or more than 1,000,000 sampled
    steps, or next to no loss in any), this is `compose_rdp`, an upper bound too; where delta is
    below 1e-9, the smaller of both. Infinite where a noise multiplier is below 0.001.

    Doroshenko, Ghazi, Kamath, Kumar, Manurangsi (2022): "Connect the dots".
    Raises ValueError when a number is outside its range.
    """
    check_delta(delta)
    check_positive("interval", interval)
    merged = merge(parts)
    loss = _pld(merged, delta, interval)
    if delta < _PLD_DELTA or not math.isfinite(loss):
        # Both are upper bounds, so the smaller one is.
        loss = min(loss, _rdp(merged, delta, None))
    return loss


def gaussian(parts: Parts, delta: float) -> float | None:
    """Return epsilon at `delta` of Gaussian mechanisms alone, exact up to rounding, and rounded up.

    None where a part is sampled, or where delta is too small, or the noise too little, for the
    difference of two tails to be found in float64.

    Balle, Wang (2018), "Improving the Gaussian mechanism for differential privacy", theorem 8.
    Raises ValueError when a number is outside its range.

    >>> round(gaussian([(Event(1.0), 1)], 1e-5), 3)
    4.377
    """
    from scipy.special import log_ndtr

    check_delta(delta)
    merged = merge(parts)
    if len(merged) != 1 or merged[0][0].sampling_rate < 1 or delta < _PLD_DELTA:
        return None
    mu = 1.0 / merged[0][0].noise_multiplier
    if not 1e-3 < mu < 20.0:
        return None

    def tail(epsilon: float) -> float:
        first = math.exp(log_ndtr(mu / 2 - epsilon / mu))
        return first - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))

    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > delta else (low, middle)
    return high * (1 + 1e-6)


def compose_rdp(parts: Parts, delta: float) -> float:
    """Return epsilon at `delta` of all `parts` by Renyi DP, at the best order of a fixed grid.

    Mironov 2017; Mironov, Talwar, Zhang 2019. Infinite where a noise multiplier is below 0.001.
    Raises ValueError when a number is outside its range.
    """
    check_delta(delta)
    return _rdp(merge(parts), delta, None)


def rdp_at(parts: Parts, order: float, delta: float) -> float:
    """Return epsilon at `delta` of all `parts` by Renyi DP at one order.

    order: greater than 1.01. dp-accounting's RDP of the sampled Gaussian is exact at whole orders
    (a finite sum) and an upper bound between them, where it drops the signs of a series: a third
    too high at order 3.7, sigma 10, q 0.5. Conversion: Canonne, Kamath, Steinke 2020, proposition
    12 (which is Balle, Barthe, Gaboardi, Hsu, Sato 2020, theorem 21).
    Raises ValueError when a number is outside its range.
    """
    check_delta(delta)
    if not (math.isfinite(order) and order > 1.01):
        raise ValueError(f"order: must be finite and greater than 1.01, got {order!r}")
    return _rdp(merge(parts), delta, (order,))


def compose_prv(
    parts: Parts, delta: float, *, library: Literal["opacus", "prv-accountant"] = "opacus"
) -> float:
    """Return an upper bound on epsilon at `delta` of all `parts` by privacy random variables.

    Gopi, Lee, Wutschitz 2021; the bound includes the error of the method, `PRV_ERROR`. "opacus"
    needs torch, "prv-accountant" (by that paper's authors) only numpy and scipy. Infinite where its
    grid would be too large, or too rough for the loss.
    Raises ValueError when a number is outside its range, and ImportError where the library is
    missing.
    """
    check_delta(delta)
    if library not in ("opacus", "prv-accountant"):
        raise ValueError(f"library: must be 'opacus' or 'prv-accountant', got {library!r}")
    return _prv(merge(parts), delta, library)


@lru_cache(maxsize=4096)
def _pld(parts: _Merged, delta: float, interval: float) -> float:
    from dp_accounting.pld import privacy_loss_distribution as distributions

    if not parts:
        return 0.0
    reach = _reach(parts)
    if not (reach <= _PLD_REACH and all(_resolved(*part, interval) for part in parts)):
        return _rdp(parts, delta, None)
    while reach / interval > _PLD_POINTS:
        interval *= 2
    composed: Any = None
    for event, steps in parts:
        one = distributions.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=interval,
        )
        part = one.self_compose(steps) if steps > 1 else one
        composed = part if composed is None else composed.compose(part)
    return float(composed.get_epsilon_for_delta(delta))


@lru_cache(maxsize=1024)
def _rdp(parts: _Merged, delta: float, orders: tuple[float, ...] | None) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    if not parts:
        return 0.0
    if any(event.noise_multiplier < _LEAST_NOISE for event, _ in parts):
        return math.inf
    accountant = RdpAccountant(orders)
    with _quiet():
        for event, steps in parts:
            one: Any = GaussianDpEvent(event.noise_multiplier)
            if event.sampling_rate < 1.0:
                one = PoissonSampledDpEvent(event.sampling_rate, one)
                accountant.compose(GaussianDpEvent(_ROUNDING_NOISE), steps)
            accountant.compose(one, steps)
        return float(accountant.get_epsilon(delta))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dp-accounting from logging each order at which its series does not converge.

    It leaves such an order out, which can only raise the minimum over orders.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@lru_cache(maxsize=256)
def _prv(parts: _Merged, delta: float, library: str) -> float:
    if not parts:
        return 0.0
    steps = sum(steps for _, steps in parts)
    mesh = PRV_ERROR / math.sqrt(steps / 2 * math.log(12_000 / delta))
    if not (_reach(parts) + 3) / mesh <= _PRV_POINTS:
        return math.inf
    with warnings.catch_warnings():
        # The grid is sized by a rough RDP bound, and Opacus warns that this bound is rough.
        warnings.simplefilter("ignore")
        try:
            return (_prv_opacus if library == "opacus" else _prv_gopi)(parts, delta)
        except (RuntimeError, ValueError):
            # Both refuse where the discrete loss is too far from the continuous one.
            return math.inf


def _prv_opacus(parts: _Merged, delta: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(e.noise_multiplier, e.sampling_rate, steps) for e, steps in parts]
    return float(accountant.get_epsilon(delta, eps_error=PRV_ERROR))


def _prv_gopi(parts: _Merged, delta: float) -> float:
    try:
        from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant
    except ImportError as error:
        raise ImportError(
            "library: 'prv-accountant' is not installed; pip install prv-accountant"
        ) from error
    accountant = PRVAccountant(
        [PoissonSubsampledGaussianMechanism(e.sampling_rate, e.noise_multiplier) for e, _ in parts],
        eps_error=PRV_ERROR,
        delta_error=delta / 1000,
        max_self_compositions=[steps for _, steps in parts],
    )
    return float(accountant.compute_epsilon(delta, [steps for _, steps in parts])[2])


def _reach(parts: _Merged) -> float:
    """Return about how large a loss may become with a chance worth counting."""
    least = min(event.noise_multiplier for event, _ in parts)
    if least < _LEAST_NOISE:
        return math.inf
    return max(_largest_loss(least), _rdp(parts, 1e-15, _REACH_ORDERS))


def _largest_loss(sigma: float) -> float:
    """Return the loss of one Gaussian at 14 standard deviations."""
    return 14.0 / sigma + 0.5 / sigma**2


def _resolved(event: Event, steps: int, interval: float) -> bool:
    """Return whether a grid of `interval` can tell the losses of a step apart, and add them up."""
    if steps == 1:
        return True
    odds = math.expm1(min(_largest_loss(event.noise_multiplier), 700.0))
    return steps <= _PLD_STEPS and math.log1p(event.sampling_rate * odds) > interval
