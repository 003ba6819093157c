"""What is seen of shared noise: one sum over sites, as it comes out from under the masks.

The auditor knows everything but the noise of those who are honest: all records but the canaries,
all other sites' clean parts, and the noise of whoever colludes, which she takes off. So what she
attacks is the sum of real contributions: one site's with canaries in it, and of `count - 1` others
nothing but noise, each rounded to the grid at its site, added modulo 2^b, and read back as the
server reads it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedlite.attacks.canaries import LOUD, Canaries, Nothing, Repeated, Signed, Values, WithCanaries
from fedlite.attacks.subject import Subject
from fedlite.privacy import SharedMechanism
from fedlite.privacy.grid import fine_cell
from fedlite.privacy.noise import Integers, Stream
from fedlite.privacy.shared import summed

Coins = NDArray[np.bool_]
BATCHES = 4


def mechanism_of(subject: Subject) -> SharedMechanism:
    """Return the subject's mechanism; raises ValueError where no noise is shared."""
    if not isinstance(subject.mechanism, SharedMechanism):
        raise ValueError(f"mechanism: must be one of shared noise, got {subject.mechanism!r}")
    return subject.mechanism


def deviation(mechanism: SharedMechanism, count: int) -> float:
    """Return the standard deviation of the noise of `count` sites in a sum, by the plan."""
    return mechanism.own_std * math.sqrt(count)


def read(units: Integers, mechanism: SharedMechanism) -> Values:
    """Return what the server reads from a sum of whole units: through the modulus, and back."""
    return summed.values(summed.residues(units, mechanism.bits), mechanism)


def sum_release(subject: Subject, count: int) -> Callable[[Canaries, Coins], Values]:
    """Return real sums with the noise of `count` sites, and their scores in deviations of it."""
    mechanism = mechanism_of(subject)
    whole = mechanism.unit == "client"
    seen = (_of_clients if whole else _of_records)(subject, mechanism, count)
    rng = np.random.default_rng()

    def release(canaries: Canaries, coins: Coins) -> Values:
        return seen(Signed(canaries, rng.choice([-1.0, 1.0], canaries.count)), coins)

    return release


def _of_records(
    subject: Subject, mechanism: SharedMechanism, count: int
) -> Callable[[Canaries, Coins], Values]:
    sampler, noise = subject.streams(0, 0)
    batches = [
        subject.batch(sampler) for _ in range(1 if mechanism.sampling_rate == 1.0 else BATCHES)
    ]
    turn = itertools.cycle(
        [
            (rows, Repeated(subject.gradients), cut(subject.reference(rows, mechanism), mechanism))
            for rows in batches
        ]
    )

    def release(canaries: Canaries, coins: Coins) -> Values:
        rows, real, clean = next(turn)
        planted = WithCanaries(real, canaries, subject.records, LOUD * mechanism.clip)
        own = summed.contribution(planted, planted.rows(rows, coins), mechanism, noise)
        seen = read(own + noise_of(mechanism, count - 1, noise), mechanism)
        return canaries.scores(seen - clean) / deviation(mechanism, count)

    return release


def _of_clients(
    subject: Subject, mechanism: SharedMechanism, count: int
) -> Callable[[Canaries, Coins], Values]:
    """Return sums in which each canary is a site: it hands in its direction, or nothing.

    Each is clipped by the site's own code. There are more of them than sites that add noise, as the
    claim is of every site, whoever else is there.
    """
    _, noise = subject.streams(0, 0)
    cell = fine_cell(mechanism.own_std)

    def release(canaries: Canaries, coins: Coins) -> Values:
        loud = np.zeros(canaries.count)
        loud[0] = LOUD * mechanism.clip
        left = cut(summed.clipped_update(canaries.total(loud), mechanism), mechanism)
        clean = canaries.total(coins.astype(np.float64) * float(np.linalg.norm(left)))
        own = summed.noised_units(np.rint(clean / cell).astype(np.int64), noise)
        seen = read(own + noise_of(mechanism, count - 1, noise), mechanism)
        return canaries.scores(seen) / deviation(mechanism, count)

    return release


def cut(total: Values, mechanism: SharedMechanism) -> Values:
    """Return a site's clean sum as it is noised: on the fine grid, cut to the public bound."""
    return summed.clean_cells(total, mechanism).astype(np.float64) * fine_cell(mechanism.own_std)


def noise_of(mechanism: SharedMechanism, sites: int, noise: Stream) -> Integers:
    """Return the sum of what `sites` sites hand in that have nothing to say."""
    total = np.zeros(mechanism.coordinates, np.int64)
    nobody, none = Nothing(mechanism.coordinates), np.zeros(0, np.int64)
    for _ in range(sites):
        total += summed.contribution(nobody, none, mechanism, noise)
    return total
