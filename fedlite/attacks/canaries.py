"""Canaries: records that an auditor adds where per-record gradients enter the real mechanism.

A canary is known to the auditor to the last bit, so its trace in a release can be looked for where
it must be. Its gradient is `LOUD` times as long as the clip: what lets it through unclipped shows
as a trace ten times too long. Two kinds, because a fault can hide from either: all of a *Dirac*
canary lies on one coordinate, a *dense* one on as many as there are. Canaries of a kind are
orthogonal, so thousands of them share one step and none disturbs another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Rows = NDArray[np.int64]

LOUD = 10.0
"""Length of a canary's gradient in clips."""


class Canaries(Protocol):
    """Orthogonal unit directions in a model's space of `size` values."""

    size: int
    count: int

    def total(self, lengths: Values) -> Values:
        """Return the sum of all canaries, float64 [size], each of its length, float64 [count]."""
        ...

    def scores(self, release: Values) -> Values:
        """Return how far a release goes in each canary's direction, float64 [count]."""
        ...


@dataclass(frozen=True, eq=False)
class Dirac:
    """Each canary on one coordinate of its own: `coordinates`, int64 [count], all different."""

    size: int
    coordinates: Rows

    @classmethod
    def drawn(cls, size: int, count: int, rng: np.random.Generator) -> Dirac:
        """Return `count` canaries on random coordinates."""
        return cls(size, np.sort(rng.permutation(size)[:count]))

    @property
    def count(self) -> int:
        """Number of canaries."""
        return len(self.coordinates)

    def total(self, lengths: Values) -> Values:
        """Return the sum of the canaries; see `Canaries`."""
        out = np.zeros(self.size)
        out[self.coordinates] = lengths
        return out

    def scores(self, release: Values) -> Values:
        """Return each canary's own coordinate; see `Canaries`."""
        return release[self.coordinates]


@dataclass(frozen=True, eq=False)
class Dense:
    """Each canary on all `coordinates`, a power of two of them: the rows of a Hadamard matrix.

    signs: float64, +-1, one a coordinate, so that the directions differ from audit to audit.

    >>> canaries = Dense.drawn(70, 64, np.random.default_rng(0))
    >>> found = canaries.scores(canaries.total(np.arange(64.0)))
    >>> bool(np.allclose(found, np.arange(64)))
    True
    """

    size: int
    coordinates: Rows
    signs: Values

    @classmethod
    def drawn(cls, size: int, count: int, rng: np.random.Generator) -> Dense:
        """Return the largest power of two of canaries that is at most `count` and `size`."""
        coordinates = np.sort(rng.permutation(size)[: 1 << (min(size, count).bit_length() - 1)])
        return cls(size, coordinates, rng.choice([-1.0, 1.0], len(coordinates)))

    @property
    def count(self) -> int:
        """Number of canaries."""
        return len(self.coordinates)

    def total(self, lengths: Values) -> Values:
        """Return the sum of the canaries; see `Canaries`."""
        out = np.zeros(self.size)
        out[self.coordinates] = self.signs * _hadamard(lengths)
        return out

    def scores(self, release: Values) -> Values:
        """Return the projection on each direction; see `Canaries`."""
        return _hadamard(self.signs * release[self.coordinates])


def _hadamard(values: Values) -> Values:
    """Return the orthonormal Walsh-Hadamard transform, which is its own inverse."""
    out, width = values.astype(np.float64), 1
    while width < len(out):
        pairs = out.reshape(-1, 2, width)
        out = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        width *= 2
    return out / math.sqrt(len(values))


class Gradients(Protocol):
    """Per-record gradients of a batch, as the mechanism reads them."""

    def norms(self, rows: Rows) -> Values:
        """Return the length of each record's gradient, float64 [b]."""
        ...

    def weighted(self, rows: Rows, factors: Values) -> Values:
        """Return the sum of the gradients, each times its factor, float64 [size]."""
        ...


@dataclass(frozen=True, eq=False)
class WithCanaries:
    """Gradients of real records, and behind them, from row `first` on, those of canaries."""

    real: Gradients
    canaries: Canaries
    first: int
    norm: float

    def rows(self, real: Rows, coins: NDArray[np.bool_]) -> Rows:
        """Return the rows of a batch with the canaries whose coin says so."""
        return np.concatenate([real, self.first + np.flatnonzero(coins)])

    def norms(self, rows: Rows) -> Values:
        """Return the length of each gradient; see `Gradients`."""
        own = rows >= self.first
        found = np.full(len(rows), self.norm)
        if not own.all():
            found[~own] = self.real.norms(rows[~own])
        return found

    def weighted(self, rows: Rows, factors: Values) -> Values:
        """Return the weighted sum; see `Gradients`."""
        own = rows >= self.first
        lengths = np.zeros(self.canaries.count)
        lengths[rows[own] - self.first] = factors[own] * self.norm
        total = self.canaries.total(lengths)
        return total if own.all() else total + self.real.weighted(rows[~own], factors[~own])


class Repeated:
    """The gradients of one batch, whose last answers are kept: a step repeated costs noise only."""

    def __init__(self, real: Gradients) -> None:
        """Keep the gradients; nothing is asked of them yet."""
        self._real = real
        self._norms: tuple[bytes, Values] | None = None
        self._sum: tuple[bytes, Values] | None = None

    def norms(self, rows: Rows) -> Values:
        """Return the length of each gradient; see `Gradients`."""
        key = rows.tobytes()
        if self._norms is None or self._norms[0] != key:
            self._norms = key, self._real.norms(rows)
        return self._norms[1]

    def weighted(self, rows: Rows, factors: Values) -> Values:
        """Return the weighted sum; see `Gradients`."""
        key = rows.tobytes() + factors.tobytes()
        if self._sum is None or self._sum[0] != key:
            self._sum = key, self._real.weighted(rows, factors)
        return self._sum[1]
