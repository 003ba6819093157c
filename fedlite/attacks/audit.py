"""All checks of one scenario's mechanism, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fedlite.attacks import bits, conformance, payload, site, sum_checks
from fedlite.attacks.membership import membership
from fedlite.attacks.steps import check_enough, step_audit
from fedlite.attacks.subject import Subject, prepare
from fedlite.attacks.verdict import Finding, Report
from fedlite.privacy import RecordMechanism, SharedMechanism
from fedlite.privacy.grid import SPREAD, grid
from fedlite.privacy.noise import Stream, release
from fedlite.scenario import Scenario, ScenarioError

Tick = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How much an audit does: the rest are counts, and these the most seconds of some checks."""

    step: float
    run: float
    timing: float
    shadows: float
    canaries: int
    steps: int
    rounds: int
    trials: int
    tail: int
    repeats: int
    models: int
    draws: int
    solve: bool


FULL = Effort(50.0, 60.0, 20.0, 40.0, 5_000, 96, 10_000, 1_000, 20_000_000, 41, 16, 400, True)
QUICK = Effort(1.5, 3.0, 4.0, 3.0, 500, 24, 5, 100, 1_000_000, 11, 4, 60, False)


def checks(scenario: Scenario, *, quick: bool) -> int:
    """Return how many findings an audit has, for a progress bar."""
    if scenario.shared:
        return 13 + 4 * (scenario.privacy.unit == "record")
    if scenario.privacy.unit == "record":
        return 20 - quick
    return 11 + (scenario.privacy.noise_at == "site") - quick


def audit(
    scenario: Scenario,
    *,
    canaries: int = 0,
    confidence: float = 0.95,
    quick: bool = False,
    tick: Tick = lambda _: None,
    done: Callable[[Finding], None] = lambda _: None,
) -> Report:
    """Attack the mechanism of a settled scenario and return what was found.

    canaries: how many share a step or a run; 0 takes as many as the model has values, at most 5,000
    in a run. quick: seconds instead of minutes, with looser bounds. tick: told what is going on;
    done: told each finding.

    Raises ScenarioError before anything runs: for a scenario without privacy, a model that is too
    small for the canaries, or too few of them for the confidence.
    """
    started = time.monotonic()
    effort = QUICK if quick else FULL
    if not 0.5 < confidence < 1.0:
        raise ScenarioError(
            f"--confidence: must be greater than 0.5 and less than 1, got {confidence!r}; 0.95 is "
            "usual"
        )
    subject = prepare(scenario, canaries)
    check_enough(canaries or subject.size, confidence)
    in_a_run = canaries or min(effort.canaries, subject.size)
    payload.check_one_run(in_a_run, confidence)
    findings: list[Finding] = []

    def note(*found: Finding) -> None:
        for one in found:
            findings.append(one)
            done(one)

    step, roc = step_audit(
        subject,
        canaries=canaries or subject.size,
        confidence=confidence,
        seconds=effort.step,
        tick=tick,
    )
    note(step)
    shared = isinstance(subject.mechanism, SharedMechanism)
    record = isinstance(subject.mechanism, RecordMechanism)
    if shared:
        for check in _sums(subject, effort, in_a_run, confidence, tick):
            note(check)
    elif record:
        rounds = min(effort.rounds, scenario.federation.rounds)
        note(
            *payload.one_run_audit(
                subject,
                canaries=in_a_run,
                rounds=rounds,
                confidence=confidence,
                seconds=effort.run,
                tick=tick,
            )
        )
    else:
        note(payload.client_audit(subject, canaries=in_a_run, confidence=confidence, tick=tick))
    for check in () if shared else _bits(subject, effort, tick):
        note(check)
    for check in _promises(subject, effort, tick):
        note(check)
    if record:
        note(
            membership(
                subject,
                models=effort.models,
                rounds=min(effort.rounds, scenario.federation.rounds),
                seconds=effort.shadows,
                tick=tick,
            )
        )
    return Report(
        scenario.federation.name,
        subject.mechanism.unit,
        subject.proven,
        subject.delta,
        confidence,
        tuple(findings),
        roc,
        1.0 / subject.mechanism.noise_multiplier,
        time.monotonic() - started,
    )


def _sums(
    subject: Subject, effort: Effort, canaries: int, confidence: float, tick: Tick
) -> Iterator[Finding]:
    """Yield the checks of what is seen of shared noise: sums, under which nobody sees."""
    yield sum_checks.collusion(
        subject, canaries=canaries, confidence=confidence, seconds=effort.step / 2, tick=tick
    )
    yield sum_checks.canary_sums(subject, canaries=canaries, confidence=confidence, tick=tick)
    tick("sums: noise, grid, masks")
    noise = sum_checks.sum_noise(subject, effort.steps)
    yield conformance.noise_deviation(noise, subject.sections)
    yield conformance.noise_independence(noise)
    yield sum_checks.grid(subject, noise)
    yield sum_checks.under_masks(subject)
    fresh = Stream.fresh()
    yield bits.tails(lambda n: fresh.gaussians(n) / SPREAD, effort.tail)


def _bits(subject: Subject, effort: Effort, tick: Tick) -> list[Finding]:
    """Return the bit audit and the tests of noise, which look at the same releases."""
    mechanism, rng = subject.mechanism, np.random.default_rng()
    tick("noise: releases")
    steps = int(np.clip(4_000_000 // subject.size, 8, effort.steps))
    noise, released = conformance.noise_matrix(subject, steps)
    stream = subject.streams(3, 3)[1]
    std = mechanism.noise_std

    def draw(clean: np.ndarray) -> np.ndarray:
        return release(clean * std, std, stream) / std

    size = subject.size - subject.size % 16
    found = [
        conformance.noise_deviation(noise, subject.learner.layout.sizes),
        conformance.noise_independence(noise),
        bits.grid(released, grid(std)),
    ]
    if size:
        tick("bits: with and without a record")
        mu = 1.0 / mechanism.noise_multiplier
        record = bits.record_direction(size, mu, rng)
        clean = 0.05 * rng.standard_normal(size)
        found.append(bits.adjacent(draw, clean, record, effort.trials, rng))
    tick("bits: tails")
    fresh = Stream.fresh()
    found.append(bits.tails(lambda n: release(np.zeros(n), 1.0, fresh), effort.tail))
    if effort.solve:
        tick("bits: solving for a Mersenne Twister's state")
        found.append(bits.generator(noise[0], 0.02, subject.learner.layout.sizes, rng))
    return found


def _promises(subject: Subject, effort: Effort, tick: Tick) -> list[Finding]:
    """Return the checks of what the bounds rest on."""
    tick("clipped sum, training, sampler")
    if isinstance(subject.mechanism, SharedMechanism):
        noise = sum_checks.sum_noise(subject, 8)
    else:
        noise, _ = conformance.noise_matrix(subject, 8)
    found = []
    if subject.mechanism.unit == "record":
        sampled = conformance.sampler(subject)
        found += [conformance.clipped_sum(subject), sampled]
        found.append(site.sampled(subject, effort.draws))
        found.append(conformance.ledger(subject, noise, sampled))
    if getattr(subject.mechanism, "at", "site") == "site":
        found.append(
            site.learner(subject, int(np.clip(2_000_000 // subject.size, 8, effort.repeats)))
        )
    found += [conformance.seeds(subject), conformance.accountant(subject)]
    tick("timing and declines")
    found += [site.timing(subject, effort.repeats, effort.timing), site.declines(subject)]
    return found
