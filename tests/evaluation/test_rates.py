"""Intervals of shares against scipy, and differences against the paper's own table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from fedlite.evaluation.rates import difference, wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 20), (7, 20), (199, 200)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
def test_the_interval_of_a_share_is_wilson_s(hits: int, count: int, level: float) -> None:
    wanted = binomtest(hits, count).proportion_ci(level, method="wilson")
    assert wilson(hits, count, level) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


# Newcombe 1998, table II, method 10.
@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_the_interval_of_a_difference_is_newcombe_s(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    assert difference(one, other) == pytest.approx((low, high), abs=6e-5)
    assert difference(other, one) == pytest.approx((-high, -low), abs=6e-5)


def test_the_interval_of_a_difference_covers_it() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(2000):
        one, other = (int(rng.binomial(40, 0.8)), 40), (int(rng.binomial(25, 0.6)), 25)
        low, high = difference(one, other)
        held += low <= 0.2 <= high
    assert 0.93 < held / 2000 < 0.97
