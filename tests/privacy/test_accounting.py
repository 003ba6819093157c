"""Reference values: opacus 1.6.0 and dp-accounting 0.6, each run on its own, and closed forms.

Covers fedlite/privacy/composition.py.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from scipy import integrate

from fedlite.privacy import ClientMechanism, Event, RecordMechanism, accounting, composition
from fedlite.privacy.admission import admit

# sigma, q, T, delta -> RDP (dp-accounting), PRV (Opacus, error 0.01), PLD, interval of its grid.
REFERENCE = [
    (1.0, 0.01, 1000, 1e-5, 2.101, 1.838, 1.829, 1e-3),
    (1.0, 0.05, 500, 1e-5, 8.302, 7.534, 7.524, 1e-3),
    (0.6, 0.01, 1000, 1e-5, 8.680, 7.444, 7.434, 1e-3),
    (1.5, 0.1, 300, 1e-5, 6.874, 6.301, 6.291, 1e-3),
    (4.0, 0.5, 200, 1e-5, 9.673, 8.830, 8.820, 1e-3),
    (1.0, 0.001, 10_000, 1e-6, 0.980, 0.565, 0.555, 1e-4),
    (5.0, 1.0, 100, 1e-5, 10.73, 10.01, 9.997, 1e-4),
]
MIXED = [(Event(1.0, 0.01), 300), (Event(2.0, 0.05), 200), (Event(20.0), 30), (Event(15.0), 20)]
COMPOSE: list[Callable[..., float]] = [
    composition.compose_pld,
    composition.compose_prv,
    composition.compose_rdp,
]
COARSE = 1e-3


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def analytic_gaussian(mu: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, for a sensitivity of `mu` noise deviations; by bisection."""

    def excess(epsilon: float) -> float:
        low = normal_cdf(-mu / 2 - epsilon / mu)
        return normal_cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * low - delta

    low, high = 0.0, 500.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


@pytest.mark.long
@pytest.mark.parametrize(
    ("sigma", "q", "steps", "delta", "rdp", "prv", "pld", "interval"), REFERENCE
)
def test_three_accountants_give_the_reference_values(
    sigma: float,
    q: float,
    steps: int,
    delta: float,
    rdp: float,
    prv: float,
    pld: float,
    interval: float,
) -> None:
    loss = accounting.PrivacyLoss(
        accounting.pld(sigma, q, steps, delta, interval),
        accounting.prv(sigma, q, steps, delta),
        accounting.rdp(sigma, q, steps, delta),
    )
    assert loss.pld == pytest.approx(pld, abs=0.0006)
    assert loss.prv == pytest.approx(prv, abs=0.0025 if prv > 10 else 0.0006)
    assert loss.rdp == pytest.approx(rdp, abs=0.005 if rdp > 10 else 0.0006)
    assert loss.agree


@pytest.mark.parametrize("row", [REFERENCE[0], REFERENCE[6]])
def test_the_library_without_torch_gives_the_same_prv(row: Sequence[float]) -> None:
    parts = [(Event(row[0], row[1]), int(row[2]))]
    with_torch = composition.compose_prv(parts, row[3])
    without = composition.compose_prv(parts, row[3], library="prv-accountant")
    assert without == pytest.approx(with_torch, abs=5e-4)


@pytest.mark.parametrize(("sigma", "steps"), [(5.0, 100), (1.0, 1), (7.6, 30), (40.0, 10)])
def test_without_sampling_pld_is_the_analytic_gaussian_and_never_below(
    sigma: float, steps: int
) -> None:
    exact = analytic_gaussian(math.sqrt(steps) / sigma, 1e-5)
    found = accounting.pld(sigma, 1.0, steps, 1e-5)
    assert exact - 1e-9 <= found <= exact + 2 * accounting.PLD_INTERVAL
    assert accounting.rdp(sigma, 1.0, steps, 1e-5) >= exact


@pytest.mark.parametrize(("at", "differs"), [("server", 0.5), ("site", 1.0)])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_a_clients_loss_is_the_analytic_gaussian_of_what_it_can_change(
    at: Any, differs: float, steps: int
) -> None:
    mechanism = ClientMechanism(clip=0.5, noise_multiplier=6.0, steps=40, at=at)
    exact = analytic_gaussian(math.sqrt(steps) * differs / mechanism.noise_std, 1e-5)
    loss = accounting.spent(mechanism, steps, 1e-5)
    assert exact - 1e-9 <= loss.pld <= exact + 2 * accounting.PLD_INTERVAL
    assert exact < loss.prv < exact + 2.1 * accounting.PRV_ERROR and loss.rdp > exact


def test_different_gaussians_compose_exactly() -> None:
    parts = [(Event(20.0), 30), (Event(9.0), 4), (Event(20.0), 10), (Event(3.0), 0)]
    mu = math.sqrt(40 / 400 + 4 / 81)
    exact = analytic_gaussian(mu, 1e-5)
    for interval in (accounting.PLD_INTERVAL, COARSE):
        found = composition.compose_pld(parts, 1e-5, interval)
        assert exact - 1e-9 <= found <= exact + 2 * interval
    rdp = composition.rdp_at(parts, 9.0, 1e-5)
    assert rdp == pytest.approx(4.5 * mu**2 + math.log1p(-1 / 9) - math.log(9e-5) / 8, rel=1e-12)


@pytest.mark.long
def test_plans_of_several_kinds_cost_the_same_by_three_libraries_and_in_any_order() -> None:
    pld = composition.compose_pld(MIXED, 1e-5, COARSE)
    prv = composition.compose_prv(MIXED, 1e-5)
    other = composition.compose_prv(MIXED, 1e-5, library="prv-accountant")
    rdp = composition.compose_rdp(MIXED, 1e-5)
    assert accounting.PrivacyLoss(pld, prv, rdp).agree
    assert other == pytest.approx(prv, abs=5e-4)
    halves = [(e, n // 2) for e, n in reversed(MIXED)] + [(e, n - n // 2) for e, n in MIXED]
    assert composition.merge(halves) == composition.merge(MIXED)
    # Each kind adds, and all together cost less than one after the other.
    alone = [composition.compose_pld([part], 1e-5, COARSE) for part in MIXED]
    assert max(alone) < pld < sum(alone)


def quadrature(sigma: float, q: float, order: float) -> float:
    """RDP of a sampled Gaussian by its definition (Mironov, Talwar, Zhang 2019, section 3.3).

    The integral of p (r^a - 1 - a (r - 1)) is that of p r^a, less 1, because r - 1 has mean 0.
    """

    def integrand(z: float) -> float:
        log_density = -0.5 * (z / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))
        r = q * math.expm1((2 * z - 1) / (2 * sigma**2))
        power = order * math.log1p(r)
        if power > 1:
            return math.exp(log_density + power) - math.exp(log_density) * (1 + order * r)
        return math.exp(log_density) * (math.expm1(power) - order * r)

    points = [-20 * sigma, -5 * sigma, 0.0, 5 * sigma, order / 2, order, order + 20 * sigma]
    pieces = zip(sorted(points), sorted(points)[1:], strict=False)
    total = math.fsum(integrate.quad(integrand, a, b, limit=200)[0] for a, b in pieces)
    return math.log1p(total) / (order - 1)


def rdp_of(event: Event, steps: int, order: float) -> float:
    """Take the conversion off what `rdp_at` returns."""
    epsilon = composition.rdp_at([(event, steps)], order, 1e-5)
    return (epsilon - math.log1p(-1 / order) + math.log(order * 1e-5) / (order - 1)) / steps


@pytest.mark.parametrize(("sigma", "q"), [(1.0, 0.01), (4.0, 0.5), (0.7, 0.02), (30.0, 0.3)])
def test_renyi_divergence_is_exact_at_whole_orders_and_never_too_low(
    sigma: float, q: float
) -> None:
    from opacus.accountants.analysis.rdp import _compute_rdp

    for order in (3.0, 8.0, 24.0, 7.6, 23.3):
        exact = quadrature(sigma, q, order)
        assert _compute_rdp(q, sigma, order) == pytest.approx(exact, rel=1e-6)
        found = rdp_of(Event(sigma, q), max(1, round(2 / exact)), order)
        assert exact * (1 - 1e-6) <= found <= exact * (1 + 1e-6 if order.is_integer() else 1.01)


def test_rounding_never_makes_many_tiny_steps_free() -> None:
    # The series cancels to about 1e-16 a step; one of these sums came out below zero.
    event = Event(1e6, 1e-6)
    for order in (8.0, 7.6, 100.0):
        assert rdp_of(event, 10**9, order) >= order * 1e-12 / (2 * 1e12)
    assert composition.compose_rdp([(event, 10**9)], 1e-5) > 0
    assert composition.compose_pld([(event, 10**9)], 1e-5) > 0


@pytest.mark.long
@pytest.mark.parametrize(
    "part",
    [
        (Event(1e-300), 1),
        (Event(5e-4, 0.1), 3),
        (Event(0.07), 1),
        (Event(0.05, 0.5), 100),
        (Event(0.01, 0.001), 10**6),
        (Event(1e300, 0.1), 10**9),
        (Event(1.0, 0.01), 10**9),
        (Event(1.0, 5e-324), 10**6),
        (Event(300.0, 1 - 1e-16), 10**9),
    ],
)
def test_numbers_without_sense_are_bounded_without_filling_the_memory(
    part: tuple[Event, int],
) -> None:
    pld = composition.compose_pld([part], 1e-5)
    assert 0 <= pld <= max(1.0, 1.001 * composition.compose_rdp([part], 1e-5))
    assert composition.compose_prv([part], 1e-5) >= 0


def test_nothing_spent_costs_nothing_and_more_steps_cost_more() -> None:
    mechanism = RecordMechanism(1.0, 5.0, 1.0, 8, 1)
    losses = [accounting.spent(mechanism, steps, 1e-5) for steps in (0, 1, 2, 4, 8)]
    assert losses[0].pld == losses[0].prv == losses[0].rdp == 0.0
    for before, after in zip(losses, losses[1:], strict=False):
        assert before.pld < after.pld and before.prv < after.prv and before.rdp < after.rdp
    assert all(compose([], 1e-5) == 0.0 for compose in COMPOSE)
    running = [accounting.running(mechanism, steps, 1e-5) for steps in (0, 1, 2, 4, 8)]
    assert running == pytest.approx([loss.pld for loss in losses], abs=2 * COARSE)
    assert running[-1] == losses[-1].pld


@pytest.mark.long
@pytest.mark.parametrize("plan", [(3.0, 1e-5, 1.0, 90), (3.0, 1e-5, 0.1, 600)])
def test_processors_that_round_otherwise_find_the_same_noise(
    plan: tuple[float, float, float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ends compute it, and a plan whose noise differs by one bit is another plan."""
    here, pld = accounting.calibrate.__wrapped__(*plan), accounting.pld
    for other in (1 - 1e-13, 1 + 1e-13):
        with monkeypatch.context() as patch:
            patch.setattr(accounting, "pld", lambda *given, by=other: pld(*given) * by)
            assert accounting.calibrate.__wrapped__(*plan) == here


def test_more_steps_than_were_committed_are_not_part_of_the_plan() -> None:
    mechanism = RecordMechanism(1.0, 5.0, 1.0, 8, 1)
    for account in (accounting.spent, accounting.running):
        with pytest.raises(ValueError, match=r"steps: must be at most the 8 .* got 9"):
            account(mechanism, 9, 1e-5)


@pytest.mark.parametrize("compose", COMPOSE)
def test_compositions_refuse_what_has_no_meaning(compose: Callable[..., float]) -> None:
    for delta in (0.0, 1.0, -1e-5, math.nan, math.inf):
        with pytest.raises(ValueError, match="delta: must be"):
            compose([(Event(1.0), 1)], delta)
    for steps in (-1, 1.0, 2.5, math.nan, True):
        with pytest.raises(ValueError, match="steps: must be"):
            compose([(Event(1.0), steps)], 1e-5)


@pytest.mark.parametrize("cost", [accounting.pld, accounting.prv, accounting.rdp])
def test_accountants_refuse_what_has_no_meaning(cost: Callable[..., float]) -> None:
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise_multiplier: must be"):
            cost(sigma, 0.5, 1, 1e-5)
    for rate in (0.0, -0.1, 1.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="sampling_rate: must be"):
            cost(1.0, rate, 1, 1e-5)


def test_a_grid_an_order_and_a_library_that_do_not_exist_are_refused() -> None:
    part = [(Event(1.0), 1)]
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="interval: must be"):
            composition.compose_pld(part, 1e-5, bad)
        with pytest.raises(ValueError, match="order: must be"):
            composition.rdp_at(part, bad, 1e-5)
    with pytest.raises(ValueError, match="library: must be 'opacus' or 'prv-accountant'"):
        composition.compose_prv(part, 1e-5, library="own")  # type: ignore[arg-type]


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prv_accountant", None)
    with pytest.raises(ImportError, match="pip install prv-accountant"):
        composition.compose_prv([(Event(1.2345), 1)], 1e-5, library="prv-accountant")


WITHOUT_TORCH = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "opacus", "flwr"):
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
from fedlite.privacy import Event, admission, composition
parts = [(Event(1.0, 0.01), 100), (Event(20.0), 30)]
print(composition.compose_pld(parts, 1e-5, 1e-3))
print(composition.compose_rdp(parts, 1e-5))
print(composition.compose_prv(parts, 1e-5, library="prv-accountant"))
print(admission.admit(parts, Event(20.0), 9, epsilon=9.0, delta=1e-5, order=4.0).steps)
"""


@pytest.mark.long
def test_an_auditor_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True
    )
    pld, rdp, prv, steps = (float(line) for line in done.stdout.split())
    assert accounting.PrivacyLoss(pld, prv, rdp).agree and steps == 9


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(3.0, 1.0, 4), (1.0, 1.0, 3)])
def test_the_calibrated_plan_fits_and_is_not_loose(epsilon: float, rate: float, steps: int) -> None:
    sigma = accounting.calibrate(epsilon, 1e-5, rate, steps)
    assert accounting.pld(sigma, rate, steps, 1e-5) <= epsilon
    assert accounting.pld(sigma * 0.998, rate, steps, 1e-5) > epsilon
    exact = analytic_gaussian(math.sqrt(steps) / sigma, 1e-5)
    assert exact == pytest.approx(epsilon, rel=0.001)


@pytest.mark.long
def test_a_sampled_plan_fits_and_is_not_loose() -> None:
    sigma = accounting.calibrate(2.0, 1e-5, 0.1, 20)
    assert 2.0 * 0.998 < accounting.pld(sigma, 0.1, 20, 1e-5) <= 2.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("epsilon", v) for v in (0.0, -1.0, math.nan, math.inf)],
        *[("delta", v) for v in (0.0, 1.0, math.nan)],
        *[("rate", v) for v in (0.0, 1.1, math.nan)],
        *[("steps", v) for v in (-1, 0, 1.5)],
        *[("max_batch", v) for v in (-1, 1.5)],
        ("max_records", 0),
    ],
)
def test_calibration_refuses_what_has_no_meaning(key: str, value: Any) -> None:
    arguments: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5, "rate": 1.0, "steps": 1}
    if key.startswith("max"):
        arguments |= {"max_batch": 1, "max_records": 9}
    with pytest.raises(ValueError, match="must be"):
        accounting.calibrate(**{**arguments, key: value})


def test_an_epsilon_that_no_noise_can_meet_is_refused() -> None:
    with pytest.raises(ValueError, match=r"epsilon: must be one that a noise multiplier .* 1e-12"):
        accounting.calibrate(1e-12, 1e-12, 1.0, 1)


@pytest.mark.long
@pytest.mark.parametrize("delta", [1e-12, 1e-15, 1e-30])
def test_a_tiny_delta_is_charged_by_the_smaller_bound_and_planned_for(delta: float) -> None:
    # The masses that a PLD cuts off are more than such a delta; Renyi DP has none.
    by_renyi = accounting.rdp(1.0, 0.01, 1000, delta)
    assert 0 < accounting.pld(1.0, 0.01, 1000, delta) <= by_renyi < math.inf
    sigma = accounting.calibrate(3.0, delta, 0.01, 1000)
    # The noise is found to 0.1 % of where epsilon crosses 3, and at so small a delta float64 makes
    # epsilon jump: it crosses at several places, up to 0.3 % apart, and which is found depends on
    # the processor.
    assert accounting.pld(sigma, 0.01, 1000, delta) <= 3.0
    assert accounting.pld(sigma * 0.99, 0.01, 1000, delta) > 3.0
    admitted = admit([], Event(3.0, 0.01), 10_000_000, epsilon=3.0, delta=delta, order=8.0)
    assert 1000 < admitted.steps < 10_000_000 and admitted.charged <= 3.0


def test_the_smaller_bound_is_no_smaller_than_the_truth() -> None:
    # One Gaussian: the closed form has neither grid nor cut.
    for delta in (1e-10, 1e-14, 1e-18):
        exact = analytic_gaussian(0.5, delta)
        assert exact <= accounting.pld(2.0, 1.0, 1, delta) <= 1.25 * exact


@pytest.mark.long
def test_a_search_that_cannot_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "pld", lambda sigma, *_: 1 / sigma)
    monkeypatch.setattr(accounting, "prv", lambda *_: 1e6)
    with pytest.raises(ValueError, match=r"delta: must be one at which .* set it higher"):
        accounting.calibrate(2.5, 1e-7, 1.0, 2)


def test_accountants_that_contradict_each_other_raise_the_alarm() -> None:
    assert accounting.PrivacyLoss(pld=2.0, prv=2.01, rdp=2.3).agree
    assert not accounting.PrivacyLoss(pld=2.0, prv=1.9, rdp=2.3).agree
    assert not accounting.PrivacyLoss(pld=2.0, prv=2.1, rdp=2.3).agree
    assert not accounting.PrivacyLoss(pld=2.0, prv=2.01, rdp=1.9).agree
    assert not accounting.PrivacyLoss(pld=2.0, prv=math.nan, rdp=2.3).agree
    assert accounting.PrivacyLoss(pld=2.0, prv=math.inf, rdp=2.3).agree
