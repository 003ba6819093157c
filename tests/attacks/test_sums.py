"""Attacks on sums of shared noise: the right mechanism passes, each wrong one is found.

Covers fedlite/attacks/sums.py, fedlite/attacks/sum_checks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from fedlite.attacks import conformance, payload, site, sum_checks
from fedlite.attacks.audit import audit, checks
from fedlite.attacks.canaries import Dense, Dirac
from fedlite.attacks.steps import release_of, step_audit
from fedlite.attacks.subject import Subject, prepare
from fedlite.attacks.sums import mechanism_of, sum_release
from fedlite.attacks.verdict import Finding
from fedlite.privacy import accounting
from fedlite.privacy.noise import Integers, Stream
from fedlite.privacy.shared import summed
from fedlite.scenario import Scenario, ScenarioError, from_dict
from fedlite.secure import masks
from fedlite.training.share import settle_process
from simulations.run import check

CONFIDENCE = 0.999


def scenario(unit: str = "record", **privacy: object) -> Scenario:
    """Five sites, of which four are honest, that sum 1,068 of a model's 3,796 values."""
    return check(
        from_dict(
            {
                "federation": {"rounds": 6, "sites": 5, "quorum": 5},
                "data": {"name": "digits", "partition": "iid", "test_fraction": 0.4},
                "model": {"name": "mlp"},
                "training": {"steps": 1 if unit == "record" else 2, "learning_rate": 0.5},
                "uplink": {"compressor": "randk", "density": 0.3},
                "privacy": {
                    "unit": unit,
                    "noise_at": "shared",
                    "honest": 4,
                    "epsilon": 8.0,
                    "clip": 0.5,
                    **privacy,
                },
            }
        )
    )


@lru_cache(maxsize=4)
def subject(unit: str = "record") -> Subject:
    settle_process()
    return prepare(scenario(unit), 0)


@pytest.mark.long
@pytest.mark.parametrize("unit", ["record", "client"])
def test_the_bounds_are_below_the_claims_and_above_half_of_them(unit: str) -> None:
    one = subject(unit)
    found = _step(one)
    assert found.outcome == "pass"
    assert 0.5 * one.proven < (found.epsilon or 0.0) < one.proven <= 8.0
    effort = {"canaries": one.size, "confidence": CONFIDENCE, "seconds": 1.5}
    others = sum_checks.collusion(one, **effort)
    alone = accounting.seen_with(mechanism_of(one), 1, 1e-5)
    assert others.outcome == "pass"
    assert 0.5 * alone < (others.epsilon or 0.0) < alone
    assert one.proven < alone, "four sites' noise hides more than one's"


@pytest.mark.long
@pytest.mark.parametrize(("unit", "rate"), [("record", 1.0), ("client", 1.0), ("record", 0.5)])
def test_the_real_sum_passes_every_check(unit: str, rate: float) -> None:
    told = scenario(unit, sampling_rate=rate)
    report = audit(told, quick=True, confidence=CONFIDENCE)
    # On a busy machine the times of so short steps tell nothing.
    assert set(report.failed) <= {"timing"}
    assert len(report.findings) == checks(told, quick=True)
    by_name = {finding.check: finding for finding in report.findings}
    assert 0.0 < (by_name[sum_checks.SUMS].epsilon or 0.0) < report.proven


@pytest.mark.parametrize("unit", ["record", "client"])
@pytest.mark.parametrize("count", [1, 4])
def test_scores_are_those_of_a_gaussian_with_the_noise_of_so_many(unit: str, count: int) -> None:
    one = subject(unit)
    release, rng = sum_release(one, count), np.random.default_rng(5)
    sigma = mechanism_of(one).seen_with(count).noise_multiplier
    for kind in (Dirac, Dense):
        drawn = kind.drawn(one.size, one.size, rng)
        scores, coins = [], []
        for _ in range(20):
            coins.append(rng.random(drawn.count) < 0.5)
            scores.append(release(drawn, coins[-1]))
        told, flat = np.concatenate(scores), np.concatenate(coins)
        slack = 6.0 / np.sqrt(len(told) / 2)
        assert told[~flat].mean() == pytest.approx(0.0, abs=slack)
        assert told[flat].mean() == pytest.approx(1.0 / sigma, abs=slack)
        # Rounding adds a twelfth of a squared unit to each site's four.
        assert told[~flat].var() == pytest.approx(49 / 48, abs=2 * slack)


def _step(one: Subject) -> Finding:
    return step_audit(one, canaries=one.size, confidence=CONFIDENCE, seconds=1.5)[0]


CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "step": _step,
    "noise deviation": lambda one: conformance.noise_deviation(
        sum_checks.sum_noise(one, 24), one.sections
    ),
    "noise independence": lambda one: conformance.noise_independence(sum_checks.sum_noise(one, 24)),
    "grid of sums": lambda one: sum_checks.grid(one, sum_checks.sum_noise(one, 24)),
    "clipped sum": conformance.clipped_sum,
    "training": lambda one: site.learner(one, 20),
    "under masks": sum_checks.under_masks,
}


def _units(cells: Integers, noise: Stream, times: float = 1.0) -> Integers:
    drawn = np.rint(times * noise.gaussians(cells.size)).astype(np.int64)
    return (drawn + cells + summed.UNIT_CELLS // 2) // summed.UNIT_CELLS


def _no_clip(gradients: object, rows: object, bound: float) -> np.ndarray:
    norms = gradients.norms(rows)  # type: ignore[attr-defined]
    return np.asarray(gradients.weighted(np.ones_like(norms)))  # type: ignore[attr-defined]


MUTANTS = {
    "half of the noise": (
        ("fedlite.privacy.shared.summed.noised_units", lambda c, n: _units(c, n, 0.5)),
        ("step", "noise deviation", "training"),
    ),
    "noise for five honest where four are planned": (
        ("fedlite.privacy.shared.summed.noised_units", lambda c, n: _units(c, n, 0.8**0.5)),
        ("step", "noise deviation", "training"),
    ),
    "the same noise at every site": (
        ("fedlite.privacy.shared.summed.noised_units", lambda c, n: _units(c, Stream.seeded(1))),
        ("noise deviation", "noise independence"),
    ),
    "rounded down": (
        (
            "fedlite.privacy.shared.summed.noised_units",
            lambda c, n: (n.gaussians(c.size) + c) // summed.UNIT_CELLS,
        ),
        ("noise deviation",),
    ),
    "no clip": (
        ("fedlite.privacy.shared.summed.clipped_sum", _no_clip),
        ("step",),
    ),
    "no masks": (
        ("fedlite.secure.masks.stream", lambda seed, n, bits: np.zeros(n, np.uint32)),
        ("under masks",),
    ),
    "masks that do not cancel": (
        (
            "fedlite.secure.masks.stream",
            lambda seed, n, bits: np.random.default_rng().integers(0, 2**bits, n, np.uint32),
        ),
        ("under masks",),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_each_wrong_sum_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (target, wrong), killers = MUTANTS[name]
    one = subject()
    assert one.block > 0
    monkeypatch.setattr(target, wrong)
    assert {k: CHECKS[k](one).outcome for k in killers} == dict.fromkeys(killers, "fail")


@pytest.mark.long
def test_a_site_that_does_not_clip_its_update_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject("client")
    monkeypatch.setattr(summed, "clipped_update", lambda update, mechanism: update)
    assert _step(one).outcome == "fail"


def test_a_modulus_that_is_too_narrow_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject()
    mechanism = mechanism_of(one)
    monkeypatch.setattr(type(mechanism), "bits", 4)
    found = CHECKS["noise deviation"](one)
    assert found.outcome == "fail", "what wraps is not where it was"


def test_canaries_are_as_many_as_a_sum_has_values() -> None:
    with pytest.raises(ScenarioError, match=r"--canaries: must be at most the \d+ values of a sum"):
        prepare(scenario(), 3000)


def test_a_mechanism_that_is_seen_by_itself_is_no_sum() -> None:
    one = subject()
    with pytest.raises(ValueError, match="must be one whose release is seen by itself"):
        conformance.noise_matrix(one, 2)
    with pytest.raises(ValueError, match="must be a record's"):
        payload.play(one, 10, 1)
    local = replace(one, mechanism=accounting.RecordMechanism(0.5, 1.0, 1.0, 6, 100))
    with pytest.raises(ValueError, match="must be one of shared noise"):
        sum_release(local, 1)
    assert masks.MOST_BITS >= mechanism_of(one).bits
    assert release_of(one) is not None
