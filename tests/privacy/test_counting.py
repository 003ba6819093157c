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

    for sigma in (0.5, 1.0814, 3.7316, 1e5):
        record = int(SPREAD / sigma * (1 - 2.0**-30))
        assert SPREAD / record >= sigma * (1 + 2.0**-31)


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


def test_what_cannot_be_counts_or_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise_multiplier: must be from"):
        counting.noised(np.zeros(3, np.int64), 0.0, Stream.seeded(4))
    with pytest.raises(ValueError, match="cells: must be counts"):
        counting.noised(np.array([-1]), 1.0, Stream.seeded(4))
    assert counting.run_of(bytes(8)) != counting.run_of(bytes(7) + b"\1")


def test_only_a_simulated_seed_repeats_the_noise() -> None:
    one, other = (counting.entropy(3, 7).words(4) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    fresh, again = (counting.entropy(-1, 7).words(4) for _ in range(2))
    assert (fresh != again).any()
