"""Tests that may be looked at always: what they promise, by simulation and by closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fedlite.inference.watching import TooOften, Worse


def test_the_capital_is_the_mixture_of_its_bets() -> None:
    # Written out: of each bet the likelihood ratio of what came, in their order.
    watch = TooOften(0.1, 0.01)
    rng = np.random.default_rng(0)
    came: list[tuple[int, int]] = []
    for _ in range(800):
        part = int(rng.integers(1, 20))
        came.append((part, int(rng.binomial(part, 0.1))))
        watch.see(*came[-1])
    chances = np.geomspace(0.11, 1, 25)[:-1]
    begun, capital = list(range(0, len(came) + 1, 256)), 0.0
    for number, at in enumerate(begun, 1):
        of = np.ones(24)
        for values, happened in came[at:]:
            share = happened / values
            of *= share * chances / 0.1 + (1 - share) * (1 - chances) / 0.9
        capital += of.mean() / (number * (number + 1))
    capital += 1 / (len(begun) + 1)
    assert len(begun) > 3
    assert watch.log_capital == pytest.approx(math.log(capital), rel=1e-9)


def test_a_bet_is_not_expected_to_gain_while_the_hypothesis_is_true() -> None:
    # Exactly, over all that may come in a request of twelve rows.
    for chance in (0.2, 0.1):
        total = 0.0
        for happened in range(13):
            watch = TooOften(0.2, 1e-9)
            watch.see(12, happened)
            weight = math.comb(12, happened) * chance**happened * (1 - chance) ** (12 - happened)
            total += weight * math.exp(watch.log_capital)
        assert total <= 1 + 1e-9
        assert chance < 0.2 or total == pytest.approx(1)
    total = 0.0
    for lost in range(11):
        pair = Worse(1e-9)
        pair.see(won=10 - lost, lost=lost)
        total += math.comb(10, lost) / 2**10 * math.exp(pair.log_capital)
    assert total == pytest.approx(1)


def fired(watch: TooOften, chance: float, looks: int, rng: np.random.Generator) -> int | None:
    """Return after how many values the alarm came, in requests of 20 each."""
    for at, happened in enumerate(rng.binomial(20, chance, looks).tolist()):
        if watch.see(20, happened):
            return 20 * (at + 1)
    return None


def test_a_false_alarm_is_as_rare_as_promised_and_a_true_one_comes() -> None:
    rng = np.random.default_rng(1)
    false = sum(fired(TooOften(0.05, 0.1), 0.05, 150, rng) is not None for _ in range(100))
    # 10 are allowed at most in the mean: more than 20 come with a chance of 0.001.
    assert false <= 20
    found = [fired(TooOften(0.05, 0.01), 0.15, 500, rng) for _ in range(20)]
    assert all(one is not None and one < 1000 for one in found)


def test_what_changes_late_is_found_nearly_as_soon() -> None:
    rng = np.random.default_rng(2)
    watch = TooOften(0.02, 0.01)
    assert fired(watch, 0.005, 1000, rng) is None
    found = fired(watch, 0.1, 200, rng)
    assert found is not None and found < 800


def paired(
    watch: Worse, shares: Sequence[float], most: int, rng: np.random.Generator, rows: int = 10
) -> int | None:
    """Return after how many labelled pairs a candidate was given up, in requests of so many."""
    for won, lost, ties in rng.multinomial(rows, shares, most // rows).tolist():
        if watch.see(won=won, lost=lost, ties=ties):
            return watch.pairs
    return None


@pytest.mark.long
def test_a_worse_candidate_is_given_up_and_an_equal_one_is_not() -> None:
    rng = np.random.default_rng(3)
    # 3 points worse, where the two differ in 7 of 100 answers.
    worse = [paired(Worse(), (0.02, 0.05, 0.93), 20_000, rng, 1) for _ in range(100)]
    assert all(one is not None for one in worse)
    assert np.median([one or 0 for one in worse]) < 1200
    # Rows of one request count together, so it takes more rows, and fewer requests.
    many = [paired(Worse(), (0.02, 0.05, 0.93), 20_000, rng) for _ in range(100)]
    assert all(one is not None for one in many)
    assert np.median([one or 0 for one in many]) < 4000
    equal = sum(paired(Worse(), (0.035, 0.035, 0.93), 10_000, rng) is not None for _ in range(100))
    assert equal <= 5
    assert paired(Worse(), (0.05, 0.02, 0.93), 20_000, rng) is None, "better"


@pytest.mark.long
def test_rows_of_a_request_that_are_alike_raise_no_more_than_was_promised() -> None:
    # Twenty rows of one patient: both versions are wrong of all or of none.
    rng = np.random.default_rng(6)
    gone = 0
    for _ in range(40):
        watch = Worse(0.02)
        for was, new in (rng.random((500, 2)) < 0.05).tolist():
            watch.see(
                won=20 * (was and not new), lost=20 * (new and not was), ties=20 * (was == new)
            )
        gone += watch.fired
    assert gone <= 4, "0.8 are allowed in the mean"
    false = 0
    for _ in range(20):
        drift = TooOften(0.02, 0.01)
        for rows, harmed in zip(rng.binomial(1000, 0.01, 1000), rng.random(1000), strict=True):
            drift.see(int(rows), int(rows) if harmed < 0.01 else 0)
        false += drift.fired
    assert false <= 2
    for both in (Worse(), TooOften(0.1, 0.1)):
        before = both.log_capital
        assert not (both.see(won=0, lost=0) if isinstance(both, Worse) else both.see(0, 0))
        assert both.log_capital == before, "nothing seen, nothing won"


def test_what_has_fired_stays_so() -> None:
    watch = TooOften(0.05, 0.01)
    assert not watch.see(300, 5)
    assert not watch.see(100, 90), "one request alone raises nothing"
    assert any(watch.see(100, 90) for _ in range(5)) and watch.see(100_000, 0)
    pair = Worse()
    assert not pair.see(won=0, lost=4096)


def test_what_cannot_be_is_refused() -> None:
    for limit, delta in ((0, 0.1), (1, 0.1), (0.1, 0), (0.1, 1), (math.nan, 0.1)):
        with pytest.raises(ValueError, match="must be above 0 and below 1"):
            TooOften(limit, delta)
    with pytest.raises(ValueError, match="happened: must be from 0 to 3, got 4"):
        TooOften(0.1, 0.1).see(3, 4)
    with pytest.raises(ValueError, match="must be at least 0"):
        Worse().see(won=-1, lost=0)
    with pytest.raises(ValueError, match="delta: must be"):
        Worse(0)
    # Limits at the edges do not break the arithmetic.
    edge = TooOften(0.95, 0.5)
    assert any(edge.see(1, 1) for _ in range(100)) and not TooOften(1e-9, 1e-9).see(1000, 0)
