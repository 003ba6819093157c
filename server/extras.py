"""What travels behind the model in a round's updates: bounded, added up, and taken on.

A strategy never sees it. How long a stretch of an update may be is bounded as an update is whose
length is not known beforehand (`server.lengths`): by `federation.outlier_factor`, each stretch by
itself, whatever `federation.update_norm` says of the model's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedlite.compression import Decoded, Stretch, pieces_of
from fedlite.privacy import client
from server.lengths import median_of
from strategies import ServerState

Lengths = tuple[float, ...]


class Extras:
    """The stretches behind the model, summed over a round's updates.

    sites: `federation.sites`. factor: how many times as long as usual a stretch may be, 0 for any
    length. Usual is the largest median of a round so far; the state keeps it by the stretch's name.
    """

    def __init__(self, stretches: Sequence[Stretch], *, sites: int, factor: float) -> None:
        """Keep what they are; call `start` before the first update."""
        self._stretches, self._sites, self._factor = tuple(stretches), sites, factor

    def start(self, state: ServerState) -> None:
        """Begin a round after `state`, with empty sums."""
        self._sums = [np.zeros(s.initial.size, np.float64) for s in self._stretches]
        self._weight, self._lengths = 0.0, list[Lengths]()
        self._usual = [float(state.scalars.get(_usual(s), 0.0)) for s in self._stretches]

    @property
    def unknown(self) -> bool:
        """Whether it cannot be told yet what is usual of a stretch that is bounded."""
        return bool(self._factor) and not all(self._usual)

    def seen(self, parts: Sequence[Decoded]) -> bool:
        """Note an update's lengths; return whether a stretch of it is longer than it may be."""
        lengths = tuple(map(length_of, parts))
        self._lengths.append(lengths)
        bounds = zip(lengths, self._usual, strict=True)
        return bool(self._factor) and any(length > self._factor * usual for length, usual in bounds)

    def settle(self) -> None:
        """Take what was seen so far into what is usual."""
        if self._lengths:
            medians = [median_of(list(one)) for one in zip(*self._lengths, strict=True)]
            self._usual = [max(pair) for pair in zip(self._usual, medians, strict=True)]

    def add(self, parts: Sequence[Decoded], weight: float) -> float:
        """Add an update's stretches, cut to the usual where they are too long.

        Returns how many times as long as usual the longest was that was cut, or 0.
        """
        cut = 0.0
        for total, part, usual in zip(self._sums, parts, self._usual, strict=True):
            length = length_of(part)
            if usual and self._factor and length > self._factor * usual:
                part = replace(part, values=client.clip(part.values, usual))
                cut = max(cut, length / usual)
            part.add_to(total, weight)
        self._weight += weight
        return cut

    def finish(self, state: ServerState) -> ServerState:
        """Return `state` with the extras after the round."""
        if not self._stretches or not self._weight:
            return state
        self.settle()
        moves = [
            total / (self._sites if stretch.per_site else self._weight)
            for stretch, total in zip(self._stretches, self._sums, strict=True)
        ]
        after = (state.arrays["extras"] + np.concatenate(moves)).astype(np.float32)
        sizes = [stretch.initial.size for stretch in self._stretches]
        for stretch, values in zip(self._stretches, pieces_of(after, sizes), strict=True):
            if stretch.least is not None:
                np.maximum(values, stretch.least, out=values)
        usual = {_usual(s): u for s, u in zip(self._stretches, self._usual, strict=True)}
        return state.having(extras=after, **usual)


def _usual(stretch: Stretch) -> str:
    return f"usual {stretch.name}"


def length_of(update: Decoded) -> float:
    """Return the L2 norm of an update's values."""
    return float(np.sqrt(np.square(update.values, dtype=np.float64).sum()))
