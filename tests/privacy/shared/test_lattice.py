"""What rounding at the sites costs: the bound against sums and laws that are written out."""

from __future__ import annotations

import math
from itertools import product

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from fedlite.privacy.grid import SPREAD
from fedlite.privacy.shared.lattice import OWN_UNITS, UNIT_CELLS, rounding_distance, width

FAR = 40


def law(means: tuple[float, ...], own: float) -> NDArray[np.float64]:
    """Return the law of the sum of the rounded values, each Gaussian around its mean."""
    edges = np.arange(-FAR, FAR + 2) - 0.5
    laws = [np.diff(norm.cdf(edges, mean, own)) for mean in means]
    total = laws[0]
    for one in laws[1:]:
        total = np.convolve(total, one)
    return total


def apart(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    return 0.5 * float(np.abs(one - two).sum())


@pytest.mark.parametrize("honest", [2, 3, 4])
@pytest.mark.parametrize("own", [0.4, 0.6, 0.8, 1.0])
def test_the_same_sum_placed_otherwise_is_seen_alike_up_to_the_bound(
    honest: int, own: float
) -> None:
    """Both are near one function of the sum, so they are apart by twice the bound at most."""
    places = [(0.0,) * honest, (0.5, -0.5, *(0.0,) * (honest - 2))]
    places += (
        [(0.25, -0.25, *(0.0,) * (honest - 2)), (0.3, 0.2, *(-0.5 / (honest - 2),) * (honest - 2))]
        if honest > 2
        else [(0.3, -0.3)]
    )
    laws = [law(place, own) for place in places]
    found = max(apart(one, two) for one in laws for two in laws)
    assert found <= 2.0 * rounding_distance(honest, own)
    if honest == 2 and own >= 0.8:
        assert found >= 0.2 * rounding_distance(honest, own), "the bound is not far from the truth"


@pytest.mark.parametrize("honest", [2, 3, 4, 5])
@pytest.mark.parametrize("own", [0.7, 1.0, OWN_UNITS])
def test_the_bound_is_more_than_half_the_series_of_the_proof(honest: int, own: float) -> None:
    terms = 0.0
    for place in product(range(-4, 5), repeat=honest - 1):
        squared = sum(x * x for x in place) - sum(place) ** 2 / honest
        if any(place):
            terms += math.exp(-2.0 * (math.pi * own) ** 2 * squared)
    assert 0.5 * terms <= rounding_distance(honest, own)
    if honest == 2:
        assert rounding_distance(honest, own) <= 2.2 * 0.5 * terms


@pytest.mark.long
def test_two_units_cost_what_forty_digits_say_or_less() -> None:
    with mpmath.workdps(40):
        own = mpmath.mpf(SPREAD) / UNIT_CELLS

        def at(number: int, mean: mpmath.mpf) -> mpmath.mpf:
            half = mpmath.mpf(1) / 2
            return mpmath.ncdf((number + half - mean) / own) - mpmath.ncdf(
                (number - half - mean) / own
            )

        def summed(number: int, mean: mpmath.mpf) -> mpmath.mpf:
            return mpmath.fsum(at(k, mean) * at(number - k, -mean) for k in range(-22, 23))

        quarter = mpmath.mpf(1) / 4
        found = mpmath.fsum(
            abs(summed(n, quarter) - summed(n, 0 * quarter)) for n in range(-16, 17)
        )
        assert 1e-18 < found / 2 < 2 * rounding_distance(2)


def test_a_units_worth_of_noise_would_not_do() -> None:
    """At one unit a run's distances would add up to more than any delta; at two to nothing."""
    draws = 2064 * 90
    assert draws * rounding_distance(3, 1.0) > 1.0
    assert draws * rounding_distance(100) < 1e-9


def test_a_sites_own_noise_is_two_units() -> None:
    assert 2.0 <= OWN_UNITS < 2.00001


@pytest.mark.parametrize("bound", [1, 2, 3, 4, 7, 8, 63, 64, 1000])
def test_a_width_is_the_least_in_which_both_ends_fit(bound: int) -> None:
    bits = width(bound)
    assert 2 ** (bits - 1) - 1 >= bound > 2 ** (bits - 2) - 1
