"""The common support: the same for all sites, of public settings alone, unbiased."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.compression import Context
from fedlite.compression.support import common_support, support_size

SIZES, SHARES = (640, 20_000, 7), (0.3, 0.02, 1.0)


def test_every_tensor_has_its_own_density() -> None:
    found = common_support(SIZES, SHARES, Context(b"seed"))
    assert len(found.indices) == support_size(SIZES, SHARES) == 192 + 400 + 7
    assert (np.diff(found.indices) > 0).all()
    assert [
        int(((found.indices >= a) & (found.indices < b)).sum())
        for a, b in ((0, 640), (640, 20_640), (20_640, 20_647))
    ] == [192, 400, 7]


def test_all_sites_draw_the_same_and_rounds_another() -> None:
    one, two = (common_support(SIZES, SHARES, Context(b"seed", sender)) for sender in (1, 2))
    assert np.array_equal(one.indices, two.indices)
    other = common_support(SIZES, SHARES, Context(b"other"))
    assert not np.array_equal(one.indices, other.indices)


def test_the_mean_over_draws_of_what_is_scaled_twice_is_the_vector() -> None:
    sizes, shares = (17, 30), (0.3, 0.1)
    vector, mean, draws = np.arange(47.0) - 20.0, np.zeros(47), 6000
    for number in range(draws):
        found = common_support(sizes, shares, Context(number.to_bytes(4, "little")))
        mean[found.indices] += vector[found.indices] * found.factors**2 / draws
    error = np.abs(vector).max() * np.sqrt(10 / draws)
    assert mean == pytest.approx(vector, abs=5 * error)
