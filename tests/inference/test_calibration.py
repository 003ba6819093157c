"""Thresholds by learn-then-test, against scipy's binomial and against what really happens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from fedlite.inference.calibration import (
    GRID,
    Counts,
    by_site,
    choose,
    choose_shrunk,
    count,
    least,
    p_value,
    pooled,
)


def drawn(rng: np.random.Generator, n: int, shift: float = 0.0) -> tuple[np.ndarray, ...]:
    """Return scores, both branches' answers and labels of n records: harm falls with the score."""
    scores = rng.random(n)
    truth = rng.integers(0, 3, n)
    deep = np.where(rng.random(n) < 0.95, truth, (truth + 1) % 3)
    right = rng.random(n) < scores ** (0.35 + shift)
    shallow = np.where(right, truth, (truth + 2) % 3)
    return scores, shallow, deep, truth


def counted(rng: np.random.Generator, n: int, shift: float = 0.0) -> Counts:
    scores, shallow, deep, truth = drawn(rng, n, shift)
    return count(scores, shallow, deep, 3, truth)


def test_the_grid_falls_and_is_what_it_was() -> None:
    assert (np.diff(GRID) < 0).all() and len(GRID) == 118
    assert GRID[0] == 0.9999 and GRID[-1] == 0 and GRID[17:19].tolist() == [0.991, 0.99]


@pytest.mark.parametrize("n", [1, 40, 299, 5000])
@pytest.mark.parametrize("alpha", [0.002, 0.01, 0.2])
def test_the_p_value_is_the_binomials(n: int, alpha: float) -> None:
    for harm in {0, 1, n // 50, n // 7, n - 1}:
        assert p_value(harm, n, alpha) == pytest.approx(stats.binom.cdf(harm, n, alpha), rel=1e-9)
    assert p_value(n, n, alpha) == 1


@pytest.mark.parametrize(("alpha", "confidence"), [(0.01, 0.95), (0.05, 0.9), (0.002, 0.99)])
def test_the_least_number_of_records_is_the_first_that_can_do(
    alpha: float, confidence: float
) -> None:
    n = least(alpha, confidence)
    assert stats.binom.cdf(0, n, alpha) <= 1 - confidence < stats.binom.cdf(0, n - 1, alpha)


@pytest.mark.parametrize("labels", [True, False])
def test_counts_are_those_of_a_loop(labels: bool) -> None:
    scores, shallow, deep, truth = drawn(np.random.default_rng(3), 200)
    scores[:3] = 1.0, 0.0, GRID[40]
    found = count(scores, shallow, deep, 3, truth if labels else None)
    for at, threshold in enumerate(GRID):
        for one in range(3):
            rows = [
                row
                for row in range(200)
                if scores[row] >= threshold and (truth if labels else deep)[row] == one
            ]
            harmed = [
                row
                for row in rows
                if shallow[row] != deep[row] and (not labels or deep[row] == truth[row])
            ]
            assert found.shallow[one, at] == len(rows) and found.harm[one, at] == len(harmed)
    assert found.total == 200


def test_harm_without_labels_bounds_harm_with_them() -> None:
    scores, shallow, deep, truth = drawn(np.random.default_rng(4), 500)
    known, blind = count(scores, shallow, deep, 3, truth), count(scores, shallow, deep, 3)
    assert (blind.harm.sum(0) >= known.harm.sum(0)).all() and blind.harm.sum() > known.harm.sum()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(0, 99))
def test_counts_of_sites_add_up_to_those_of_all_their_records(sizes: list[int], seed: int) -> None:
    scores, shallow, deep, truth = drawn(np.random.default_rng(seed), sum(sizes))
    whole = count(scores, shallow, deep, 3, truth)
    ends = np.cumsum([0, *sizes])
    parts = [
        count(scores[a:b], shallow[a:b], deep[a:b], 3, truth[a:b])
        for a, b in zip(ends, ends[1:], strict=False)
    ]
    together = pooled(parts)
    for name in ("records", "harm", "shallow"):
        np.testing.assert_array_equal(getattr(together, name), getattr(whole, name))
        assert getattr(together, name).dtype == np.int64


def test_the_promise_is_kept_as_often_as_it_says_and_the_naive_rule_breaks_it() -> None:
    rng = np.random.default_rng(7)
    many = counted(rng, 400_000)
    risk = many.harm.sum(axis=0) / many.total
    alpha, broken, naive, early = 0.03, 0, 0, 0
    for _ in range(300):
        counts = counted(rng, 600)
        found = choose(counts, alpha, 0.9).threshold
        if found is not None:
            at = int(np.flatnonzero(found == GRID)[0])
            broken += risk[at] > alpha
            early += 1
        share = counts.harm.sum(axis=0) / counts.total
        naive += risk[np.flatnonzero(share <= alpha)[-1]] > alpha
    # 300 times 0.1 is 30, with a spread of 5.2.
    assert broken <= 45 and early > 290
    assert naive > 100


def test_with_too_few_records_all_go_deep_and_it_says_how_many_are_missing() -> None:
    zeros = np.zeros(298, np.int64)
    found = choose(count(np.ones(298), zeros, zeros, 2, zeros), 0.01, 0.95)
    assert found.threshold is None and found.missing == 1
    one = np.zeros(299, np.int64)
    assert choose(count(np.ones(299), one, one, 2, one), 0.01, 0.95).threshold == 0.0


def test_enough_records_of_a_bad_branch_go_deep_and_none_is_missing() -> None:
    zeros = np.zeros(2000, np.int64)
    found = choose(count(np.ones(2000), zeros + 1, zeros, 2, zeros), 0.01, 0.95)
    assert found.threshold is None and found.missing == 0


def test_the_threshold_loosens_with_alpha_and_records() -> None:
    counts = counted(np.random.default_rng(5), 5000)
    found = [choose(counts, alpha, 0.95).threshold for alpha in (0.01, 0.02, 0.05, 0.1)]
    assert None not in found and found == sorted(found, reverse=True) and len(set(found)) == 4


def test_each_way_to_put_sites_together() -> None:
    rng = np.random.default_rng(6)
    counts = {"good": counted(rng, 1500), "bad": counted(rng, 1500, 2.0), "small": counted(rng, 9)}
    alone = by_site(counts, "site", 0.03, 0.95)
    shared = by_site(counts, "pooled", 0.03, 0.95)
    drawn_in = by_site(counts, "shrunk", 0.03, 0.95)
    assert alone["small"].threshold is None and alone["small"].missing == least(0.03, 0.95) - 9
    assert len({one.threshold for one in shared.values()}) == 1
    assert shared["good"] == choose(pooled(counts.values()), 0.03, 0.95)
    assert alone["good"].threshold < shared["good"].threshold < alone["bad"].threshold
    # Towards the others, and of a site with hardly any records nearly theirs.
    assert alone["good"].threshold <= drawn_in["good"].threshold <= shared["good"].threshold
    assert drawn_in["small"].threshold == pytest.approx(shared["small"].threshold, abs=0.05)


def test_shrunk_is_the_sites_own_test_or_the_others_at_its_ends() -> None:
    rng = np.random.default_rng(8)
    own, others, nobody = counted(rng, 800), counted(rng, 5000, 1.0), counted(rng, 0)
    assert choose_shrunk(own, nobody, 0.05, 0.95) == choose(own, 0.05, 0.95)
    assert choose_shrunk(nobody, others, 0.05, 0.95) == choose(others, 0.05, 0.95)
    alike = choose_shrunk(own, own, 0.05, 0.95)
    weight = 800 / 900
    assert alike.records == pytest.approx(1 / (weight**2 / 800 + (1 - weight) ** 2 / 800))


def test_no_counts_no_threshold() -> None:
    with pytest.raises(ValueError, match="counts: must be those of one site at least"):
        by_site({}, "pooled", 0.01, 0.95)


@pytest.mark.parametrize(
    ("alpha", "confidence"),
    [(0.01, 1e-17), (1e-320, 0.95), (1 - 1e-16, 1e-17), (0.01, 1 - 1e-16), (5e-324, 1 - 1e-16)],
)
def test_no_record_lets_nothing_leave_early_however_little_is_asked(
    alpha: float, confidence: float
) -> None:
    none = np.zeros(0, np.int64)
    found = choose(count(np.zeros(0), none, none, 2, none), alpha, confidence)
    assert found.threshold is None and found.missing == least(alpha, confidence) >= 1


@pytest.mark.long
def test_a_loss_lets_more_leave_early_than_harm_and_is_kept_as_often_as_said() -> None:
    rng, alpha, sure = np.random.default_rng(11), 0.02, 0.9
    scores, shallow, deep, truth = drawn(rng, 100_000)
    every = count(scores, shallow, deep, 3, truth)
    lost = (every.harm - every.gain).sum(axis=0) / every.total
    harmed = every.harm.sum(axis=0) / every.total
    broken, left = 0, {"harm": 0.0, "loss": 0.0}
    for _ in range(60):
        some = rng.choice(len(truth), 2000)
        counts = count(scores[some], shallow[some], deep[some], 3, truth[some])
        for risk, truly in (("harm", harmed), ("loss", lost)):
            choice = choose(counts, alpha, sure, risk)
            left[risk] += choice.shallow / choice.records
            if choice.threshold is not None and risk == "loss":
                broken += bool(truly[GRID == choice.threshold][0] > alpha)
    # Three standard deviations of 60 draws above what is allowed.
    assert broken <= 60 * (1 - sure) + 3 * np.sqrt(60 * sure * (1 - sure))
    assert left["loss"] > 1.05 * left["harm"] > 0


def test_a_loss_under_a_mixture_is_refused() -> None:
    counts = {"a": counted(np.random.default_rng(1), 9)}
    with pytest.raises(ValueError, match="risk: must be harm where kind is shrunk"):
        by_site(counts, "shrunk", 0.01, 0.95, "loss")
