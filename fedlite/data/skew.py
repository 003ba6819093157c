"""Divisions by lot in which sites differ: by the classes that they hold, or by how much."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedlite.data.dataset import Indices

# Keeps the draws of a division apart from every other use of the same seed.
ASSIGN = 0
# A division that has not come out by then never does.
MOST_DRAWS = 1000

_Draw = Callable[[np.random.Generator], Indices]


def dirichlet(y: Indices, classes: int, sites: int, alpha: float) -> _Draw:
    """Return how each class's records are shared out by Dir(alpha, ..., alpha), in one draw."""

    def draw(rng: np.random.Generator) -> Indices:
        owner = np.empty(len(y), np.int64)
        for label in range(classes):
            records = rng.permutation(np.flatnonzero(y == label))
            owner[records] = _cut(len(records), rng.dirichlet(np.full(sites, alpha)))
        return owner

    return draw


def quantity(records: int, sites: int, alpha: float) -> _Draw:
    """Return how all records are shared out at random, in sizes by Dir(alpha, ..., alpha)."""

    def draw(rng: np.random.Generator) -> Indices:
        shares = rng.dirichlet(np.full(sites, alpha))
        owner = np.empty(records, np.int64)
        owner[rng.permutation(records)] = _cut(records, shares)
        return owner

    return draw


def _cut(records: int, shares: NDArray[np.float64]) -> Indices:
    """Return the owner of each of so many records, the first site's first."""
    ends = np.rint(np.cumsum(shares)[:-1] * records).astype(np.int64)
    return np.searchsorted(ends, np.arange(records), side="right").astype(np.int64)


def with_least(draw: _Draw, sites: int, least: int, seed: int) -> tuple[Indices, int]:
    """Return the owner of each record, int64 [n], and after how many draws.

    The division is drawn again until each site has `least` records. Both follow from the seed.

    Raises ValueError after MOST_DRAWS.
    """
    best = 0
    for number in range(MOST_DRAWS):
        again = (number,) * (number > 0)
        owner = draw(np.random.default_rng((ASSIGN, seed, *again)))
        fewest = int(np.bincount(owner, minlength=sites).min())
        if fewest >= least:
            return owner, number + 1
        best = max(best, fewest)
    raise ValueError(
        f"least: each site must get at least {least} records, and in {MOST_DRAWS} draws the "
        f"smallest got {best} at most; use a larger alpha, fewer sites or a smaller data.least"
    )


def shards(y: Indices, sites: int, each: int, seed: int) -> Indices:
    """Return the owner of each record, int64 [n]: records by class, cut into pieces of one size.

    Each site gets `each` of them at random (McMahan et al. 2017, Communication-Efficient Learning
    of Deep Networks from Decentralized Data, section 3), so that it has few classes. Pieces differ
    by one record at most.
    """
    rng = np.random.default_rng((ASSIGN, seed))
    mixed = rng.permutation(len(y))
    ordered = mixed[np.argsort(y[mixed], kind="stable")]
    pieces = np.array_split(ordered, sites * each)
    owner = np.empty(len(y), np.int64)
    for place, piece in enumerate(rng.permutation(sites * each)):
        owner[pieces[piece]] = place // each
    return owner
