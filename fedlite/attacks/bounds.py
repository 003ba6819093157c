"""Epsilon from below: what counts and scores of canaries prove about a mechanism.

A canary is a record that the auditor adds, or not, by a fair coin. "In" and "out" below are the
scores of the canaries whose coin fell so. Every bound is one-sided: with probability `confidence`
over coins and noise it is not above the mechanism's true epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtr, ndtri
from scipy.stats import binom, chi2, norm

from fedlite.privacy.composition import check_delta, compose_pld
from fedlite.privacy.mechanism import Event

Scores = NDArray[np.float64]
Curve = Callable[[float], float]
"""The least false-positive rate in [0, 1] that a mechanism allows at a true-positive rate."""

_MOST_MU = 50.0
_EPSILONS = np.concatenate([np.linspace(0.0, 4.0, 81), np.geomspace(4.1, 60.0, 60)])


def check_significance(value: float) -> None:
    """Raise ValueError unless `value`, 1 - confidence, is between 0 and 1/2."""
    if not 0 < value < 0.5:
        raise ValueError(
            f"significance: must be greater than 0 and less than 0.5, got {value!r}; 0.05 is usual"
        )


def upper_rate(successes: int, trials: int, significance: float) -> float:
    """Return an upper confidence bound on a binomial rate (Clopper and Pearson 1934).

    >>> round(upper_rate(0, 100, 0.05), 4)  # 1 - 0.05 ** (1 / 100)
    0.0295
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes: must be from 0 to {trials} of them, got {successes}")
    check_significance(significance)
    if successes == trials:
        return 1.0
    return float(betaincinv(successes + 1, trials - successes, 1.0 - significance))


def step_mu(inside: Scores, outside: Scores, threshold: float, significance: float) -> float:
    """Return a lower bound on mu = 1 / sigma of one step, from scores at one fixed threshold.

    inside, outside: float64 [n], independent scores in the units of the noise: N(mu, 1) and N(0, 1)
    under a Gaussian step. threshold: chosen before any score was seen. Whatever the scores are, a
    mu-GDP step allows no test with probit(TPR) - probit(FPR) above mu (Dong, Roth, Su 2022,
    equation 6); both rates are bounded at half the significance. 0 where nothing is proven.
    """
    misses, alarms = int((inside <= threshold).sum()), int((outside > threshold).sum())
    miss = upper_rate(misses, len(inside), significance / 2)
    alarm = upper_rate(alarms, len(outside), significance / 2)
    return float(np.clip(-ndtri(alarm) - ndtri(miss), 0.0, _MOST_MU))


def composed(mu: float, rate: float, steps: int, delta: float) -> float:
    """Return epsilon at `delta` of `steps` Poisson-sampled Gaussian steps of mu = 1 / sigma.

    By the same pessimistic PLD that the claim is made with (at most about 0.001 too high), so that
    the two are comparable. Nasr et al. 2023 (arXiv 2302.07956), section 5: the step is measured,
    the composition computed.
    """
    if mu <= 0.0:
        check_delta(delta)
        return 0.0
    return compose_pld([(Event(1.0 / mu, rate), steps)], delta)


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return delta(epsilon) of N(mu, 1) against N(0, 1) (Balle and Wang 2018, equation 6)."""
    if mu <= 0.0:
        return 0.0
    first = float(ndtr(mu / 2 - epsilon / mu))
    second = float(np.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)))
    return max(0.0, first - second)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return epsilon at `delta` of N(mu, 1) against N(0, 1).

    >>> round(gaussian_epsilon(1.0, 1e-5), 3)
    4.377
    """
    check_delta(delta)
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = mu * (mu / 2 + 12.0)
    return float(brentq(lambda e: gaussian_delta(e, mu) - delta, 0.0, high, xtol=1e-9))


def one_run_p(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Return the p-value of `correct` right guesses under (epsilon, delta)-DP.

    Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846), theorem 5.2: with v of r guesses over m
    canaries right, P <= beta + 2 m delta max_i (1/i) P[v > B >= v - i], beta = P[B >= v],
    B ~ Binomial(r, e^epsilon / (1 + e^epsilon)).
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(
            f"correct: must be at most the {guesses} guesses over {canaries} canaries, got "
            f"{correct}"
        )
    right = 1.0 / (1.0 + math.exp(-epsilon))
    beta = float(binom.sf(correct - 1, guesses, right))
    if delta == 0.0 or correct == 0:
        return min(1.0, beta)
    i = np.arange(1, correct + 1)
    between = binom.sf(correct - i - 1, guesses, right) - beta
    return min(1.0, beta + 2 * canaries * delta * float((between / i).max()))


def one_run(
    correct: int, guesses: int, canaries: int, delta: float, significance: float = 0.05
) -> float:
    """Return the largest epsilon that one run's guesses refute (`one_run_p`); 0 where none."""
    check_significance(significance)

    def refuted(epsilon: float) -> bool:
        return one_run_p(correct, guesses, canaries, epsilon, delta) <= significance

    return _largest(refuted)


def gaussian_curve(mu: float) -> Curve:
    """Return the curve of a mu-GDP mechanism."""
    return lambda y: float(ndtr(ndtri(y) - mu))


def composed_curve(sigma: float, rate: float, steps: int) -> Curve:
    """Return the curve of a plan of sampled Gaussian steps, in either direction.

    From delta(epsilon) of its PLD at finitely many epsilon: never above the true curve, so that
    whoever tests a hypothesis with it errs on the safe side. A plan without sampling is exactly
    Gaussian.
    """
    if rate == 1.0:
        return gaussian_curve(math.sqrt(steps) / sigma)
    from dp_accounting.pld import privacy_loss_distribution as distributions

    one = distributions.from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=1e-3
    )
    deltas = np.asarray(one.self_compose(steps).get_delta_for_epsilon(_EPSILONS))
    growth = np.exp(_EPSILONS)

    def curve(y: float) -> float:
        one_side, other = (y - deltas) / growth, 1.0 - deltas - growth * (1.0 - y)
        return max(0.0, float(one_side.max()), float(other.max()))

    return curve


def curve_refuted(
    correct: int, guesses: int, canaries: int, curve: Curve, significance: float
) -> bool:
    """Return whether one run's guesses refute the hypothesis that `curve` bounds the mechanism.

    Mahloujifar, Melis, Chaudhuri 2024 (arXiv 2410.22235), theorem 9 and algorithm 3: bounds the
    chance of `correct` right guesses by a recursion over how many are right.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"correct: must be at most {guesses} of {canaries}, got {correct}")
    right = significance * correct / canaries
    wrong = significance * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        more = max(wrong, curve(min(right, 1.0)))
        if more == wrong:
            break
        right = min(1.0, right + i / (guesses - i) * (more - wrong))
        wrong = more
    return right + wrong >= guesses / canaries


def one_run_curve(
    correct: int,
    guesses: int,
    canaries: int,
    *,
    rate: float,
    steps: int,
    delta: float,
    significance: float = 0.05,
) -> float:
    """Return a lower bound on epsilon from one run, for a plan of this rate and these steps.

    The hypotheses are this plan with other noise multipliers; the bound is the epsilon of the one
    with the most loss that the guesses still refute (`curve_refuted`). 0 where none is.
    """
    check_significance(significance)

    def refuted(mu: float) -> bool:
        curve = composed_curve(math.sqrt(steps) / mu, rate, steps)
        return curve_refuted(correct, guesses, canaries, curve, significance)

    mu = _largest(refuted, start=0.125, digits=0.01 if rate < 1.0 else 1e-4)
    return composed(mu / math.sqrt(steps), rate, steps, delta)


def _largest(
    refuted: Callable[[float], bool], *, start: float = 1.0, digits: float = 1e-4
) -> float:
    """Return the largest value, up to `_MOST_MU`, that is refuted, where smaller ones are too."""
    low, high = 0.0, start
    while refuted(high):
        low, high = high, 2 * high
        if low >= _MOST_MU:
            return low
    while high - low > digits * max(1e-3, high):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def guesses_for(canaries: int, mu: float, delta: float) -> int:
    """Return how many guesses are best, under the claim alone, for scores N(mu, 1) and N(0, 1).

    Even: half of them "in" for the highest scores, half "out" for the lowest.
    """
    best, chosen = -1.0, 2
    for share in np.geomspace(4.0 / canaries, 1.0, 25):
        guesses = max(2, 2 * int(share * canaries / 2))
        # The threshold above which a share/2 of the mixture of both lies.
        half = guesses / canaries / 2

        def above(t: float, half: float = half) -> float:
            return float(ndtr(mu - t) + ndtr(-t)) / 2 - half

        cut = brentq(above, -10.0, mu + 10.0)
        right = float(ndtr(mu - cut) / (ndtr(mu - cut) + ndtr(-cut)))
        value = one_run(round(guesses * right), guesses, canaries, delta)
        if value > best:
            best, chosen = value, guesses
    return chosen


def count_correct(scores: Scores, coins: NDArray[np.bool_], guesses: int) -> int:
    """Return how many guesses are right: the highest half of them "in", the lowest half "out"."""
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    low, high = order[:half], order[len(order) - (guesses - half) :]
    return int((~coins[low]).sum() + coins[high].sum())


def gaussian_pair(
    inside: Scores, outside: Scores, delta: float, significance: float = 0.05
) -> tuple[float, float]:
    """Return (estimate, lower end) of epsilon for scores that are taken to be two Gaussians.

    After Agrawal et al. 2026 (arXiv 2606.12733): both kinds of scores are fitted by a Gaussian and
    epsilon is where the hockey-stick divergence of the pair is delta. The lower end takes the mean
    difference low and the deviation high, at a third of the significance each. An estimate and no
    bound: that scores are Gaussian is assumed, not tested, and no tail is seen.
    """
    check_significance(significance)
    m1, m0 = float(inside.mean()), float(outside.mean())
    v1, v0 = float(inside.var(ddof=1)), float(outside.var(ddof=1))
    estimate = max(
        pair_epsilon((m1, math.sqrt(v1)), (m0, math.sqrt(v0)), delta),
        pair_epsilon((m0, math.sqrt(v0)), (m1, math.sqrt(v1)), delta),
    )
    z = float(norm.isf(significance / 3))
    gap = abs(m1 - m0) - z * math.sqrt(v1 / len(inside) + v0 / len(outside))
    free = len(inside) + len(outside) - 2
    pooled = ((len(inside) - 1) * v1 + (len(outside) - 1) * v0) / free
    widest = math.sqrt(pooled * free / float(chi2.ppf(significance / 3, free)))
    if not widest:
        return estimate, estimate
    return estimate, gaussian_epsilon(max(0.0, gap) / widest, delta)


def pair_epsilon(first: tuple[float, float], second: tuple[float, float], delta: float) -> float:
    """Return epsilon at `delta` of a Gaussian against another, each (mean, deviation)."""
    check_delta(delta)

    if not (first[1] and second[1]):
        # Without any noise one look tells which it is, unless nothing differs.
        return 0.0 if first == second else math.inf

    def gap(epsilon: float) -> float:
        return _pair_delta(epsilon, first, second) - delta

    if gap(0.0) <= 0:
        return 0.0
    high = 1.0
    while gap(high) > 0:
        high *= 2
        if high > 1e6:
            return math.inf
    return float(brentq(gap, 0.0, high, xtol=1e-9))


def _pair_delta(epsilon: float, first: tuple[float, float], second: tuple[float, float]) -> float:
    """Return the hockey-stick divergence: the mass where the first is e^epsilon times likelier."""
    (m1, s1), (m0, s0) = first, second
    # log p1 - log p0 - epsilon, a parabola a x^2 + b x + c around m0.
    a = 0.5 / s0**2 - 0.5 / s1**2
    b = (m1 - m0) / s1**2
    c = -0.5 * ((m1 - m0) / s1) ** 2 + math.log(s0 / s1) - epsilon

    def mass(low: float, high: float) -> float:
        p1 = ndtr((high + m0 - m1) / s1) - ndtr((low + m0 - m1) / s1)
        p0 = ndtr(high / s0) - ndtr(low / s0)
        # At most p1: where e^epsilon overflows, p0 is 0.
        return float(p1 - (math.exp(min(epsilon, 700.0)) * p0))

    if abs(a) * s0**2 < 1e-12:
        if b == 0.0:
            return 0.0
        return mass(-c / b, math.inf) if b > 0 else mass(-math.inf, -c / b)
    inner = b * b - 4 * a * c
    if inner <= 0:
        return 1.0 - math.exp(min(epsilon, 700.0)) if a > 0 and epsilon < 0 else 0.0
    low, high = sorted(((-b - math.sqrt(inner)) / (2 * a), (-b + math.sqrt(inner)) / (2 * a)))
    if a < 0:
        return mass(low, high)
    return mass(-math.inf, low) + mass(high, math.inf)


def canary_clients(cosines: Scores, size: int, delta: float) -> float:
    """Return an estimate of epsilon from the cosines of canary clients' directions with a release.

    cosines: float64 [m] of random directions that took part; one that did not has N(0, 1 / size)
    in `size` dimensions. Andrew et al. 2024 (arXiv 2302.03098), algorithm 1 and section 4: both
    directions of the Gaussian pair, the larger. An estimate and no bound.
    """
    fitted = float(cosines.mean()), float(cosines.std(ddof=1))
    silent = 0.0, 1.0 / math.sqrt(size)
    return max(pair_epsilon(fitted, silent, delta), pair_epsilon(silent, fitted, delta))
