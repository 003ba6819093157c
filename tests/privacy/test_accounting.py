"""Reference values: opacus 1.6.0 and dp-accounting 0.6, each run on its own, and a closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedlite.privacy import RecordMechanism, accounting

# sigma, q, T, delta -> RDP (dp-accounting), PRV (Opacus, error 0.01), PLD (grid 1e-4).
REFERENCE = [
    (1.0, 0.01, 1000, 1e-5, 2.101, 1.838, 1.828),
    (1.0, 0.05, 500, 1e-5, 8.302, 7.534, 7.524),
    (0.6, 0.01, 1000, 1e-5, 8.680, 7.444, 7.434),
    (1.5, 0.1, 300, 1e-5, 6.874, 6.301, 6.291),
    (4.0, 0.5, 200, 1e-5, 9.673, 8.830, 8.819),
    (5.0, 1.0, 100, 1e-5, 10.73, 10.01, 9.997),
]
ROW = (1.0, 0.001, 10_000, 1e-6, 0.980, 0.565, 0.555)


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def analytic_gaussian(sigma: float, steps: int, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, for sensitivity 1 and `steps` compositions; by bisection."""
    mu = math.sqrt(steps) / sigma

    def excess(epsilon: float) -> float:
        low = normal_cdf(-mu / 2 - epsilon / mu)
        return normal_cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * low - delta

    low, high = 0.0, 500.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


@pytest.mark.parametrize(("sigma", "q", "steps", "delta", "rdp", "prv", "pld"), [*REFERENCE, ROW])
def test_three_accountants_give_the_reference_values(
    sigma: float, q: float, steps: int, delta: float, rdp: float, prv: float, pld: float
) -> None:
    mechanism = RecordMechanism(1.0, sigma, q, steps, 1)
    loss = accounting.spent(mechanism, steps, delta)
    assert loss.pld == pytest.approx(pld, abs=0.002)
    assert loss.prv == pytest.approx(prv, abs=0.006)
    assert loss.rdp == pytest.approx(rdp, abs=0.006)
    assert loss.agree


@pytest.mark.parametrize(("sigma", "steps"), [(5.0, 100), (1.0, 1), (7.6, 30), (40.0, 10)])
def test_without_sampling_pld_is_the_analytic_gaussian_and_never_below(
    sigma: float, steps: int
) -> None:
    exact = analytic_gaussian(sigma, steps, 1e-5)
    found = accounting.pld(sigma, 1.0, steps, 1e-5)
    assert exact - 1e-9 <= found <= exact + 2 * accounting.PLD_INTERVAL
    assert accounting.rdp(sigma, 1.0, steps, 1e-5) >= exact


def test_nothing_spent_costs_nothing_and_more_steps_cost_more() -> None:
    mechanism = RecordMechanism(1.0, 5.0, 1.0, 8, 1)
    losses = [accounting.spent(mechanism, steps, 1e-5) for steps in (0, 1, 2, 4, 8)]
    assert losses[0].pld == losses[0].prv == losses[0].rdp == 0.0
    for before, after in zip(losses, losses[1:], strict=False):
        assert before.pld < after.pld and before.prv < after.prv and before.rdp < after.rdp


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(3.0, 1.0, 4), (1.0, 1.0, 3)])
def test_the_calibrated_plan_fits_and_is_not_loose(epsilon: float, rate: float, steps: int) -> None:
    sigma = accounting.calibrate(epsilon, 1e-5, rate, steps)
    assert accounting.pld(sigma, rate, steps, 1e-5) <= epsilon
    assert accounting.pld(sigma * 0.998, rate, steps, 1e-5) > epsilon
    assert analytic_gaussian(sigma, steps, 1e-5) == pytest.approx(epsilon, rel=0.001)


def test_a_sampled_plan_fits_and_is_not_loose() -> None:
    sigma = accounting.calibrate(2.0, 1e-5, 0.1, 20)
    assert 2.0 * 0.998 < accounting.pld(sigma, 0.1, 20, 1e-5) <= 2.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", math.nan),
        ("epsilon", math.inf),
        ("delta", 0.0),
        ("delta", 1.0),
        ("delta", math.nan),
        ("rate", 0.0),
        ("rate", 1.1),
        ("steps", -1),
    ],
)
def test_calibration_refuses_what_has_no_meaning(key: str, value: Any) -> None:
    arguments: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5, "rate": 1.0, "steps": 1}
    with pytest.raises(ValueError, match="must be"):
        accounting.calibrate(**{**arguments, key: value})


def test_accountants_that_contradict_each_other_raise_the_alarm() -> None:
    assert accounting.PrivacyLoss(pld=2.0, prv=2.01, rdp=2.3).agree
    assert not accounting.PrivacyLoss(pld=2.0, prv=1.9, rdp=2.3).agree
    assert not accounting.PrivacyLoss(pld=2.0, prv=2.1, rdp=2.3).agree
    assert not accounting.PrivacyLoss(pld=2.0, prv=2.01, rdp=1.9).agree
