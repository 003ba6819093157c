"""Does the mechanism do what its plan says: clipped sum, noise, sampler, accountant, ledger?

None of these is a bound on epsilon; each holds a promise on which the bounds rest and which they
cannot see. Every test has its threshold fixed beforehand: a correct mechanism fails a check with a
chance of at most `LEVEL`, however many values the check looks at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import chi2, norm

from fedlite.attacks.canaries import Repeated, Values
from fedlite.attacks.subject import Subject
from fedlite.attacks.sums import cut
from fedlite.attacks.verdict import Finding, Outcome
from fedlite.privacy import (
    ClientMechanism,
    RecordMechanism,
    SharedMechanism,
    client,
    dpsgd,
)
from fedlite.privacy.accounting import (
    PLD_INTERVAL,
    PRV_ERROR,
    compose_pld,
    compose_prv,
    compose_rdp,
)
from fedlite.privacy.budget.plans import asked_plan
from fedlite.privacy.gradients import ModelGradients, Rows
from fedlite.privacy.grid import fine_cell
from fedlite.privacy.mechanism import LEAST_NOISE
from fedlite.privacy.noise import Stream

LEVEL = 1e-6
_LAGS = 16
Sampler = Callable[[Stream], Rows]


@dataclass(frozen=True, eq=False)
class Test:
    """One statistic with its limits: passed when low <= value <= high."""

    name: str
    value: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether the statistic is within its limits; a NaN is not."""
        return self.low <= self.value <= self.high


def finding(check: str, tests: list[Test], found: str, *, assumes: str, blind: str) -> Finding:
    """Return the finding of a check that fails when any of its tests does."""
    broken = [t for t in tests if not t.passed]
    if broken:
        found = "; ".join(
            f"{t.name} {t.value:.4g}, must be from {t.low:.4g} to {t.high:.4g}" for t in broken[:3]
        )
    outcome: Outcome = "fail" if broken else "pass"
    figures = {t.name: {"value": t.value, "low": t.low, "high": t.high} for t in tests}
    return Finding(check, outcome, found, assumes=assumes, blind=blind, figures=figures)


def clipped_sum(subject: Subject) -> Finding:
    """Compare the mechanism's clipped sum with one record at a time, the noise turned down.

    Over the whole of the site, none, a half, and single records.
    """
    mechanism = subject.mechanism
    if isinstance(mechanism, ClientMechanism) or mechanism.unit != "record":
        raise ValueError(f"mechanism: must be a record's, got {mechanism!r}")
    quiet, left = _quiet(mechanism)
    everybody = np.arange(subject.records)
    batches = {"all": everybody, "none": everybody[:0], "half": everybody[::2]}
    batches |= {f"record {row}": everybody[row : row + 1] for row in (0, subject.records // 2)}
    tests = []
    for name, rows in batches.items():
        with subject.gradients() as real:
            found = _quiet_sum(real, rows, quiet)
        # What noise is left, and float32's rounding of each record's gradient.
        slack = 8 * left + 1e-5 * mechanism.clip * max(1.0, math.sqrt(len(rows)))
        wanted = subject.reference(rows, quiet)
        if isinstance(quiet, SharedMechanism):
            wanted = cut(wanted, quiet)
        gap = float(np.abs(found - wanted).max())
        tests.append(Test(f"sum of {name}", gap, 0.0, slack))
        if len(rows) == 1:
            length = float(np.linalg.norm(found))
            slack = left * 2 * math.sqrt(subject.size)
            tests.append(Test(f"length of {name}", length, 0.0, mechanism.clip + slack))
    return finding(
        "clipped sum",
        tests,
        f"the sum of {subject.records:,} clipped gradients agrees with one record at a time",
        assumes="the model and the loss are the ones the site trains",
        blind="records that are not at this site",
    )


def _quiet(
    mechanism: RecordMechanism | SharedMechanism,
) -> tuple[RecordMechanism | SharedMechanism, float]:
    """Return the mechanism with the least noise, and what deviation of it is left.

    With less noise a site would cut its part of a sum by a lower bound: that is looked at before
    any noise is added, on its fine grid.
    """
    if isinstance(mechanism, SharedMechanism):
        return mechanism, fine_cell(mechanism.own_std)
    quiet = replace(mechanism, noise_multiplier=LEAST_NOISE)
    return quiet, quiet.noise_std


def _quiet_sum(
    real: ModelGradients, rows: Rows, quiet: RecordMechanism | SharedMechanism
) -> Values:
    if isinstance(quiet, SharedMechanism):
        return cut(dpsgd.clipped_sum(real, rows, quiet.clip_bound(real.size)), quiet)
    return dpsgd.noised_sum(real, rows, quiet, Stream.fresh())


def noise_matrix(subject: Subject, steps: int) -> tuple[Values, Values]:
    """Return noise in units of the claim, float64 [steps, size], and what was released with it.

    Half of the steps share a stream, as in a round; each of the others has a round's and a site's
    own.
    """
    mechanism = subject.mechanism
    common = subject.streams(1, 1)[1]
    streams = [
        common if step < steps // 2 else subject.streams(step, step % 5)[1] for step in range(steps)
    ]
    clean = np.zeros(subject.size)
    if isinstance(mechanism, RecordMechanism):
        rows = subject.batch(subject.streams(1)[0])
        clean, real = subject.reference(rows, mechanism), Repeated(subject.gradients)
        released = np.stack([dpsgd.noised_sum(real, rows, mechanism, s) for s in streams])
    elif isinstance(mechanism, ClientMechanism):
        released = np.stack([_of_nothing(mechanism, subject.size, s) for s in streams])
    else:
        raise ValueError(f"mechanism: must be one whose release is seen by itself: {mechanism!r}")
    return (released - clean) / mechanism.noise_std, released


def _of_nothing(mechanism: ClientMechanism, size: int, stream: Stream) -> Values:
    """Return what is released of an update, or a sum, of zeros."""
    if mechanism.at == "server":
        mean = client.noised_mean(np.zeros(size), 1, mechanism, stream)
        return np.asarray(mean, dtype=np.float64)
    sent = client.privatize(np.zeros(size, np.float32), mechanism, stream)
    return np.asarray(sent, dtype=np.float64)


def noise_deviation(noise: Values, sizes: tuple[int, ...]) -> Finding:
    """Test the noise's deviation against the claim: in all, by tensor, by coordinate."""
    steps, size = noise.shape
    squares = noise**2
    tests = [square_test("variance of all", float(squares.sum()), noise.size, LEVEL)]
    offset = 0
    for number, length in enumerate(sizes):
        part = squares[:, offset : offset + length]
        tests.append(
            square_test(
                f"variance of tensor {number}", float(part.sum()), part.size, LEVEL / len(sizes)
            )
        )
        offset += length
    columns = squares.sum(axis=0)
    for name, value in (("least", columns.min()), ("largest", columns.max())):
        tests.append(
            square_test(f"{name} variance of a coordinate", float(value), steps, LEVEL / size)
        )
    z = float(norm.isf(LEVEL / 2 / size))
    means = noise.mean(axis=0) * math.sqrt(steps)
    tests.append(Test("largest mean of a coordinate", float(np.abs(means).max()), 0.0, z))
    tests.append(square_test("square of the mean", float((means**2).sum()), size, LEVEL))
    ratio = math.sqrt(float(squares.mean()))
    return finding(
        "noise deviation",
        tests,
        f"{ratio:.5f} of the claimed deviation over {noise.size:,} values; none without noise",
        assumes="the clean sum is right",
        blind="a pattern that keeps every variance",
    )


def square_test(name: str, value: float, free: int, level: float) -> Test:
    """Return the test of a sum of squares, as a ratio to what is expected."""
    low, high = chi2.ppf(level / 2, free), chi2.isf(level / 2, free)
    return Test(name, value / free, float(low) / free, float(high) / free)


def noise_independence(noise: Values) -> Finding:
    """Test that noise repeats itself neither in steps nor coordinates, sites or rounds."""
    steps, size = noise.shape
    z = float(norm.isf(LEVEL / 4 / _LAGS))
    tests = []
    for lag in range(1, _LAGS + 1):
        if lag < steps:
            tests.append(_product(f"steps {lag} apart", noise[lag:] * noise[:-lag], z))
        if lag < size:
            tests.append(_product(f"coordinates {lag} apart", noise[:, lag:] * noise[:, :-lag], z))
    # Every pair of steps, sites and rounds: a repeated one correlates with 1.
    gram = noise @ noise.T / math.sqrt(size)
    np.fill_diagonal(gram, 0.0)
    pairs = steps * (steps - 1) / 2
    limit = float(norm.isf(LEVEL / 2 / max(1.0, pairs))) * 1.1
    tests.append(Test("two steps alike", float(np.abs(gram).max()), 0.0, limit))
    return finding(
        "noise independence",
        tests,
        f"{steps} steps of two sites and more rounds: no correlation up to lag {_LAGS}",
        assumes="",
        blind="dependence that no product of two values shows",
    )


def _product(name: str, products: Values, z: float) -> Test:
    """Return the test that products of independent unit normals have mean 0, as a z value."""
    value = float(products.sum()) / math.sqrt(products.size)
    return Test(name, value, -z, z)


def seeds(subject: Subject) -> Finding:
    """Test that no global seed, and no keys that a server knows, repeat noise or samples."""
    import random

    import torch

    def drawn() -> tuple[bytes, bytes]:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        sampler, noise = subject.streams(1, 1)
        return sampler.words(8).tobytes(), noise.gaussians(8).tobytes()

    state, numpy_state, torch_state = (
        random.getstate(),
        np.random.get_state(),
        torch.random.get_rng_state(),
    )
    try:
        draws = [drawn() for _ in range(3)]
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
    repeats = float(6 - len({d[0] for d in draws}) - len({d[1] for d in draws}))
    return finding(
        "seeds",
        [Test("repeated streams", repeats, 0.0, 0.0)],
        "the same keys and global seeds gave other samples and other noise, three times",
        assumes="",
        blind="whoever reads the operating system's entropy",
    )


def sampler(
    subject: Subject,
    sample: Sampler | None = None,
    *,
    name: str = "sampler",
    records: int = 0,
    draws: int = 0,
) -> Finding:
    """Test batches against independent draws: sizes, shares of records, overlaps of batches.

    sample: draws one batch of `records` records; the mechanism's own unless given. draws: 0 takes
    as many as are quick.
    """
    n, rate = records or subject.records, subject.mechanism.sampling_rate
    sample = sample or subject.batch
    stream = subject.streams(2, 2)[0]
    quick = 20 if rate == 1.0 else int(np.clip(4_000_000 // n, 200, 4000))
    draws = draws or quick
    member = np.zeros((draws, n), dtype=bool)
    for batch in member:
        batch[sample(stream)] = True
    sizes = member.sum(axis=1)
    if rate == 1.0:
        tests = [Test("smallest batch", float(sizes.min()), n, n)]
        return finding(
            name,
            tests,
            f"every batch holds all {n} records, as rate 1 says",
            assumes="",
            blind="",
        )
    z = float(norm.isf(LEVEL / 10))
    variance = n * rate * (1 - rate)
    fourth = variance * (1 + (3 * n - 6) * rate * (1 - rate))
    spread = math.sqrt((fourth - variance**2) / draws)
    tests = [
        Test(
            "mean batch",
            float(sizes.mean()),
            n * rate - z * math.sqrt(variance / draws),
            n * rate + z * math.sqrt(variance / draws),
        ),
        Test(
            "variance of batches",
            float(((sizes - n * rate) ** 2).mean()),
            variance - z * spread,
            variance + z * spread,
        ),
    ]
    counts = member.sum(axis=0)
    shares = ((counts - draws * rate) ** 2).sum() / (draws * rate * (1 - rate))
    tests.append(square_test("shares of records", float(shares), n, LEVEL / 5))
    centred = member.astype(np.float32) - np.float32(rate)
    overlap = float((centred[1:] * centred[:-1]).sum(dtype=np.float64))
    deviation = rate * (1 - rate) * math.sqrt((draws - 1) * n)
    tests.append(Test("overlap of batches", overlap / deviation, -z, z))
    return finding(
        name,
        tests,
        f"{draws:,} batches of {sizes.mean():.1f} records, variance {sizes.var():.1f}: "
        f"binomial({n}, {rate:g}) has {n * rate:.1f} and {variance:.1f}",
        assumes="",
        blind="a choice that depends on the records' values",
    )


def accountant(subject: Subject) -> Finding:
    """Compute the plan's epsilon anew by the other library, and by Renyi divergences."""
    parts = [(subject.mechanism.event, subject.steps)]
    pld = compose_pld(parts, subject.delta, PLD_INTERVAL)
    prv = compose_prv(parts, subject.delta, library="prv-accountant")
    rdp = compose_rdp(parts, subject.delta)
    tests = [
        Test("PLD", pld, 0.0, subject.scenario.privacy.epsilon * (1 + 1e-9)),
        Test("RDP", rdp, pld - 0.005, math.inf),
    ]
    if math.isfinite(prv):
        tests.append(Test("PRV", prv, pld - 0.005, pld + 2 * PRV_ERROR + 0.005))
    return finding(
        "accountant",
        tests,
        f"PLD {pld:.4f}, PRV {prv:.4f} (within {PRV_ERROR}), RDP {rdp:.4f}",
        assumes="steps, rate and sigma are the ones used",
        blind="an error that both libraries share",
    )


def ledger(subject: Subject, noise: Values, sampled: Finding) -> Finding:
    """Hold what a site would write into its ledger against what was measured here."""
    mechanism, privacy = subject.mechanism, subject.scenario.privacy
    plan = asked_plan(
        "0" * 16, mechanism, epsilon=privacy.epsilon, delta=privacy.delta, code="0" * 64
    )
    used = math.sqrt(float((noise**2).mean())) * mechanism.noise_std / mechanism.sensitivity
    # The deviation of a sample deviation is sigma / sqrt(2 n).
    slack = float(norm.isf(LEVEL / 2)) * plan.noise_multiplier / math.sqrt(2 * noise.size)
    charge = compose_pld([(mechanism.event, subject.steps)], subject.delta)
    tests = [
        Test("sigma used", used, plan.noise_multiplier - slack, plan.noise_multiplier + slack),
        Test("steps", float(plan.steps), float(subject.steps), float(subject.steps)),
        Test("epsilon of the plan", charge, 0.0, plan.epsilon_asked * (1 + 1e-9)),
    ]
    batch = sampled.figures.get("mean batch")
    if batch is not None:
        expected = plan.sampling_rate * subject.records
        width = (batch["high"] - batch["low"]) / 2
        tests.append(Test("batch used", batch["value"], expected - width, expected + width))
    return finding(
        "ledger",
        tests,
        f"sigma {used:.4f} used, {plan.noise_multiplier:.4f} in the plan's row",
        assumes="the site writes the row that the library makes",
        blind="what a site writes instead; `fedlite audit ledgers` checks that",
    )
