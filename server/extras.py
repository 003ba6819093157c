"""What travels behind the model in a round's updates: bounded, added up, and taken on.

A strategy never sees it. How long a stretch of an update may be is bounded as an update is whose
length is not known beforehand (`server.lengths`): by `federation.outlier_factor`, each stretch by
itself, whatever `federation.update_norm` says of the model's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import Decoded, Stretch, pieces_of
from fedlite.privacy import client
from server.lengths import median_of
from strategies import ServerState

Lengths = tuple[float, ...]
# By name, the stretch that a bounded part belongs to and which of its values that is; None: all.
_Parts = dict[str, tuple[int, NDArray[np.bool_] | None]]


class Extras:
    """The stretches behind the model, summed over a round's updates.

    sites: `federation.sites`. factor: how many times as long as usual a stretch may be, 0 for any
    length; where some of its values are of another unit, these and the rest each by themselves.
    Usual is the largest median of a round so far; the state keeps it by the stretch's name.
    """

    def __init__(self, stretches: Sequence[Stretch], *, sites: int, factor: float) -> None:
        """Keep what they are; call `start` before the first update."""
        self._stretches, self._sites, self._factor = tuple(stretches), sites, factor
        self._parts: _Parts = {}
        for at, stretch in enumerate(self._stretches):
            apart = stretch.apart if stretch.apart is not None and stretch.apart.any() else None
            self._parts[f"usual {stretch.name}"] = at, None if apart is None else ~apart
            if apart is not None:
                self._parts[f"usual {stretch.name}, apart"] = at, apart

    def start(self, state: ServerState) -> None:
        """Begin a round after `state`, with empty sums."""
        self._sums = [np.zeros(s.initial.size, np.float64) for s in self._stretches]
        self._weight, self._lengths = 0.0, list[Lengths]()
        self._usual = [float(state.scalars.get(name, 0.0)) for name in self._parts]

    @property
    def unknown(self) -> bool:
        """Whether it cannot be told yet what is usual of a stretch that is bounded."""
        return bool(self._factor) and not all(self._usual)

    def seen(self, parts: Sequence[Decoded]) -> bool:
        """Note an update's lengths; return whether a stretch of it is longer than it may be."""
        lengths = tuple(length_of(parts[at], which) for at, which in self._parts.values())
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
        cut, bounded = 0.0, list(parts)
        for (at, which), usual in zip(self._parts.values(), self._usual, strict=True):
            length = length_of(bounded[at], which)
            if usual and self._factor and length > self._factor * usual:
                bounded[at] = _cut(bounded[at], which, usual)
                cut = max(cut, length / usual)
        for total, part in zip(self._sums, bounded, strict=True):
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
        usual = dict(zip(self._parts, self._usual, strict=True))
        return state.having(extras=after, **usual)


def length_of(update: Decoded, which: NDArray[np.bool_] | None = None) -> float:
    """Return the L2 norm of an update's values, or of those at the coordinates `which`."""
    values = update.values if which is None else update.values[_sent(update, which)]
    return float(np.sqrt(np.square(values, dtype=np.float64).sum()))


def _sent(update: Decoded, which: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of an update's values are those of the coordinates `which`."""
    return which if update.indices is None else which[update.indices]


def _cut(update: Decoded, which: NDArray[np.bool_] | None, norm: float) -> Decoded:
    """Return an update whose values, or those at the coordinates `which`, have that L2 norm."""
    if which is None:
        return replace(update, values=client.clip(update.values, norm))
    values, chosen = update.values.copy(), _sent(update, which)
    values[chosen] = client.clip(values[chosen], norm)
    return replace(update, values=values)
