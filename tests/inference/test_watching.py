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
    for _ in range(100):
        part = int(rng.integers(1, 20))
        came.append((part, int(rng.binomial(part, 0.1))))
        watch.see(*came[-1])
    chances = np.geomspace(0.11, 1, 25)[:-1]
    seen, begun, capital = 0, [0], 0.0
    for values, _ in came:
        seen += values
        if seen - begun[-1] >= 256:
            begun.append(seen)
    for number, at in enumerate(begun, 1):
        seen, of = 0, np.ones(24)
        for values, happened in came:
            if seen >= at:
                of *= (chances / 0.1) ** happened * ((1 - chances) / 0.9) ** (values - happened)
            seen += values
        capital += of.mean() / (number * (number + 1))
    capital += 1 / (len(begun) + 1)
    assert len(begun) > 3
    assert watch.log_capital == pytest.approx(math.log(capital), rel=1e-9)


def test_a_bet_is_not_expected_to_gain_while_the_hypothesis_is_true() -> None:
    # Exactly, over all that may come in twelve steps.
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
    """Return after how many values the alarm came, by looks at 20 each."""
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
    watch: Worse, shares: Sequence[float], most: int, rng: np.random.Generator
) -> int | None:
    """Return after how many labelled pairs a candidate was given up, by looks at 10 each."""
    for won, lost, ties in rng.multinomial(10, shares, most // 10).tolist():
        if watch.see(won=won, lost=lost, ties=ties):
            return watch.pairs
    return None


def test_a_worse_candidate_is_given_up_and_an_equal_one_is_not() -> None:
    rng = np.random.default_rng(3)
    # 3 points worse, where the two differ in 7 of 100 answers.
    worse = [paired(Worse(), (0.02, 0.05, 0.93), 20_000, rng) for _ in range(100)]
    assert all(one is not None for one in worse)
    assert np.median([one or 0 for one in worse]) < 1200
    equal = sum(paired(Worse(), (0.035, 0.035, 0.93), 10_000, rng) is not None for _ in range(100))
    assert equal <= 5
    assert paired(Worse(), (0.05, 0.02, 0.93), 20_000, rng) is None, "better"


def test_what_has_fired_stays_so() -> None:
    watch = TooOften(0.05, 0.01)
    assert not watch.see(300, 5)
    assert watch.see(100, 90) and watch.see(100_000, 0)


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
    assert TooOften(0.95, 0.5).see(1000, 1000) and not TooOften(1e-9, 1e-9).see(1000, 0)
