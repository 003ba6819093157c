from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fedlite.privacy import Event, accounting, admission as filter
from fedlite.privacy.admission import Admission, admit, order_for, rdp_epsilon
from fedlite.privacy.composition import compose_pld

DELTA = 1e-5
ORDER = order_for(3.0, DELTA)
Parts = list[tuple[Event, int]]

gaussians = st.builds(Event, st.floats(4.0, 60.0))
sampled = st.builds(Event, st.floats(0.7, 4.0), st.floats(0.02, 0.5))
parts = st.tuples(st.one_of(gaussians, sampled), st.integers(0, 40))
histories = st.lists(parts, max_size=4)


def ceiling(epsilon: float = 3.0, **more: float) -> dict[str, float]:
    return {"epsilon": epsilon, "delta": DELTA, "order": ORDER, **more}


def analytic_gaussian(mu: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, for a sensitivity of `mu` noise deviations; by bisection."""

    def cdf(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = 0.0, 500.0
    for _ in range(100):
        middle = (low + high) / 2
        tail = math.exp(middle) * cdf(-mu / 2 - middle / mu)
        found = cdf(mu / 2 - middle / mu) - tail
        low, high = (middle, high) if found > delta else (low, middle)
    return high


def gaussian_rdp_epsilon(weight: float, order: float, delta: float) -> float:
    """Balle et al. 2020, theorem 21, for Gaussians with the sum `weight` of T / sigma^2."""
    rho = order * weight / 2
    return rho + math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1)


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 1.0, 2.5, 3.0, 8.0, 25.0, 300.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_no_other_order_lets_more_gaussian_steps_fit(epsilon: float, delta: float) -> None:
    def weight(order: float) -> float:
        return (epsilon - gaussian_rdp_epsilon(0.0, order, delta)) * 2 / order

    best = order_for(epsilon, delta)
    assert best.is_integer() and 2 <= best <= 1024
    assert weight(best) == max(weight(float(order)) for order in range(2, 1025))
    if 3 <= best < 1024:
        # Real orders would gain next to nothing (more between 2 and 3, for large ceilings).
        real = max(weight(best - 1 + step / 50) for step in range(101))
        assert weight(best) >= 0.93 * real
    if 0.1 < epsilon <= 8:
        assert 0.7 < weight(best) / analytic_weight(epsilon, delta) < 1.0


def analytic_weight(epsilon: float, delta: float) -> float:
    low, high = 1e-9, 1e3
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if analytic_gaussian(middle, delta) <= epsilon else (low, middle)
    return low**2


@given(parts=histories)
@settings(max_examples=15, deadline=None)
def test_rdp_adds_up_and_plans_may_be_split(parts: Parts) -> None:
    whole = rdp_epsilon(parts, ORDER, DELTA)
    halves = [(e, n // 2) for e, n in parts] + [(e, n - n // 2) for e, n in reversed(parts)]
    assert rdp_epsilon(halves, ORDER, DELTA) == whole
    assert rdp_epsilon([*parts, (Event(30.0), 1)], ORDER, DELTA) > whole
    if parts and all(event.sampling_rate == 1 for event, _ in parts):
        weight = sum(n / e.noise_multiplier**2 for e, n in parts)
        expected = gaussian_rdp_epsilon(weight, ORDER, DELTA) if weight else 0.0
        assert whole == pytest.approx(expected, rel=1e-12)


def brute_force(history: Parts, event: Event, steps: int, epsilon: float, left: float) -> Admission:
    best = Admission(0, "rdp" if any(n for _, n in history) else "pld", 0.0)
    for count in range(1, steps + 1):
        if best.bound == "rdp":
            cost = rdp_epsilon([*history, (event, count)], ORDER, left)
        else:
            cost = compose_pld([(event, count)], left)
        if cost <= epsilon:
            best = Admission(count, best.bound, cost)
    return best


@pytest.mark.long
@pytest.mark.parametrize(
    ("event", "steps", "found"),
    [(Event(3.0), 5, 4), (Event(1.1, 0.25), 3, 2), (Event(1.2), 2, 0)],
)
def test_a_first_plan_is_admitted_as_far_as_its_pld_fits(
    event: Event, steps: int, found: int
) -> None:
    expected = brute_force([], event, steps, 3.0, DELTA)
    assert expected.steps == found
    assert admit([], event, steps, **ceiling()) == expected
    if found:
        assert admit([], event, found, **ceiling()) == expected
        assert admit([], event, 1, **ceiling()).steps == 1


@given(
    history=histories,
    event=st.one_of(gaussians, sampled),
    steps=st.integers(1, 30),
    epsilon=st.floats(0.5, 8.0),
)
@settings(max_examples=15, deadline=None)
def test_a_later_plan_is_admitted_as_far_as_the_sum_fits(
    history: Parts, event: Event, steps: int, epsilon: float
) -> None:
    before = [(Event(50.0), 1), *history]
    expected = brute_force(before, event, steps, epsilon, 0.99 * DELTA)
    found = admit(before, event, steps, **ceiling(epsilon))
    assert found == expected
    assert found.charged <= epsilon and found.bound == "rdp"


@pytest.mark.long
@given(
    history=histories,
    more=parts,
    event=st.one_of(gaussians, st.just(Event(1.3, 0.1))),
    steps=st.integers(1, 60),
    epsilon=st.floats(0.3, 6.0),
)
@settings(max_examples=15, deadline=None)
def test_whatever_was_spent_before_never_lets_more_in(
    history: Parts, more: tuple[Event, int], event: Event, steps: int, epsilon: float
) -> None:
    found = admit(history, event, steps, **ceiling(epsilon))
    assert 0 <= found.steps <= steps and 0 <= found.charged <= epsilon
    assert admit([*history, more], event, steps, **ceiling(epsilon)).steps <= found.steps
    louder = Event(event.noise_multiplier * 1.1, event.sampling_rate)
    assert admit(history, louder, steps, **ceiling(epsilon)).steps >= found.steps
    assert admit(history, event, steps, **ceiling(epsilon * 1.1)).steps >= found.steps
    assert admit(history, event, steps + 1, **ceiling(epsilon)).steps >= found.steps


@given(
    wishes=st.lists(st.tuples(gaussians, st.integers(1, 80)), min_size=1, max_size=12),
    epsilon=st.floats(0.5, 8.0),
)
@settings(max_examples=15, deadline=None)
def test_gaussian_plans_that_were_admitted_never_cost_more_than_the_ceiling(
    wishes: Parts, epsilon: float
) -> None:
    held = {"epsilon": epsilon, "delta": DELTA, "order": order_for(epsilon, DELTA)}
    history: Parts = []
    for event, steps in wishes:
        admitted = admit(history, event, steps, **held).steps
        if admitted:
            history.append((event, admitted))
    weight = sum(n / e.noise_multiplier**2 for e, n in history)
    assert not history or analytic_gaussian(math.sqrt(weight), DELTA) <= epsilon


@pytest.mark.long
@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(3.0, 1.0, 30), (2.0, 0.1, 20)])
def test_a_calibrated_plan_is_admitted_whole_and_nothing_after_it(
    epsilon: float, rate: float, steps: int
) -> None:
    event = Event(accounting.calibrate(epsilon, DELTA, rate, steps), rate)
    held = {"epsilon": epsilon, "delta": DELTA, "order": order_for(epsilon, DELTA)}
    first = admit([], event, steps, **held)
    assert first.steps == steps and epsilon * 0.998 < first.charged <= epsilon
    assert admit([], event, steps + 1, **held).steps == steps
    # PLD let in more than the filter could ever hold: the first plan is all that there will be.
    assert rdp_epsilon([(event, steps)], held["order"], DELTA) > epsilon
    for tiny in (Event(1e6), Event(1e6, 1e-9)):
        assert admit([(event, steps)], tiny, 1, **held) == Admission(0, "rdp", 0.0)


def test_steps_that_were_admitted_count_whether_or_not_they_were_used() -> None:
    event = Event(10.0)
    assert admit([(event, 30)], event, 30, **ceiling()).steps == 14
    assert admit([(event, 30), (event, 14)], event, 1, **ceiling()).steps == 0
    # A plan without any step never was one.
    assert admit([(event, 0)], event, 30, **ceiling()).bound == "pld"


@pytest.mark.parametrize("epsilon", [0.0, -0.0, -1.0, -1e300])
def test_a_ceiling_of_nothing_admits_nothing(epsilon: float) -> None:
    assert admit([], Event(1e6), 1, **ceiling(epsilon)) == Admission(0, "pld", 0.0)
    assert admit([(Event(9.0), 1)], Event(1e6), 1, **ceiling(epsilon)) == Admission(0, "rdp", 0.0)


def test_delta_is_kept_for_cut_samples() -> None:
    event = Event(9.0)
    free = admit([], event, 30, **ceiling())
    assert free.charged == compose_pld([(event, 30)], DELTA)
    cut = admit([], event, 30, **ceiling(slack=1e-9))
    assert cut.charged == compose_pld([(event, 30)], 0.99 * DELTA) > free.charged
    assert admit([], event, 30, **ceiling(slack=0.01 * DELTA)) == cut
    assert admit([], event, 30, **ceiling(slack=0.0101 * DELTA)) == Admission(0, "pld", 0.0)
    later = admit([(event, 9)], event, 9, **ceiling())
    assert later == admit([(event, 9)], event, 9, **ceiling(slack=1e-9))
    assert admit([(event, 9)], event, 9, **ceiling(slack=DELTA)).steps == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("steps", v) for v in (0, -1, 1.5, math.nan, True)],
        *[("epsilon", v) for v in (math.nan, math.inf)],
        *[("delta", v) for v in (0.0, 1.0, math.nan, -1e-5)],
        *[("order", v) for v in (1.0, 0.0, math.nan, math.inf)],
        *[("slack", v) for v in (-1e-9, math.nan, math.inf)],
    ],
)
def test_what_has_no_meaning_is_refused(key: str, value: Any) -> None:
    arguments: dict[str, Any] = {"event": Event(9.0), "steps": 3, **ceiling(), key: value}
    for history in ([], [(Event(9.0), 1)]):
        with pytest.raises(ValueError, match=f"{key}: must be"):
            admit(history, **arguments)


@pytest.mark.parametrize("steps", [-1, 1.5, math.nan])
def test_a_history_without_meaning_is_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="steps: must be"):
        admit([(Event(9.0), steps)], Event(9.0), 1, **ceiling())


@pytest.mark.long
@pytest.mark.parametrize("event", [Event(1e-9), Event(1e-300, 1e-9), Event(0.02), Event(0.01, 0.5)])
def test_an_absurd_plan_is_refused_and_fills_no_memory(event: Event) -> None:
    assert admit([], event, 10**9, **ceiling()) == Admission(0, "pld", 0.0)
    assert admit([(Event(99.0), 1)], event, 10**9, **ceiling()).steps == 0


@given(answer=st.integers(0, 300), most=st.integers(1, 300), guess=st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_the_search_finds_the_last_that_fits(answer: int, most: int, guess: int) -> None:
    asked: list[int] = []

    def cost(count: int) -> float:
        asked.append(count)
        return float(count)

    found = filter._largest(cost, float(answer), most, min(guess, most))
    assert found == min(answer, most)
    assert all(1 <= count <= most for count in asked) and len(asked) == len(set(asked))
    assert len(asked) <= 2 + 2 * math.log2(most + 1)
