"""Bounds on epsilon from below, against exact probabilities and ideal mechanisms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from fedlite.attacks import bounds
from fedlite.privacy.accounting import pld

DELTA = 1e-5


def test_an_upper_rate_covers_exactly() -> None:
    n, level = 12, 0.1
    for truth in np.linspace(0.02, 0.98, 25):
        covered = sum(
            binom.pmf(k, n, truth) for k in range(n + 1) if bounds.upper_rate(k, n, level) >= truth
        )
        assert covered >= 1 - level
    assert bounds.upper_rate(12, 12, 0.1) == 1.0


@pytest.mark.long
@pytest.mark.parametrize(("mu", "delta"), [(0.3, 1e-5), (1.0, 1e-6), (3.0, 1e-5)])
def test_the_gaussian_epsilon_agrees_with_the_accountant(mu: float, delta: float) -> None:
    assert bounds.gaussian_epsilon(mu, delta) == pytest.approx(pld(1 / mu, 1.0, 1, delta), abs=2e-3)


def test_gaussian_epsilon_is_zero_where_delta_covers_everything() -> None:
    assert bounds.gaussian_epsilon(1e-7, 1e-5) == 0.0


@pytest.mark.parametrize("mu", [0.1, 0.7, 2.0])
def test_a_step_bound_is_below_the_truth_and_near_it(mu: float) -> None:
    rng = np.random.default_rng(int(10 * mu))
    found = []
    for _ in range(60):
        inside, outside = rng.normal(mu, 1, 40_000), rng.normal(0, 1, 40_000)
        found.append(bounds.step_mu(inside, outside, mu / 2, 0.05))
    # At 95 % three of sixty may be above; two Clopper-Pearson bounds leave it far below that.
    assert sum(value > mu for value in found) <= 3
    assert np.mean(found) > mu - 0.05


def test_a_step_bound_holds_at_any_threshold_and_for_any_scores() -> None:
    rng = np.random.default_rng(3)
    for threshold in (-2.0, 0.0, 4.0):
        above = 0
        for _ in range(60):
            inside, outside = rng.normal(0.5, 1, 3000), rng.normal(0, 1, 3000)
            above += bounds.step_mu(inside, outside, threshold, 0.05) > 0.5
        assert above <= 3
    # Half of the noise is another mu.
    assert bounds.step_mu(rng.normal(1, 1, 9000), rng.normal(0, 1, 9000), 0.25, 0.05) > 0.5


def test_one_run_without_delta_is_the_binomial_tail_of_randomised_response() -> None:
    # Epsilon-DP randomised response of m bits guesses each with e^eps / (1 + e^eps): the bound is
    # attained, so the p-value is the exact chance.
    for epsilon, m, v in ((0.5, 9, 7), (2.0, 20, 19)):
        right = math.exp(epsilon) / (1 + math.exp(epsilon))
        exact = sum(binom.pmf(k, m, right) for k in range(v, m + 1))
        assert bounds.one_run_p(v, m, m, epsilon, 0.0) == pytest.approx(exact)
        assert bounds.one_run_p(v, m, m, epsilon, 1e-3) > exact


def test_one_run_with_delta_is_the_formula_written_out() -> None:
    v, r, m, epsilon, delta = 17, 20, 50, 0.8, 1e-3
    right = 1 / (1 + math.exp(-epsilon))
    chance = [binom.pmf(k, r, right) for k in range(r + 1)]
    beta = sum(chance[v:])
    most = max(sum(chance[max(0, v - i) : v]) / i for i in range(1, v + 1))
    assert bounds.one_run_p(v, r, m, epsilon, delta) == pytest.approx(beta + 2 * m * delta * most)


@pytest.mark.parametrize("m", [5, 12, 40])
@pytest.mark.parametrize("epsilon", [0.3, 1.5])
def test_one_run_bounds_are_wrong_as_seldom_as_they_say(m: int, epsilon: float) -> None:
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    curve = _pure(epsilon)
    wrong = {"steinke": 0.0, "f-dp": 0.0}
    for v in range(m + 1):
        chance = float(binom.pmf(v, m, right))
        wrong["steinke"] += chance * (bounds.one_run(v, m, m, 0.0) > epsilon)
        wrong["f-dp"] += chance * bounds.curve_refuted(v, m, m, curve, 0.05)
    assert max(wrong.values()) <= 0.05


def _pure(epsilon: float) -> bounds.Curve:
    growth = math.exp(epsilon)
    return lambda y: max(0.0, y / growth, 1.0 - growth * (1.0 - y))


@pytest.mark.parametrize("m", [10, 60])
@pytest.mark.parametrize("mu", [0.5, 1.5])
def test_a_gaussian_curve_is_refuted_as_seldom_as_it_says(m: int, mu: float) -> None:
    right = float(norm.cdf(mu / 2))
    wrong = sum(
        float(binom.pmf(v, m, right))
        for v in range(m + 1)
        if bounds.curve_refuted(v, m, m, bounds.gaussian_curve(mu), 0.05)
    )
    assert wrong <= 0.05
    assert bounds.curve_refuted(m, m, m, bounds.gaussian_curve(0.01), 0.05)


@pytest.mark.long
def test_a_sampled_plans_curve_is_never_above_the_gaussian_it_contains() -> None:
    composed = bounds.composed_curve(1.0, 0.999999, 1)
    plain = bounds.gaussian_curve(1.0)
    for y in (1e-3, 0.1, 0.5, 0.9, 0.999):
        assert composed(y) == pytest.approx(plain(y), abs=0.01)
    sampled = bounds.composed_curve(1.0, 0.2, 5)
    # Less sampling, less loss: more false alarms for the same success.
    assert all(sampled(y) > bounds.composed_curve(1.0, 0.4, 5)(y) for y in (0.1, 0.5, 0.9))


@pytest.mark.long
def test_ideal_runs_give_the_known_figures() -> None:
    """T = 100 steps, epsilon 4 at 1e-5: earlier prototypes gave 2.2 and 2.8 at m = 10,000."""
    mu, m = 0.925, 10_000
    assert bounds.gaussian_epsilon(mu, DELTA) == pytest.approx(4.0, abs=0.01)
    rng = np.random.default_rng(1)
    guesses = bounds.guesses_for(m, mu, DELTA)
    steinke, curved, pairs = [], [], []
    for _ in range(50):
        coins = rng.random(m) < 0.5
        scores = rng.normal(size=m) + mu * coins
        correct = bounds.count_correct(scores, coins, guesses)
        steinke.append(bounds.one_run(correct, guesses, m, DELTA))
        curved.append(bounds.one_run_curve(correct, guesses, m, rate=1.0, steps=100, delta=DELTA))
        pairs.append(bounds.gaussian_pair(scores[coins], scores[~coins], DELTA))
    assert max(steinke) < 4.0 and max(curved) < 4.0
    assert 1.5 < np.mean(steinke) < np.mean(curved) < 3.2
    estimates, lower = np.array(pairs).T
    assert np.mean(estimates) == pytest.approx(4.0, abs=0.25)
    assert (lower > 4.0).sum() <= 2 and lower.mean() > 3.5


@pytest.mark.parametrize(
    ("first", "second"),
    [((1.0, 1.0), (0.0, 1.0)), ((0.4, 1.3), (0.0, 1.0)), ((0.4, 0.7), (0.1, 1.0))],
)
def test_a_pairs_divergence_is_its_integral(
    first: tuple[float, float], second: tuple[float, float]
) -> None:
    x = np.linspace(-12, 12, 2_400_001)
    for epsilon in (0.0, 0.3, 1.0):
        gap = norm.pdf(x, *first) - math.exp(epsilon) * norm.pdf(x, *second)
        exact = np.maximum(gap, 0.0).sum() * (x[1] - x[0])
        assert bounds._pair_delta(epsilon, first, second) == pytest.approx(exact, abs=1e-6)


def test_canary_clients_estimate_the_gaussian_mechanisms_epsilon() -> None:
    rng, size, mu = np.random.default_rng(5), 4000, 1.0
    cosines = (rng.normal(size=20_000) + mu) / math.sqrt(size)
    assert bounds.canary_clients(cosines, size, DELTA) == pytest.approx(4.38, abs=0.25)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: bounds.upper_rate(3, 2, 0.05), "successes: must be from 0 to 2"),
        (lambda: bounds.one_run(1, 2, 2, 0.0, 0.7), "significance: must be greater than 0"),
        (lambda: bounds.one_run_p(3, 2, 2, 1.0, 0.0), "correct: must be at most the 2 guesses"),
        (lambda: bounds.gaussian_epsilon(1.0, 1.0), "delta: must be greater than 0"),
    ],
)
def test_numbers_outside_their_range_are_refused(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()  # type: ignore[operator]


def test_scores_without_any_noise_are_told_apart_for_certain() -> None:
    """All alike, as of a server that adds none: their variance is 0, and not nearly so."""
    assert bounds.pair_epsilon((1.0, 0.0), (0.0, 0.0), 1e-5) == math.inf
    assert bounds.pair_epsilon((1.0, 1.0), (0.0, 0.0), 1e-5) == math.inf
    assert bounds.pair_epsilon((1.0, 0.0), (1.0, 0.0), 1e-5) == 0.0
    same = np.zeros(9), np.ones(9)
    assert bounds.gaussian_pair(same[1], same[0], 1e-5, 0.01) == (math.inf, math.inf)
    assert bounds.gaussian_pair(same[0], same[0], 1e-5, 0.01) == (0.0, 0.0)
