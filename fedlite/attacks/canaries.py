"""Canaries: records that an auditor adds where per-record gradients enter the real mechanism.

A canary is known to the auditor to the last bit, so its trace in a release can be looked for where
it must be. Its gradient is `LOUD` times as long as the clip: what lets it through unclipped shows
as a trace ten times too long. Two kinds, because a fault can hide from either: all of a *Dirac*
canary lies on one coordinate, a *dense* one on as many as there are. Canaries of a kind are
orthogonal, so thousands of them share one step and none disturbs another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite.privacy.dpsgd import Gradients
from fedlite.privacy.gradients import ModelGradients, Rows

Values = NDArray[np.float64]

LOUD = 10.0
"""Length of a canary's gradient in clips."""


class Canaries(Protocol):
    """Orthogonal unit directions in a model's space of `size` values."""

    @property
    def size(self) -> int:
        """Number of values of the model."""
        ...

    @property
    def count(self) -> int:
        """Number of canaries."""
        ...

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


@dataclass(frozen=True, eq=False)
class Signed:
    """Canaries of which some point the other way: signs, float64, +-1, one a canary.

    Many that all point one way would add up to more than a site may hand in, and be cut together.
    """

    canaries: Canaries
    signs: Values

    @property
    def size(self) -> int:
        """Number of values of the model."""
        return self.canaries.size

    @property
    def count(self) -> int:
        """Number of canaries."""
        return self.canaries.count

    def total(self, lengths: Values) -> Values:
        """Return the sum of the canaries; see `Canaries`."""
        return self.canaries.total(lengths * self.signs)

    def scores(self, release: Values) -> Values:
        """Return how far a release goes in each one's direction; see `Canaries`."""
        return self.canaries.scores(release) * self.signs


def _hadamard(values: Values) -> Values:
    """Return the orthonormal Walsh-Hadamard transform, which is its own inverse."""
    out, width = values.astype(np.float64), 1
    while width < len(out):
        pairs = out.reshape(-1, 2, width)
        out = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        width *= 2
    return out / math.sqrt(len(values))


class WithCanaries:
    """Gradients of real records, and behind them, from row `first` on, those of canaries.

    Takes the place of the real ones in `fedlite.privacy.dpsgd.noised_sum`. clean: the records' own
    part of the last sum, float64 [size].
    """

    def __init__(self, real: Gradients, canaries: Canaries, first: int, norm: float) -> None:
        """Plant canaries whose gradients have the length `norm`."""
        self._real, self._canaries, self._first, self._norm = real, canaries, first, norm
        self.size = canaries.size
        self._rows: Rows = np.zeros(0, np.int64)
        self.clean: Values = np.zeros(canaries.size)

    def rows(self, real: Rows, coins: NDArray[np.bool_]) -> Rows:
        """Return the rows of a batch with the canaries whose coin says so."""
        return np.concatenate([real, self._first + np.flatnonzero(coins)])

    def norms(self, rows: Rows) -> Values:
        """Return the length of each gradient; see `fedlite.privacy.dpsgd.Gradients`."""
        self._rows = rows
        found = np.full(len(rows), self._norm)
        found[rows < self._first] = self._real.norms(rows[rows < self._first])
        return found

    def weighted(self, factors: Values) -> Values:
        """Return the weighted sum; see `fedlite.privacy.dpsgd.Gradients`."""
        planted = self._rows >= self._first
        lengths = np.zeros(self._canaries.count)
        lengths[self._rows[planted] - self._first] = factors[planted] * self._norm
        self.clean = self._real.weighted(factors[~planted])
        return self.clean + self._canaries.total(lengths)


class Repeated:
    """A batch's gradients whose last answers are kept: a step repeated costs its noise only."""

    def __init__(self, opened: Callable[[], ModelGradients]) -> None:
        """Keep the way to open a model's gradients; nothing is asked of them yet."""
        self._opened = opened
        self._rows: Rows = np.full(1, -1, np.int64)
        self._norms: Values = np.zeros(0)
        self._factors: Values | None = None
        self._sum: Values = np.zeros(0)
        self.size = opened().size

    def norms(self, rows: Rows) -> Values:
        """Return the length of each gradient; see `fedlite.privacy.dpsgd.Gradients`."""
        if not np.array_equal(rows, self._rows):
            with self._opened() as gradients:
                self._norms = gradients.norms(rows)
            self._rows, self._factors = rows, None
        return self._norms

    def weighted(self, factors: Values) -> Values:
        """Return the weighted sum; see `fedlite.privacy.dpsgd.Gradients`."""
        if self._factors is None or not np.array_equal(factors, self._factors):
            with self._opened() as gradients:
                gradients.norms(self._rows)
                self._sum = gradients.weighted(factors)
            self._factors = factors
        return self._sum


class Nothing:
    """Gradients of no records at all."""

    def __init__(self, size: int) -> None:
        """Keep the number of values."""
        self.size = size

    def norms(self, rows: Rows) -> Values:
        """Return as many zeros as there are rows."""
        return np.zeros(len(rows))

    def weighted(self, factors: Values) -> Values:
        """Return zeros, float64 [size]."""
        return np.zeros(self.size)
