"""Every wrong mechanism is found by the checks that say they find it; the right one passes all.

Covers fedlite/attacks/audit.py, fedlite/attacks/conformance.py, fedlite/attacks/site.py,
fedlite/attacks/steps.py, fedlite/attacks/verdict.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedlite.attacks import bits, conformance, payload, site
from fedlite.attacks.audit import audit
from fedlite.attacks.steps import release_of, step_audit
from fedlite.attacks.subject import Subject
from fedlite.attacks.verdict import Finding
from fedlite.privacy.grid import grid
from tests.attacks.ground import small
from tests.attacks.mutants import CLIENT, RECORD

CONFIDENCE = 0.999


def _step(one: Subject) -> Finding:
    return step_audit(one, canaries=one.size, confidence=CONFIDENCE, seconds=5.0)[0]


def _ledger(one: Subject) -> Finding:
    return conformance.ledger(one, conformance.noise_matrix(one, 24)[0], conformance.sampler(one))


def _sent(one: Subject) -> Finding:
    return payload.one_run_audit(one, canaries=1500, rounds=6, confidence=CONFIDENCE)[1]


CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "step": _step,
    "one run, as sent": _sent,
    "noise deviation": lambda one: conformance.noise_deviation(
        conformance.noise_matrix(one, 48)[0], one.learner.layout.sizes
    ),
    "noise independence": lambda one: conformance.noise_independence(
        conformance.noise_matrix(one, 24)[0]
    ),
    "grid and low bits": lambda one: bits.grid(
        conformance.noise_matrix(one, 8)[1], grid(one.mechanism.noise_std)
    ),
    "clipped sum": conformance.clipped_sum,
    "sampler": conformance.sampler,
    "batches in training": lambda one: site.sampled(one, 120),
    "ledger": _ledger,
    "training": lambda one: site.learner(one, 40),
    "seeds": conformance.seeds,
    "accountant": conformance.accountant,
    "timing": lambda one: site.timing(one, 21),
    "declines": site.declines,
}


@pytest.mark.long
def test_the_real_mechanism_passes_every_check(subject: Callable[..., Subject]) -> None:
    one = subject()
    found = {name: check(one) for name, check in CHECKS.items()}
    assert {f.check for f in found.values()} == set(CHECKS)
    assert [f for f in found.values() if f.outcome != "pass"] == []


@pytest.mark.long
@pytest.mark.parametrize("name", RECORD)
def test_each_mutant_is_found(
    name: str, subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant, killers = RECORD[name]
    one = subject()
    assert one.block > 0  # it is tried before the mutant comes
    mutant(monkeypatch)
    assert {k: CHECKS[k](one).outcome for k in killers} == dict.fromkeys(killers, "fail")


@pytest.mark.long
@pytest.mark.parametrize("at", ["site", "server"])
def test_the_real_client_mechanisms_pass(at: str) -> None:
    report = audit(small(unit="client", noise_at=at), quick=True, confidence=CONFIDENCE)
    assert report.failed == ()
    # A site's noise hides a whole update so well that few seconds may leave a bound of nothing.
    assert (0.0 if at == "server" else -1.0) < report.measured < report.proven


@pytest.mark.long
@pytest.mark.parametrize("name", CLIENT)
def test_each_mutant_of_a_client_mechanism_is_found(
    name: str, subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    at, mutant, killers = CLIENT[name]
    one = subject(unit="client", noise_at=at)
    mutant(monkeypatch)
    assert {k: CHECKS[k](one).outcome for k in killers} == dict.fromkeys(killers, "fail")


@pytest.mark.long
def test_fifty_correct_runs_do_not_exceed_the_claim_beyond_the_confidence(
    subject: Callable[..., Subject],
) -> None:
    one = subject(sampling_rate=1.0)
    release = release_of(one)
    found = [
        step_audit(one, canaries=one.size, confidence=0.95, seconds=0.05, release=release)[0]
        for _ in range(50)
    ]
    # Five in a hundred are allowed; the two Clopper-Pearson bounds of a step leave less than one.
    assert sum(f.outcome == "fail" for f in found) <= 2
    assert np.mean([f.epsilon or 0.0 for f in found]) > 0.8 * one.proven
