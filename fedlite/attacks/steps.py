"""The step audit: how well a canary shows in one real release, and what that costs over the plan.

After Nasr et al. 2023 (arXiv 2302.07956): the auditor knows everything but the noise. She adds
canaries by fair coins, subtracts the clean sum, and counts at one threshold, fixed beforehand from
the claimed noise, how often she is wrong. That bounds mu = 1 / sigma from below, and the plan's
rate and steps make an epsilon of it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedlite.attacks.bounds import composed, upper_rate
from fedlite.attacks.canaries import LOUD, Canaries, Dense, Dirac, Repeated, WithCanaries
from fedlite.attacks.subject import Subject
from fedlite.attacks.sums import sum_release
from fedlite.attacks.verdict import STEP, Finding, judge
from fedlite.privacy import ClientMechanism, RecordMechanism, SharedMechanism, client, dpsgd
from fedlite.privacy.mechanism import Event
from fedlite.privacy.noise import Stream
from fedlite.scenario import ScenarioError

Scores = NDArray[np.float64]
Coins = NDArray[np.bool_]
Release = Callable[[Canaries, Coins], Scores]
"""One real release with the canaries whose coin says so: their scores, in deviations of the noise,
N(1 / sigma, 1) and N(0, 1) if the claim is true."""

BATCHES = 4
_WANTED = 0.04  # share of mu that the confidence bound may lose
_BINS = 400
_AT_A_SITE = 16


@dataclass(eq=False)
class Counts:
    """Scores as they come, kept as counts: errors at the threshold, and histograms for the ROC."""

    threshold: float
    edges: Scores
    misses: int = 0
    alarms: int = 0
    inside: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS + 2, np.int64))
    outside: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS + 2, np.int64))

    @classmethod
    def at(cls, mu: float) -> Counts:
        """Return empty counts with the threshold halfway between the claim's two means."""
        return cls(mu / 2, np.linspace(-6.0, mu + 6.0, _BINS + 1))

    def add(self, scores: Scores, coins: Coins) -> None:
        """Count one release."""
        for chosen, histogram in ((coins, self.inside), (~coins, self.outside)):
            where = np.searchsorted(self.edges, scores[chosen])
            histogram += np.bincount(where, minlength=len(histogram))
        self.misses += int((scores[coins] <= self.threshold).sum())
        self.alarms += int((scores[~coins] > self.threshold).sum())

    @property
    def seen(self) -> int:
        """Number of canaries counted."""
        return int(self.inside.sum() + self.outside.sum())

    def mu(self, significance: float) -> float:
        """Return the lower bound on mu (`fedlite.attacks.bounds.step_mu`)."""
        if not (self.inside.sum() and self.outside.sum()):
            return 0.0
        from scipy.special import ndtri

        miss = upper_rate(self.misses, int(self.inside.sum()), significance / 2)
        alarm = upper_rate(self.alarms, int(self.outside.sum()), significance / 2)
        return float(np.clip(-ndtri(alarm) - ndtri(miss), 0.0, 50.0))

    def roc(self) -> list[tuple[float, float]]:
        """Return (false positive rate, true positive rate) at every edge."""
        alarms = 1.0 - np.cumsum(self.outside) / max(1, self.outside.sum())
        found = 1.0 - np.cumsum(self.inside) / max(1, self.inside.sum())
        return [(float(a), float(t)) for a, t in zip(alarms, found, strict=True)]


def record_release(subject: Subject) -> Release:
    """Return real DP-SGD steps over a few real batches of the site's records."""
    mechanism = subject.mechanism
    if not isinstance(mechanism, RecordMechanism):
        raise ValueError(f"mechanism: must be a record's, got {mechanism!r}")
    sampler, noise = subject.streams(0, 0)
    count = 1 if mechanism.sampling_rate == 1.0 else BATCHES
    batches = [subject.batch(sampler) for _ in range(count)]
    turn = itertools.cycle(
        [
            (rows, Repeated(subject.gradients), subject.reference(rows, mechanism))
            for rows in batches
        ]
    )

    def release(canaries: Canaries, coins: Coins) -> Scores:
        rows, real, clean = next(turn)
        planted = WithCanaries(real, canaries, subject.records, LOUD * mechanism.clip)
        total = dpsgd.noised_sum(planted, planted.rows(rows, coins), mechanism, noise)
        return canaries.scores(total - clean) / mechanism.noise_std

    return release


def server_release(mechanism: ClientMechanism, stream: Stream) -> Release:
    """Return real noised means of a server, over canary clients that it cuts to its bound."""

    def release(canaries: Canaries, coins: Coins) -> Scores:
        lengths = coins.astype(np.float64) * _cut_length(mechanism, canaries.size)
        cohort = max(1, int(coins.sum()))
        mean = client.noised_mean(canaries.total(lengths), cohort, mechanism, stream)
        return canaries.scores(mean.astype(np.float64) * cohort) / mechanism.noise_std

    return release


def _cut_length(mechanism: ClientMechanism, size: int) -> float:
    """Return what the server's own cut leaves of a canary client's update."""
    loud = np.zeros(size, np.float32)
    loud[0] = LOUD * mechanism.clip
    return float(np.linalg.norm(client.clip(loud, mechanism.clip_bound(size)).astype(np.float64)))


def site_release(mechanism: ClientMechanism, stream: Stream) -> Release:
    """Return real releases of a site that holds one of two opposite canary updates."""

    def release(canaries: Canaries, coins: Coins) -> Scores:
        # Only one update fits into a release: the first canary's, or its opposite.
        sign = 1.0 if coins[0] else -1.0
        lengths = np.zeros(canaries.count)
        lengths[0] = sign * LOUD * mechanism.clip
        update = canaries.total(lengths).astype(np.float32)
        sent = client.privatize(update, mechanism, stream).astype(np.float64)
        return (
            canaries.scores(sent)[:1] + mechanism.clip_bound(canaries.size)
        ) / mechanism.noise_std

    return release


def release_of(subject: Subject) -> Release:
    """Return the releases of the subject's own mechanism."""
    mechanism = subject.mechanism
    if isinstance(mechanism, RecordMechanism):
        return record_release(subject)
    if isinstance(mechanism, SharedMechanism):
        return sum_release(subject, mechanism.carried)
    _, noise = subject.streams(0, 0)
    make = server_release if mechanism.at == "server" else site_release
    return make(mechanism, noise)


def observations(mu: float, significance: float) -> int:
    """Return how many canaries of a kind let the bound come within about 4 % of mu.

    At the threshold mu / 2 both probits have a deviation of sqrt(p (1 - p) / n) / phi(mu / 2).

    >>> observations(1.0, 0.025)
    43236
    """
    from scipy.stats import norm

    z = float(norm.isf(significance / 2))
    p = float(norm.cdf(-mu / 2))
    deviation = math.sqrt(p * (1 - p)) / float(norm.pdf(mu / 2))
    return 2 * math.ceil((2 * z * deviation / (_WANTED * mu)) ** 2)


def check_enough(canaries: int, confidence: float) -> None:
    """Raise ScenarioError unless canaries that are all told apart would prove anything."""
    significance = (1.0 - confidence) / 2
    half = canaries // 2
    if half < 1 or upper_rate(0, half, significance / 2) >= 0.5:
        least = 2 * math.ceil(math.log(significance / 2) / math.log(0.5))
        raise ScenarioError(
            f"--canaries: must be enough for a bound with confidence {confidence:g}, got "
            f"{canaries}, of which not even a perfect attack would prove anything; set at least "
            f"{least + 2}"
        )


def step_audit(
    subject: Subject,
    *,
    canaries: int,
    confidence: float,
    seconds: float,
    tick: Callable[[str], None] = lambda _: None,
    release: Release | None = None,
    event: Event | None = None,
    check: str = STEP,
    assumes: str = "independent noise; batches sampled at the claimed rate",
) -> tuple[Finding, list[tuple[float, float]]]:
    """Return the step audit's finding and the ROC of the better kind of canary.

    canaries: at most so many share a step. seconds: the time for both kinds together, after which
    the bound is what has been seen by then; the rule to stop looks at no score. release, event: the
    mechanism's own, and one step of it, unless others are given. check: what the finding is called.
    """
    release = release or release_of(subject)
    event = event or subject.mechanism.event
    mu = 1.0 / event.noise_multiplier
    share = (1.0 - confidence) / 2  # half for each kind, so that both hold together
    wanted = observations(mu, share)
    if getattr(subject.mechanism, "at", "") == "site":
        # One update fits into a release whatever there is to choose from: more only takes time.
        canaries = min(canaries, _AT_A_SITE)
    rng = np.random.default_rng()
    found: dict[str, Counts] = {}
    for kind, name in ((Dirac, "dirac"), (Dense, "dense")):
        counts, started = Counts.at(mu), time.monotonic()
        while counts.seen < wanted and time.monotonic() - started < seconds / 2:
            drawn: Canaries = kind.drawn(subject.size, canaries, rng)
            for _ in range(16):
                coins = rng.random(drawn.count) < 0.5
                scores = release(drawn, coins)
                counts.add(scores, coins[: len(scores)])
            tick(f"step audit, {name} canaries: {min(1.0, counts.seen / wanted):.0%}")
        found[name] = counts
    bounds = {name: counts.mu(share) for name, counts in found.items()}
    best = max(bounds, key=lambda name: bounds[name])
    epsilon = composed(bounds[best], event.sampling_rate, subject.steps, subject.delta)
    # The same function of the claimed sigma: the claim may keep a part of delta for cut samples.
    claim = composed(mu, event.sampling_rate, subject.steps, subject.delta)
    if event == subject.mechanism.event:
        claim = max(subject.proven, claim)
    finding = Finding(
        check,
        judge(epsilon, claim),
        f"a step's sigma is at most {1 / bounds[best] if bounds[best] else math.inf:.4g}, "
        f"{event.noise_multiplier:.4g} claimed; {found[best].seen:,} {best} canaries",
        "bound",
        epsilon,
        confidence,
        assumes=assumes,
        blind="the sampler, noise that repeats, low bits",
        figures={
            f"{name}_{what}": value
            for name, counts in found.items()
            for what, value in (
                ("mu", bounds[name]),
                ("canaries", counts.seen),
                ("misses", counts.misses),
                ("alarms", counts.alarms),
            )
        },
    )
    return finding, found[best].roc()
