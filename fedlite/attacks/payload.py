"""One-run audits: one training run full of canaries, scored through what leaves the site.

The step audit looks at the mechanism's own sum. Here whoever attacks sees less: the updates as they
are sent, after selection, quantization and error feedback, or only the model at the end. The same
canaries and the same noise are scored before compression, as sent, and in the final model, so that
the three differ by what compression and averaging did, and by nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite import compression
from fedlite.attacks import bounds
from fedlite.attacks.canaries import LOUD, Dense, Dirac, Nothing, Values, WithCanaries
from fedlite.attacks.steps import release_of
from fedlite.attacks.subject import Subject
from fedlite.attacks.verdict import Finding, judge
from fedlite.parameters import load_vector
from fedlite.privacy import ClientMechanism, RecordMechanism, dpsgd
from fedlite.privacy.gradients import Rows
from fedlite.privacy.noise import Stream
from fedlite.scenario import ScenarioError

Coins = NDArray[np.bool_]
Tick = Callable[[str], None]
DENSE, SENT, FINAL = "one run, before compression", "one run, as sent", "one run, final model"
CLIENTS = "canary clients"


@dataclass(eq=False)
class Trace:
    """What a run left behind: scores of the canaries in deviations of the run's noise, [count].

    steps: private steps taken. ever: share of the canaries' coordinates that were ever sent.
    """

    coins: Coins
    dense: Values
    sent: Values
    final: Values
    steps: int
    ever: float


def play(
    subject: Subject,
    canaries: int,
    rounds: int,
    tick: Tick = lambda _: None,
    *,
    seconds: float = math.inf,
) -> Trace:
    """Play one site's part of a run with canaries among its records; nothing of it is kept.

    It ends early, after a whole round, when `seconds` are over: part of a plan costs no more than
    all of it, and the clock sees no score.

    Canaries are sampled at the plan's rate, like records. The clean sums are known to whoever
    attacks; the other sites send noise of the same deviation, as their records are taken to be
    known, too.
    """
    mechanism, learner, scenario = _of_records(subject), subject.learner, subject.scenario
    rng = np.random.default_rng()
    planted = Dirac.drawn(subject.size, canaries, rng)
    coins = rng.random(canaries) < 0.5
    link, sites = scenario.uplink, scenario.federation.sites
    compressor = subject.plan.uplink
    model = learner.initial.astype(np.float64)
    dense, sent, clean, final = (np.zeros(subject.size) for _ in range(4))
    ever = np.zeros(subject.size, dtype=bool)
    residual: compression.Residual | None = None
    weights, steps, started = 0.0, 0, time.monotonic()
    for round_number in range(1, rounds + 1):
        rate = subject.plan.learning_rate(round_number) / mechanism.expected_batch
        sampler, noise = subject.streams(round_number, 1)
        moved = np.zeros(subject.size)
        for _ in range(subject.plan.round_steps):
            rows = _with_coins(subject, planted, coins, rng, sampler)
            total, known = _step(subject, model + moved, planted, rows, noise)
            moved -= rate * total
            clean -= rate * known
            weights += rate**2
            steps += 1
        told = compression.compress(
            compressor,
            moved.astype(np.float32),
            residual if link.error_feedback else None,
            context=compression.Context(round_number.to_bytes(8, "little"), 1),
        )
        residual = told.residual
        update = told.update.dense().astype(np.float64)
        others = _others(subject, rate, sites - 1, noise)
        dense += moved
        sent += update
        ever |= update != 0
        model = model + (update + others) / sites
        final += update + others
        tick(f"one run with {canaries:,} canaries: round {round_number} of {rounds}")
        if time.monotonic() - started > seconds:
            break
    load_vector(learner.model, learner.initial)
    scale = -mechanism.noise_std * math.sqrt(weights)
    scores = [planted.scores(what - clean) / scale for what in (dense, sent, final)]
    share = float(ever[planted.coordinates].mean())
    return Trace(coins, scores[0], scores[1], scores[2] / math.sqrt(sites), steps, share)


def _with_coins(
    subject: Subject, planted: Dirac, coins: Coins, rng: np.random.Generator, sampler: Stream
) -> Rows:
    taken = coins & (rng.random(planted.count) < subject.mechanism.sampling_rate)
    return np.concatenate([subject.batch(sampler), subject.records + np.flatnonzero(taken)])


def _step(
    subject: Subject, model: Values, planted: Dirac, rows: Rows, noise: Stream
) -> tuple[Values, Values]:
    """Return one real release at `model`, and the records' clean part of it."""
    mechanism = _of_records(subject)
    load_vector(subject.learner.model, model.astype(np.float32))
    with subject.gradients() as real:
        both = WithCanaries(real, planted, subject.records, LOUD * mechanism.clip)
        total = dpsgd.noised_sum(both, rows, mechanism, noise)
    return total, both.clean


def _others(subject: Subject, rate: float, sites: int, noise: Stream) -> Values:
    """Return the sum of what the other sites send, less their known clean sums: their noise."""
    mechanism, total = _of_records(subject), np.zeros(subject.size)
    nobody, none = Nothing(subject.size), np.zeros(0, np.int64)
    for _ in range(sites * subject.plan.round_steps):
        total -= rate * dpsgd.noised_sum(nobody, none, mechanism, noise)
    return total


def _of_records(subject: Subject) -> RecordMechanism:
    if not isinstance(subject.mechanism, RecordMechanism):
        raise ValueError(f"mechanism: must be a record's, got {subject.mechanism!r}")
    return subject.mechanism


def check_one_run(canaries: int, confidence: float) -> None:
    """Raise ScenarioError unless guesses that are all right would prove anything."""
    least = math.ceil(math.log(1.0 - confidence) / math.log(0.5)) + 1
    if canaries < least:
        raise ScenarioError(
            f"--canaries: must be at least {least} for a bound with confidence {confidence:g}, got "
            f"{canaries}, which could all be guessed right by chance"
        )


def one_run_audit(
    subject: Subject,
    *,
    canaries: int,
    rounds: int,
    confidence: float,
    seconds: float = math.inf,
    tick: Tick = lambda _: None,
) -> list[Finding]:
    """Return the one-run findings: before compression, as sent, in the final model."""
    trace = play(subject, canaries, rounds, tick, seconds=seconds)
    places = (
        (DENSE, trace.dense, 1, "the dense update of every round is seen"),
        (SENT, trace.sent, 1, "the frames of every round are seen"),
        (
            FINAL,
            trace.final,
            subject.scenario.federation.sites,
            "only the model at the end is seen; a plain mean of the sites",
        ),
    )
    found = []
    for check, scores, sites, assumes in places:
        tick(f"{check}: bounds")
        found.append(_judged(subject, check, scores, trace, sites, assumes, confidence))
    return found


def _judged(
    subject: Subject,
    check: str,
    scores: Values,
    trace: Trace,
    sites: int,
    assumes: str,
    confidence: float,
) -> Finding:
    event, delta, count = subject.mechanism.event, subject.delta, len(scores)
    mu = event.sampling_rate * math.sqrt(trace.steps / sites) / event.noise_multiplier
    figures = run_bounds(
        scores,
        trace.coins,
        mu,
        rate=event.sampling_rate,
        steps=trace.steps,
        delta=delta,
        significance=1.0 - confidence,
    )
    figures["sent"] = trace.ever
    epsilon = figures["f-dp"]
    return Finding(
        check,
        judge(max(epsilon, figures["steinke"]), subject.proven),
        f"Steinke {figures['steinke']:.2f}, f-DP {epsilon:.2f}; Gaussian pair "
        f"{figures['gaussian']:.2f}, {figures['gaussian low']:.2f} at its lower end, an estimate; "
        f"{figures['correct']:.0f} of {figures['guesses']:.0f} guesses right; {count:,} canaries "
        f"in {trace.steps:,} of {subject.steps:,} steps"
        + (f"; {trace.ever:.0%} of their coordinates were ever sent" if check == SENT else ""),
        "bound",
        epsilon,
        confidence,
        assumes=assumes,
        blind="less than a step audit: faults below a factor of 2 in the noise",
        figures=figures,
    )


def run_bounds(
    scores: Values,
    coins: Coins,
    mu: float,
    *,
    rate: float,
    steps: int,
    delta: float,
    significance: float,
) -> dict[str, float]:
    """Return all one-run bounds of the same scores, beside each other.

    mu: the separation that the claim says, from which the number of guesses is chosen beforehand.
    """
    guesses = bounds.guesses_for(len(scores), mu, delta)
    correct = bounds.count_correct(scores, coins, guesses)
    estimate, low = bounds.gaussian_pair(scores[coins], scores[~coins], delta, significance)
    return {
        "steinke": bounds.one_run(correct, guesses, len(scores), delta, significance),
        "f-dp": bounds.one_run_curve(
            correct,
            guesses,
            len(scores),
            rate=rate,
            steps=steps,
            delta=delta,
            significance=significance,
        ),
        "gaussian": estimate,
        "gaussian low": low,
        "guesses": float(guesses),
        "correct": float(correct),
    }


def client_audit(
    subject: Subject, *, canaries: int, confidence: float, tick: Tick = lambda _: None
) -> Finding:
    """Return the finding of canary clients in every planned round of a client-level mechanism."""
    mechanism, rng = subject.mechanism, np.random.default_rng()
    if not isinstance(mechanism, ClientMechanism):
        raise ValueError(f"mechanism: must be a client's, got {mechanism!r}")
    release, steps = release_of(subject), mechanism.steps
    planted = Dense.drawn(subject.size, canaries, rng)
    if mechanism.at == "server":
        coins = rng.random(planted.count) < 0.5
        scores = np.zeros(planted.count)
        for step in range(steps):
            scores += release(planted, coins) / math.sqrt(steps)
            tick(f"canary clients: round {step + 1} of {steps}")
    else:
        # A site's release holds one canary only, so there are as many runs as canaries.
        coins = rng.random(min(planted.count, 64)) < 0.5
        scores = np.zeros(len(coins))
        for i, coin in enumerate(coins):
            one = np.array([coin])
            scores[i] = sum(release(planted, one)[0] for _ in range(steps)) / math.sqrt(steps)
            tick(f"canary clients: {i + 1} of {len(coins)}")
    event, delta = mechanism.event, subject.delta
    figures = run_bounds(
        scores,
        coins,
        math.sqrt(steps) / event.noise_multiplier,
        rate=1.0,
        steps=steps,
        delta=delta,
        significance=1.0 - confidence,
    )
    cosines = scores[coins] / math.sqrt(subject.size)
    figures["one-shot"] = bounds.canary_clients(cosines, subject.size, delta)
    return Finding(
        CLIENTS,
        judge(max(figures["f-dp"], figures["steinke"]), subject.proven),
        f"Steinke {figures['steinke']:.2f}, f-DP {figures['f-dp']:.2f}; one-shot "
        f"{figures['one-shot']:.2f} and Gaussian pair {figures['gaussian']:.2f}, estimates; "
        f"{len(scores):,} canary clients",
        "bound",
        figures["f-dp"],
        confidence,
        assumes="every release of the plan is seen",
        blind="who took part, which is public",
        figures=figures,
    )
