"""What the site's own training sends and shows: noise end to end, time, declines."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from torch import Tensor

from fedlite.attacks import conformance
from fedlite.attacks.canaries import Values
from fedlite.attacks.conformance import LEVEL, Test, finding, square_test
from fedlite.attacks.subject import Subject
from fedlite.attacks.verdict import Finding
from fedlite.privacy import Mechanism, RecordMechanism, SharedMechanism
from fedlite.privacy.gradients import Rows
from fedlite.privacy.noise import Stream
from fedlite.privacy.shared.lattice import OWN_ROUNDED
from fedlite.reporting.wording import count
from fedlite.scenario import with_values
from fedlite.training import Learner

_SLOWER = 1.3
"""How much a step's median time may change with one record. A second pass takes 1.8 times."""
_LEAST_SECONDS = 0.02
"""What is timed takes this long at least: another process that runs in between weighs little."""


def learner(subject: Subject, repeats: int) -> Finding:
    """Test the noise in what the site's training hands over, against the plan's row.

    Under record privacy a site without records sends nothing but noise: its variance shows the
    steps taken, the divisor and the learning rate along with sigma. Under client privacy it is in
    the difference of two updates from the same records. Of shared noise it is the site's own part.
    """
    mechanism, scenario = subject.mechanism, subject.scenario
    trained = _with(subject.learner, np.zeros(0, np.int64))
    if isinstance(mechanism, SharedMechanism) and mechanism.unit == "record":
        noise = _deltas(trained, subject, repeats) / OWN_ROUNDED
    elif isinstance(mechanism, RecordMechanism):
        step = subject.plan.learning_rate(1) / mechanism.expected_batch * mechanism.noise_std
        deviation = step * math.sqrt(mechanism.steps / scenario.federation.rounds)
        noise = _deltas(trained, subject, repeats) / deviation
    else:
        updates = _deltas(subject.learner, subject, repeats + repeats % 2)
        shared = isinstance(mechanism, SharedMechanism)
        std = OWN_ROUNDED if shared else mechanism.noise_std
        noise = (updates[::2] - updates[1::2]) / (std * math.sqrt(2.0))
    squares = noise**2
    columns = squares.sum(axis=0)
    tests = [
        square_test("variance of all", float(squares.sum()), noise.size, LEVEL),
        square_test("least variance of a coordinate", float(columns.min()), *_each(noise)),
        square_test("largest variance of a coordinate", float(columns.max()), *_each(noise)),
    ]
    return finding(
        "training",
        tests,
        f"{math.sqrt(float(squares.mean())):.4f} of the planned deviation in {len(noise)} updates "
        f"of {count(subject.plan.round_steps, 'step')} each",
        assumes="updates leave as training hands them over",
        blind="what a changed site sends",
    )


def _each(noise: Values) -> tuple[int, float]:
    return len(noise), LEVEL / noise.shape[1]


def _deltas(trained: Learner, subject: Subject, repeats: int) -> Values:
    return np.stack(
        [_handed_in(trained, subject, subject.mechanism).astype(np.float64) for _ in range(repeats)]
    )


def _handed_in(one: Learner, subject: Subject, mechanism: Mechanism) -> Values:
    """Return what leaves the site's own training in round 1: an update, or whole units of a sum."""
    if isinstance(mechanism, SharedMechanism):
        return np.asarray(one.units(subject.learner.initial, 1, 1, mechanism))
    return np.asarray(one.delta(subject.learner.initial, 1, 1, mechanism))


def sampled(subject: Subject, draws: int) -> Finding:
    """Test the batches that training really takes, as its loss sees them.

    Each record's label is its number. Batches are filled up with record 0, which is left out.
    """
    real, seen = subject.learner, [np.zeros(0, np.int64)]
    watched = _with(real, np.arange(subject.records))
    watched.scenario = with_values(real.scenario, "training", steps=1)
    watched.labels = torch.arange(subject.records, device=real.labels.device)

    def loss(outputs: tuple[Tensor, ...], numbers: Tensor) -> Tensor:
        seen.append(numbers.cpu().numpy())
        return real.loss(outputs, real.labels[numbers])

    watched.objective = replace(real.objective, loss=loss)

    def sample(_: Stream) -> Rows:
        seen.clear()
        _handed_in(watched, subject, subject.mechanism)
        rows = np.unique(np.concatenate(seen))
        return np.asarray(rows[rows > 0] - 1)

    few = 5 if subject.mechanism.sampling_rate == 1.0 else draws
    return conformance.sampler(
        subject, sample, name="batches in training", records=subject.records - 1, draws=few
    )


def _with(real: Learner, rows: np.ndarray, broken: int = -1) -> Learner:
    """Return a learner of some of the records; `broken` is one whose values are infinite."""
    other = copy.copy(real)
    other.inputs, other.labels = real.inputs[rows].clone(), real.labels[rows]
    if broken >= 0:
        other.inputs[broken] = torch.inf
    return other


def timing(subject: Subject, repeats: int, seconds: float = math.inf) -> Finding:
    """Compare the time of a round with and without a record, and with one that overflows.

    repeats: at most so many of each; fewer, and at least 5, where `seconds` are over before.
    """
    real, everybody = subject.learner, np.arange(subject.records)
    middle = subject.records // 2
    others = {
        "one record less": _with(real, np.delete(everybody, middle)),
        "a record that overflows": _with(real, everybody, middle),
    }
    whole = _with(real, everybody)
    ratios: dict[str, list[float]] = {name: [] for name in others}
    # After the first round nothing is loaded any more: the second says how many to time together.
    _seconds(whole, subject, 1)
    rounds = 1 + int(_LEAST_SECONDS / max(_seconds(whole, subject, 1), 1e-6))
    started = time.monotonic()
    for repeat in range(repeats):
        if repeat >= 5 and time.monotonic() - started > seconds:
            break
        for name, other in others.items():
            # In turns, so that a machine that slows down slows both.
            pair = (whole, other) if repeat % 2 else (other, whole)
            times = {id(one): _seconds(one, subject, rounds) for one in pair}
            ratios[name].append(times[id(other)] / times[id(whole)])
    tests = [
        Test(f"time with {name}", median(found), 1 / _SLOWER, _SLOWER)
        for name, found in ratios.items()
    ]
    told = ", ".join(f"{t.value:.2f} with {n}" for t, n in zip(tests, ratios, strict=True))
    return finding(
        "timing",
        tests,
        f"{told} of the usual processor time (medians of {len(ratios['one record less'])})",
        assumes="time is spent computing, not waiting",
        blind=f"differences below a factor of {_SLOWER:g}; caches; power",
    )


def _seconds(one: Learner, subject: Subject, rounds: int) -> float:
    # Of the processor, not of the wall: another process's turn tells nothing of the records.
    started = time.process_time()
    for _ in range(rounds):
        _handed_in(one, subject, _everybody(subject.mechanism))
    return time.process_time() - started


def declines(subject: Subject) -> Finding:
    """Test that training answers in the same way, whatever one record is or whether it is there."""
    real, everybody = subject.learner, np.arange(subject.records)
    cases = {
        "all records": _with(real, everybody),
        "one record less": _with(real, everybody[1:]),
        "a record that overflows": _with(real, everybody, 0),
    }
    if subject.mechanism.unit == "record":
        labels = real.labels.cpu().numpy()
        cases |= {
            "a class missing": _with(real, everybody[labels != labels[0]]),
            "a single record": _with(real, everybody[:1]),
            "no record": _with(real, everybody[:0]),
        }
    answers = {name: _answer(case, subject) for name, case in cases.items()}
    tests = [Test(name, float(answer != "sent"), 0.0, 0.0) for name, answer in answers.items()]
    return finding(
        "declines",
        tests,
        f"{len(cases)} tables, with and without a record: an update each time",
        assumes="",
        blind="replies made outside of training: the policy's, the ledger's",
    )


def _everybody(mechanism: Mechanism) -> Mechanism:
    """Return the mechanism with every record in every step: the attack waits for its record."""
    if isinstance(mechanism, RecordMechanism):
        return replace(mechanism, sampling_rate=1.0, max_batch=0, max_records=0)
    if isinstance(mechanism, SharedMechanism):
        return replace(mechanism, sampling_rate=1.0)
    return mechanism


def _answer(case: Learner, subject: Subject) -> str:
    try:
        delta = _handed_in(case, subject, _everybody(subject.mechanism))
    except Exception as error:  # Whatever it is: that it is raised tells something.
        return type(error).__name__
    return "sent" if np.isfinite(delta).all() else "not finite"
