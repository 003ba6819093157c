"""The test of what leaving early costs: against every outcome there is, and against draws."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from fedlite.inference.net_loss import keeps, least


def wrong(records: int, alpha: float, error: float, gained: float) -> float:
    """Return how often the test says yes though exactly alpha is lost: a sum over all outcomes."""
    harmed, found = gained + alpha, 0.0
    for harm in range(records + 1):
        for gain in range(records + 1 - harm):
            if keeps(harm, gain, records, alpha, error):
                rest = records - harm - gain
                ways = comb(records, harm) * comb(records - harm, gain)
                found += ways * harmed**harm * gained**gain * (1 - harmed - gained) ** rest
    return found


@pytest.mark.parametrize(("alpha", "error"), [(0.1, 0.05), (0.3, 0.05), (0.2, 0.3)])
def test_no_truth_on_the_border_is_taken_for_kept_more_often_than_said(
    alpha: float, error: float
) -> None:
    found = [wrong(36, alpha, error, gained) for gained in (0.0, 0.02, 0.1, 0.2, (1 - alpha) / 2)]
    assert 0 < max(found) <= error


@pytest.mark.long
@pytest.mark.parametrize("gained", [0.001, 0.01, 0.05])
def test_draws_on_the_border_break_it_no_more_often_than_said(gained: float) -> None:
    # More than chance would be 4 standard deviations above 5 %.
    drawn = np.random.default_rng(1).multinomial(
        4000, [gained + 0.01, gained, 0.99 - 2 * gained], 600
    )
    said = sum(keeps(int(harm), int(gain), 4000, 0.01, 0.05) for harm, gain, _ in drawn)
    assert said <= 600 * (0.05 + 4 * np.sqrt(0.05 * 0.95 / 600))


def test_it_is_not_much_weaker_than_a_test_that_knew_how_many_differ() -> None:
    # A normal test with the true spread: 1.645 standard deviations below alpha.
    records, alpha, share = 12_600, 0.005, 0.015
    below = alpha * records - 1.645 * np.sqrt(records * share)
    differ = records * share
    largest = max(
        lost
        for lost in range(int(alpha * records))
        if keeps(int((differ + lost) / 2), int((differ - lost) / 2), records, alpha, 0.05)
    )
    assert 0.8 * below <= largest <= below


def test_what_gains_counts() -> None:
    assert keeps(60, 50, 10_000, 0.005, 0.05) and not keeps(60, 0, 10_000, 0.005, 0.05)
    assert keeps(0, 500, 1000, 0.01, 0.05)


@pytest.mark.parametrize(
    ("harm", "gain", "records"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (5, 5, 10), (10, 0, 10)]
)
def test_too_little_shows_nothing(harm: int, gain: int, records: int) -> None:
    assert not keeps(harm, gain, records, 0.01, 0.05)


def test_more_harm_never_helps_and_more_records_never_hurt() -> None:
    for gain in (0, 5, 40):
        said = [keeps(harm, gain, 5000, 0.01, 0.05) for harm in range(120)]
        assert said == sorted(said, reverse=True) and said[0] and not said[-1]
        said = [keeps(20, gain, records, 0.01, 0.05) for records in range(500, 9000, 250)]
        assert said == sorted(said) and said[-1]


@pytest.mark.long
def test_counts_that_no_site_has_take_bounded_time_and_memory() -> None:
    import tracemalloc

    tracemalloc.start()
    for records in (2_000_800, 90_000_000):
        many = 3 * records // 20
        assert keeps(many, many, records, 0.01, 0.05)
    # As close to the border as an exact answer is needed.
    records, many = 1_000_000, 150_000
    keeps(many + int(0.01 * records - 2 * np.sqrt(2.02 * many)), many, records, 0.01, 0.05)
    assert tracemalloc.get_traced_memory()[1] < 500_000_000
    tracemalloc.stop()


def test_what_is_asked_to_be_all_but_certain_is_no_error_of_rounding() -> None:
    error = 1 - 0.9999999999999999
    few = least(0.05, error)
    assert keeps(0, 0, few, 0.05, error) and not keeps(0, 0, few // 2, 0.05, error)
