"""A threshold from noised counts keeps the promise that one from exact counts makes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedlite.inference import calibration, noisy
from fedlite.inference.told import COARSE, Cells, cells_of, coarser
from fedlite.privacy.counting import at_most, noised
from fedlite.privacy.noise import Stream
from tests.inference.test_calibration import counted

STREAM = Stream.seeded(5)


def told(rng: np.random.Generator, n: int, sigma: float) -> Cells:
    return Cells(noised(coarser(cells_of(counted(rng, n))), sigma, STREAM), sigma)


@pytest.mark.long
@pytest.mark.parametrize("sigma", [1.0, 3.7])
def test_the_promise_is_kept_as_often_as_it_says(sigma: float) -> None:
    rng = np.random.default_rng(1)
    many = coarser(cells_of(counted(rng, 400_000)))
    risk = many[1].cumsum() / many.sum()
    # Just below what one threshold of the grid costs, so that this one is the first to break it.
    alpha, broken, early, naive = float(risk[9]) * 0.999, 0, 0, 0
    for _ in range(300):
        cells = told(rng, 2000, sigma)
        found = noisy.choose(cells, 1, alpha, 0.8).threshold
        if found is not None:
            early += 1
            broken += risk[np.flatnonzero(found == COARSE)[0]] > alpha
        # As if the noise were not there.
        share = cells.harm / cells.total
        naive += share[9] <= alpha
    # 300 times 0.2 is 60, with a spread of 6.9; whoever tests no bound is wrong half of the time.
    assert broken <= 60 and early > 250 and naive > 110


def test_the_test_is_the_binomials_with_both_bounds() -> None:
    sigma, sites = 2.0, 3
    cells = Cells(np.stack([np.full(12, 900), np.arange(12)]), sigma)
    found = noisy.choose(cells, sites, 0.02, 0.9)
    total = 12 * 900 + 66 - at_most(24 * sites, sigma, 0.01)
    passed = [
        stats.binom.cdf(at * (at + 1) // 2 + at_most(sites * (at + 1), sigma, 0.01), total, 0.02)
        <= 0.08
        for at in range(12)
    ]
    last = passed.index(False) - 1 if False in passed else 11
    assert found.threshold == COARSE[last] and found.records_at_least == total
    assert found.harm == last * (last + 1) // 2 and found.shallow == 900 * (last + 1) + found.harm


def test_more_noise_lets_fewer_leave_early_and_too_few_records_none() -> None:
    rng = np.random.default_rng(2)
    clean = coarser(cells_of(counted(rng, 4000)))
    found = [
        noisy.choose(Cells(clean, sigma), 1, 0.03, 0.95).threshold for sigma in (0.01, 2.0, 9.0)
    ]
    assert found == sorted(found) and found[0] < found[-1]
    nothing = noisy.choose(Cells(np.zeros((2, 12), np.int64), 3.7), 1, 0.01, 0.95)
    assert nothing.threshold is None and nothing.records == 0
    # With that many records and none harmed, the first threshold passes.
    enough = Cells(np.zeros((2, 12), np.int64), 3.7)
    enough.counts[0, 0] = nothing.missing + at_most(24, 3.7, 0.005)
    assert noisy.choose(enough, 1, 0.01, 0.95).threshold is not None
    enough.counts[0, 0] -= 1
    assert noisy.choose(enough, 1, 0.01, 0.95).missing == 1


def test_sites_together_or_each_for_itself_and_no_mixture() -> None:
    rng = np.random.default_rng(3)
    sites = {name: told(rng, 3000, 1.0) for name in ("one", "other")}
    shared = noisy.by_site(sites, "pooled", 0.03, 0.9)
    assert shared["one"] == shared["other"] and shared["one"].records > 5500
    alone = noisy.by_site(sites, "site", 0.03, 0.9)
    assert alone["one"] == noisy.choose(sites["one"], 1, 0.03, 0.9)
    with pytest.raises(ValueError, match="must be pooled or site"):
        noisy.by_site(sites, "shrunk", 0.03, 0.9)
    with pytest.raises(ValueError, match="must be those of one site at least"):
        noisy.by_site({}, "pooled", 0.03, 0.9)


def test_without_noise_to_speak_of_it_is_nearly_the_exact_test() -> None:
    counts = counted(np.random.default_rng(4), 20_000)
    exact = calibration.choose(counts, 0.03, 0.95).threshold
    rough = noisy.choose(Cells(coarser(cells_of(counts)), 0.01), 1, 0.03, 0.95).threshold
    assert exact is not None and rough is not None
    assert rough == min(one for one in COARSE if one >= exact)
