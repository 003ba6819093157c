"""Samples that are cut at a cap, beside dp-accounting's own analysis of them."""

from __future__ import annotations

import pytest
from dp_accounting import NeighboringRelation, TruncatedSubsampledGaussianDpEvent
from dp_accounting.pld import PLDAccountant

from fedlite.privacy import RecordMechanism, accounting

COARSE = 1e-3


def truncated(sigma: float, q: float, steps: int, cap: int, records: int, delta: float) -> float:
    """Epsilon of samples that are cut, by dp-accounting's own analysis (Ganesh et al. 2025)."""
    accountant = PLDAccountant(
        NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=COARSE
    )
    accountant.compose(TruncatedSubsampledGaussianDpEvent(records, q, cap, sigma), steps)
    return float(accountant.get_epsilon(delta))


# The first cap adds nothing, the second is the smallest that is allowed.
@pytest.mark.long
@pytest.mark.parametrize("cap", [200, 173])
def test_a_cut_sample_costs_no_more_than_is_charged(cap: int) -> None:
    mechanism = RecordMechanism(1.0, 1.0, 0.01, 1000, 100, max_batch=cap, max_records=10_000)
    charged = accounting.running(mechanism, 1000, 1e-5)
    exact = truncated(1.0, 0.01, 1000, cap, 10_000, 1e-5)
    assert exact == pytest.approx(1.8289, abs=2e-4)
    assert exact <= charged + COARSE and charged < exact + 2e-3


def test_a_cap_that_would_cost_more_is_refused_with_the_smallest_that_does_not() -> None:
    mechanism = RecordMechanism(1.0, 1.0, 0.01, 1000, 100, max_batch=120, max_records=10_000)
    for account in (accounting.spent, accounting.running):
        with pytest.raises(ValueError, match=r"max_batch: .* got 120, .* set at least 173"):
            account(mechanism, 1000, 1e-5)
    # There it is not free: the exact analysis says 5.3 instead of 1.8.
    assert truncated(1.0, 0.01, 1000, 120, 10_000, 1e-5) > 5


@pytest.mark.long
def test_a_plan_with_a_cap_is_calibrated_for_it() -> None:
    capped = accounting.calibrate(2.0, 1e-5, 0.1, 20, max_batch=50, max_records=200)
    assert 1.0 < capped / accounting.calibrate(2.0, 1e-5, 0.1, 20) < 1.002
    mechanism = RecordMechanism(1.0, capped, 0.1, 20, 20, max_batch=50, max_records=200)
    loss = accounting.spent(mechanism, 20, 1e-5)
    assert 2.0 * 0.998 < loss.pld <= 2.0 and loss.agree
    assert truncated(capped, 0.1, 20, 50, 200, 1e-5) <= 2.0
    with pytest.raises(ValueError, match="max_batch: cutting larger samples"):
        accounting.calibrate(2.0, 1e-5, 0.1, 20, max_batch=30, max_records=200)
    # A cap that is never reached costs nothing.
    assert accounting.calibrate(
        2.0, 1e-5, 0.1, 20, max_batch=200, max_records=200
    ) == accounting.calibrate(2.0, 1e-5, 0.1, 20)
