"""Noise on counts, against the noise's own distribution and against draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedlite.privacy import counting
from fedlite.privacy.accounting import compose_pld
from fedlite.privacy.noise import Stream


def test_the_mechanism_costs_what_was_asked_by_an_analytic_formula() -> None:
    found = counting.mechanism(1.0, 1e-5)
    # Balle and Wang 2018: delta of one Gaussian of sensitivity 1, exactly.
    half, wide = 0.5 / found.noise_std, found.noise_std
    delta = stats.norm.cdf(half - wide) - np.exp(1.0) * stats.norm.cdf(-half - wide)
    assert 0.98e-5 < delta <= 1e-5
    assert compose_pld([(found.event, found.steps)], 1e-5) <= 1.0
    assert (found.sensitivity, found.steps, found.sampling_rate) == (1.0, 1, 1.0)


def test_the_noise_is_a_gaussian_rounded_to_whole_records() -> None:
    zeros = np.zeros((2, 40_000), np.int64)
    found = counting.noised(zeros + 7, 3.0, Stream.seeded(1)) - 7
    assert found.shape == zeros.shape and found.dtype == np.int64
    counts = np.array([(found == value).sum() for value in range(-9, 10)])
    edges = stats.norm.cdf((np.arange(-9, 11) - 0.5) / 3.0)
    expected = np.diff(edges) * found.size
    assert stats.chisquare(counts, expected / expected.sum() * counts.sum())[1] > 1e-3


def test_one_record_more_moves_one_cell_by_one_under_the_same_noise() -> None:
    cells = np.arange(24).reshape(2, 12)
    more = cells.copy()
    more[1, 4] += 1
    one, other = (counting.noised(of, 3.0, Stream.seeded(2)) for of in (cells, more))
    changed = other - one
    assert changed[1, 4] == 1 and np.abs(changed).sum() == 1


def test_noise_is_never_smaller_than_its_multiplier_says() -> None:
    # What a record is worth in fine cells is rounded down, so the noise up.
    from fedlite.privacy.grid import SPREAD

    for sigma in (0.001, 0.5, 1.0814, 3.7316, 250.0, 1000.0):
        record = SPREAD / counting.deviation(sigma)
        # An odd number: no sum lies half way between two records.
        assert round(record) % 2 == 1 and record == pytest.approx(round(record), rel=1e-12)
        assert sigma * (1 + 2.0**-31) <= counting.deviation(sigma) <= sigma * 1.0012


def test_the_bound_is_of_the_noise_that_is_drawn_at_the_largest_multiplier_too() -> None:
    drawn = counting.noised(np.zeros(200_000, np.int64), 1000.0, Stream.seeded(6))
    assert drawn.std() == pytest.approx(counting.deviation(1000.0), rel=0.01)
    for chance in (0.1, 0.005):
        exceeded = (drawn > counting.at_most(1, 1000.0, chance)).mean()
        assert exceeded == pytest.approx(chance, abs=4 * np.sqrt(chance / 200_000))


@pytest.mark.long
@pytest.mark.parametrize("epsilon", [0.002, 0.005])
def test_an_epsilon_that_leaves_nothing_but_noise_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"(epsilon|delta): must be one"):
        counting.mechanism(epsilon, 1e-6)


@pytest.mark.long
def test_the_refused_noise_is_named_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedlite.protection import counting_mechanism
    from fedlite.scenario import from_dict

    scenario = from_dict(
        {
            "privacy": {"unit": "record", "epsilon": 3.0, "expected_batch": 20},
            "training": {"steps": 1},
            "inference": {"calibration": 0.3, "epsilon": 0.01},
        }
    )
    assert counting_mechanism(scenario) is not None
    monkeypatch.setattr(counting.accounting, "calibrate", lambda *given: 1000.1)
    rule = r"inference\.epsilon: must be one that a noise multiplier of 1000 meets .*got 0\.01"
    with pytest.raises(ValueError, match=rule):
        counting_mechanism(scenario)


@pytest.mark.parametrize(("cells", "sigma", "chance"), [(1, 4.0, 0.025), (12, 1.1, 0.01)])
def test_the_bound_is_exceeded_as_rarely_as_it_says_and_the_next_lower_one_is_not(
    cells: int, sigma: float, chance: float
) -> None:
    drawn = counting.noised(np.zeros((cells, 200_000), np.int64), sigma, Stream.seeded(3)).sum(0)
    bound = counting.at_most(cells, sigma, chance)
    slack = 4 * np.sqrt(chance / 200_000)
    assert (drawn > bound).mean() <= chance + slack
    assert (drawn < -bound).mean() <= chance + slack
    assert (drawn > bound - 1).mean() > chance - slack


def test_the_bound_is_the_exact_convolution_of_few_and_the_normal_one_of_many() -> None:
    one = np.diff(stats.norm.cdf((np.arange(-30, 32) - 0.5) / 2.0))
    three = np.convolve(np.convolve(one, one), one)
    above = three[::-1].cumsum()[::-1]
    exact = int(np.flatnonzero(above <= 0.005)[0]) - 90 - 1
    assert counting.at_most(3, 2.0, 0.005) == exact
    many = stats.norm.isf(0.005) * np.sqrt(960 * (4.0 + 1 / 12))
    assert counting.at_most(960, 2.0, 0.005) == pytest.approx(many, abs=1)


@pytest.mark.parametrize("cells", [1, 4, 24, 480])
@pytest.mark.parametrize("sigma", [1.1, 3.7316])
def test_a_rare_bound_is_above_the_gaussian_s_and_grows_as_the_chance_falls(
    cells: int, sigma: float
) -> None:
    chances = (0.9e-9, 1e-10, 1e-12, 1e-14, 1e-16)
    bounds = [counting.at_most(cells, sigma, chance) for chance in (2e-9, *chances)]
    assert bounds == sorted(bounds)
    for bound, chance in zip(bounds[1:], chances, strict=True):
        real = stats.norm.isf(chance) * sigma * np.sqrt(cells)
        assert real - 0.5 <= bound <= 1.6 * real + cells**0.5 * 4


def test_the_other_bound_is_above_the_exact_one_wherever_both_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of few cells written out, without a transform.
    one = np.diff(stats.norm.cdf((np.arange(-30, 32) - 0.5) / 2.0))
    three = np.convolve(np.convolve(one, one), one)
    above = three[::-1].cumsum()[::-1]
    monkeypatch.setattr(counting, "_WIDEST", 0.0)
    for chance in (0.4, 0.025, 1e-3, 1e-6):
        exact = int(np.flatnonzero(above <= chance)[0]) - 90 - 1
        assert exact <= counting.at_most(3, 2.0, chance) <= exact + 5


def test_a_wide_bound_takes_neither_time_nor_memory_and_is_nearly_the_gaussian_s() -> None:
    import time

    begun = time.process_time()
    found = counting.at_most(24_000, 1000.0, 0.005)
    assert time.process_time() - begun < 1.0
    real = stats.norm.isf(0.005) * counting.deviation(1000.0) * np.sqrt(24_000)
    assert real < found < 1.02 * real


def test_what_cannot_be_counts_or_noise_is_refused() -> None:
    for sigma in (0.0, 1000.1, 9e5, float("nan")):
        with pytest.raises(ValueError, match=r"noise_multiplier: must be from 0\.001 to 1000"):
            counting.noised(np.zeros(3, np.int64), sigma, Stream.seeded(4))
        with pytest.raises(ValueError, match="noise_multiplier: must be from"):
            counting.at_most(3, sigma, 0.01)
    for chance in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="chance: must be above 0"):
            counting.at_most(3, 2.0, chance)
    with pytest.raises(ValueError, match="cells: must be counts"):
        counting.noised(np.array([-1]), 1.0, Stream.seeded(4))
    assert counting.run_of(bytes(8)) != counting.run_of(bytes(7) + b"\1")


def test_only_a_simulated_seed_repeats_the_noise() -> None:
    one, other = (counting.entropy(3, 7).words(4) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    fresh, again = (counting.entropy(-1, 7).words(4) for _ in range(2))
    assert (fresh != again).any()
