"""A site's part of a sum: its law, its bounds, and the way back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from fedlite.privacy import accounting
from fedlite.privacy.noise import Stream
from fedlite.privacy.shared import summed
from fedlite.privacy.shared.lattice import OWN_UNITS, REACH, TAIL, UNIT_CELLS
from tests.privacy.shared.planned import MECHANISM


def test_noise_is_shared_by_those_who_are_surely_honest() -> None:
    assert MECHANISM.carried == 3
    assert 3 * MECHANISM.own_std**2 == pytest.approx((13.2 * 0.1) ** 2)
    for count, event in ((c, MECHANISM.seen_with(c)) for c in (1, 3, 5)):
        assert event.noise_multiplier == pytest.approx(13.2 * (count / 3) ** 0.5)
    assert MECHANISM.seen_with(3).noise_multiplier == pytest.approx(
        MECHANISM.event.noise_multiplier
    )


def test_the_fewer_are_honest_the_less_is_claimed_and_the_plan_is_the_third_of_them() -> None:
    """Sigma of research: 5.65 is what three times less noise than planned for three leaves."""
    table = [accounting.seen_with(MECHANISM, count, 1e-5) for count in range(1, 6)]
    assert all(more > less for more, less in pairwise(table))
    assert table[2] == pytest.approx(3.0, abs=0.01)
    assert table[0] == pytest.approx(5.65, abs=0.02)
    alone = accounting.pld(13.2 / 3**0.5, 1.0, 90, 0.99e-5)
    assert table[0] == pytest.approx(alone)


@pytest.mark.long
def test_the_statements_of_the_documentation_are_the_accountants() -> None:
    for least, told in ((5, [6.70, 4.46, 3.53, 3.00, 2.64]), (4, [5.65, 3.78, 3.00, 2.55])):
        one = replace(MECHANISM, noise_multiplier=13.202, least=least)
        found = [accounting.seen_with(one, count, 1e-5) for count in range(1, len(told) + 1)]
        assert found == pytest.approx(told, abs=0.006)


def test_a_rounded_sum_has_the_law_of_gaussians_of_two_units_each() -> None:
    """Moments and a chi-square of the sum of three, against the normal law in cells of a unit."""
    total = np.zeros(60_000)
    parts = [summed.rounded(total, MECHANISM, Stream.fresh()) for _ in range(3)]
    found = sum(parts)
    std = np.sqrt(3 * (OWN_UNITS**2 + 1 / 12))
    edges = np.arange(-8, 9) + 0.5
    counts = np.histogram(found, np.r_[-np.inf, edges, np.inf])[0]
    expected = np.diff(np.r_[0.0, stats.norm.cdf(edges / std), 1.0]) * total.size
    assert stats.chisquare(counts, expected).pvalue > 1e-6


def test_what_comes_back_is_the_sum_up_to_noise_and_a_clean_sum_is_cut_beyond_its_reach() -> None:
    unit, count = MECHANISM.unit_width, 4000
    most = MECHANISM.most_cells / UNIT_CELLS * unit
    assert most == pytest.approx(REACH * 13.2 * 0.1 / 5, rel=1e-6)
    for clean, seen in ((0.3 * most, 0.3 * most), (50 * most, most), (-np.inf, -most)):
        parts = [summed.rounded(np.full(count, clean), MECHANISM, Stream.fresh()) for _ in range(5)]
        residues = [summed.residues(part, MECHANISM.bits) for part in parts]
        total = np.bitwise_and(sum(r.astype(np.int64) for r in residues), 2**MECHANISM.bits - 1)
        found = summed.values(total.astype(np.uint32), MECHANISM)
        assert np.abs(found).max() < 2 ** (MECHANISM.bits - 1) * unit
        error = 5 * np.sqrt(5 * 4 / count) * unit
        assert found.mean() == pytest.approx(5 * seen, abs=error), "nothing has wrapped"


def test_the_modulus_is_the_least_for_the_public_bound() -> None:
    for sites, least, honest in ((3, 3, 3), (5, 4, 4), (5, 5, 5), (10, 7, 7), (100, 67, 67)):
        one = replace(MECHANISM, sites=sites, least=least, honest=honest)
        bound = sites * (one.most_cells / UNIT_CELLS + 0.5) + TAIL * OWN_UNITS * sites**0.5
        assert 2 ** (one.bits - 1) - 1 >= np.floor(bound) > 2 ** (one.bits - 2) - 1


def test_cutting_and_rounding_move_two_sums_no_further_apart_than_the_clip() -> None:
    rng, size = np.random.default_rng(1), 592
    bound = MECHANISM.clip_bound(size)
    assert 0.0998 < bound < 0.1

    for scale in (0.01, 1.0, 3.0):
        total = rng.normal(size=size) * scale
        step = rng.normal(size=size)
        step *= bound / np.linalg.norm(step)
        cells = summed.clean_cells(total + step, MECHANISM) - summed.clean_cells(total, MECHANISM)
        moved = cells * (MECHANISM.unit_width / UNIT_CELLS)
        assert np.linalg.norm(moved) <= MECHANISM.sensitivity


def test_a_sum_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="total: every coordinate must be a number"):
        summed.rounded(np.array([np.nan]), MECHANISM, Stream.fresh())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sites": 2, "least": 2, "honest": 2}, "sites: must be a whole number of at least 3"),
        ({"honest": 6}, "honest: least and honest must be at most the members"),
        ({"least": 6}, "honest: least and honest must be at most the members"),
        ({"least": 2, "honest": 3}, "honest: .*raise least"),
        ({"least": 3, "honest": 3}, "rule: no two lists of members can both be signed"),
        ({"coordinates": 0}, "coordinates: must be"),
        ({"noise_multiplier": 0.0}, "noise_multiplier: must be"),
        ({"clip": -1.0}, "clip: must be"),
        ({"sampling_rate": 0.0}, "sampling_rate: must be"),
    ],
)
def test_a_plan_without_sure_noise_is_none(changed: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(MECHANISM, **changed)


def test_what_rounding_costs_is_kept_back_and_too_much_of_it_refused() -> None:
    assert 0 < MECHANISM.delta_slack(3.0) < 1e-10
    loss = accounting.spent(MECHANISM, 90, 1e-5)
    assert loss.pld == pytest.approx(accounting.pld(13.2, 1.0, 90, 0.99e-5))
    wide = replace(MECHANISM, coordinates=2**40)
    with pytest.raises(ValueError, match="delta: rounding at the sites must cost at most 1%"):
        accounting.spent(wide, 90, 1e-5)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_who_knows_all_but_the_honest_noise_sees_a_record_as_well_as_is_claimed(
    sigma: float,
) -> None:
    """A matched filter for one record's whole clip in many sums: mu is 1 / sigma, and no more.

    The sums are those of the three honest sites that are surely in one, rounded, wrapped and read
    back, as the server does. Measured mu and epsilon are below the claim and above half of it.
    """
    mechanism = replace(MECHANISM, noise_multiplier=sigma, coordinates=400)
    size, draws = 400, 1500
    record = np.full(size, mechanism.clip_bound(size) / size**0.5)

    def seen(total: np.ndarray) -> float:
        parts = [
            summed.residues(summed.rounded(clean, mechanism, Stream.fresh()), mechanism.bits)
            for clean in (total, np.zeros(size), np.zeros(size))
        ]
        whole = np.bitwise_and(
            np.sum(np.array(parts, np.int64), axis=0), 2**mechanism.bits - 1
        ).astype(np.uint32)
        return float(summed.values(whole, mechanism) @ record) / mechanism.clip

    with_it = np.array([seen(record) for _ in range(draws)])
    without = np.array([seen(np.zeros(size)) for _ in range(draws)])
    spread = np.sqrt((with_it.var(ddof=1) + without.var(ddof=1)) / 2)
    mu, error = (with_it.mean() - without.mean()) / spread, 5 * (2 / draws) ** 0.5
    assert 0.9 / sigma - error < mu < 1.0 / sigma + error
