"""What a site tells of its calibration records: disjoint counts, and their bytes.

A record is harmed, or gains where that is asked for, or neither, and leaves early from one
threshold of a public grid on: that is its cell, and a site tells how many records are in each. So
what is told cannot have more harmed than counted, or fewer at a looser threshold, but by a negative
count; and one record more changes one cell by one. Classes are not told apart: no threshold depends
on them, and a site's labels are its own affair.

Under noise the grid has a tenth of the thresholds: each cell adds noise to all looser ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.frame import HEADER_BYTES, disclosed_records
from fedlite.inference.calibration import GRID, Counts

Integers = NDArray[np.int64]

CODEC = 14
"""The number, in a frame, of a body that holds counts."""

COARSE: NDArray[np.float64] = np.array(
    [0.999, 0.995, 0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.0]
)
COARSE.setflags(write=False)

MOST_RECORDS = 100_000_000

_HEAD = struct.Struct("<BH")
# Noise beyond so many deviations comes less than once in 10^18 times.
_FARTHEST = 9.0


@dataclass(frozen=True)
class Cells:
    """The counts of one site, or of several together.

    counts: int64 [2 or 3, thresholds], those that neither are harmed nor counted as a gain, those
    that are harmed, and where a loss is promised those that gain; a column holds the records that
    leave early at that threshold of `grid` and at no stricter one. noise: the
    noise multiplier of each count, in records; 0: the counts are exact.
    """

    counts: Integers
    noise: float = 0.0

    @property
    def grid(self) -> NDArray[np.float64]:
        """The thresholds, the strictest first."""
        return COARSE if self.noise else GRID

    @property
    def total(self) -> int:
        """How many records were counted; under noise about."""
        return int(self.counts.sum())

    @property
    def harm(self) -> Integers:
        """How many are harmed where the threshold is that of the grid, int64 [thresholds]."""
        found: Integers = self.counts[1].cumsum()
        return found

    @property
    def shallow(self) -> Integers:
        """How many leave early where the threshold is that of the grid, int64 [thresholds]."""
        found: Integers = self.counts.sum(axis=0).cumsum()
        return found

    def plain(self) -> Counts:
        """Return exact counts as calibration takes them, all classes together."""
        if self.noise:
            raise ValueError("counts: must be exact, and have noise; choose by `noisy` instead")
        gain = self.counts[2].cumsum() if len(self.counts) == 3 else np.zeros_like(self.harm)
        total = np.array([self.total])
        return Counts(total, self.harm[None], self.shallow[None], gain[None])


def kinds(risk: str) -> int:
    """Return how many kinds of records are told apart where a promise is of `risk`.

    No more than the promise needs: those that gain only where a loss is promised.
    """
    return 3 if risk == "loss" else 2


def cells_of(counts: Counts, risk: str = "harm") -> Cells:
    """Return the cells of exact counts. risk: a name in `fedlite.inference.calibration.RISKS`.

    >>> one, none = np.ones((1, len(GRID)), np.int64), np.zeros((1, len(GRID)), np.int64)
    >>> cells_of(Counts(np.array([1]), one, one, none)).counts[:, :2].tolist()
    [[0, 0], [1, 0]]
    """
    harm, shallow, gain = (of.sum(axis=0) for of in (counts.harm, counts.shallow, counts.gain))
    rows = [shallow - harm, harm] if kinds(risk) == 2 else [shallow - harm - gain, harm, gain]
    return Cells(np.diff(np.stack(rows), prepend=0))


def coarser(cells: Cells) -> Integers:
    """Return exact counts on the grid that is used under noise, int64 [2, len(COARSE)].

    A record is in the cell of the strictest threshold there that it reaches.
    """
    place = np.searchsorted(-COARSE, -GRID, side="left")
    found = np.zeros((2, len(COARSE)), np.int64)
    np.add.at(found.T, place, cells.counts.T)
    return found


def together(parts: Iterable[Cells]) -> Cells:
    """Return the sum of several sites' counts; there must be one at least, all on one grid."""
    every = list(parts)
    return Cells(np.sum([part.counts for part in every], axis=0), every[0].noise)


def length(noise: float, risk: str = "harm") -> int:
    """Return how many bytes the counts of a site are, exact (0) or with noise."""
    return _HEAD.size + 4 * kinds(risk) * len(COARSE if noise else GRID)


def encode(cells: Cells) -> bytes:
    """Return the bytes: whether there is noise (u8), thresholds (u16), the counts (i32).

    Raises ValueError for a count that 32 bits do not hold.
    """
    bounds = np.iinfo(np.int32)
    if (
        cells.counts.size
        and not bounds.min <= cells.counts.min() <= cells.counts.max() <= bounds.max
    ):
        raise ValueError(
            f"counts: must be from {bounds.min} to {bounds.max} (rule: each has 32 bits), got "
            f"{cells.counts.min()} to {cells.counts.max()}; count fewer records"
        )
    head = _HEAD.pack(bool(cells.noise), cells.counts.shape[1])
    return head + cells.counts.astype("<i4").tobytes()


def check(frame: bytes, noise: float, risk: str = "harm") -> None:
    """Raise ValueError unless a frame is, by its header and body, one of counts.

    What it is bound to is for whoever asked to check.
    """
    if len(frame) != HEADER_BYTES + length(noise, risk):
        raise ValueError(
            f"frame: must be {HEADER_BYTES + length(noise, risk)} bytes of counts, got {len(frame)}"
        )
    if frame[3] != CODEC or disclosed_records(frame):
        raise ValueError(f"frame: must have codec {CODEC} and disclose no records")
    decode(frame[HEADER_BYTES:], noise, risk)


def decode(body: bytes, noise: float, risk: str = "harm") -> Cells:
    """Return the counts that a site tells, where `noise` is what its plan says.

    Raises ValueError for another length or grid, and for counts that no site can have: negative
    ones, under noise those that no noise makes, and more than 100 million records.
    """
    if len(body) != length(noise, risk):
        raise ValueError(f"counts: must be {length(noise, risk)} bytes, got {len(body)}")
    told, thresholds = _HEAD.unpack_from(body)
    wanted = len(COARSE if noise else GRID)
    if told != bool(noise) or thresholds != wanted:
        raise ValueError(
            f"counts: must be of {wanted} thresholds, with noise {bool(noise)}, got {thresholds} "
            f"with {bool(told)}"
        )
    counts = np.frombuffer(body, "<i4", offset=_HEAD.size).astype(np.int64).reshape(-1, wanted)
    least = -int(np.ceil(_FARTHEST * noise)) - 1 if noise else 0
    if counts.min() < least:
        raise ValueError(f"counts: must be at least {least}, got {counts.min()}")
    cells = Cells(counts, noise)
    if cells.total > MOST_RECORDS:
        raise ValueError(f"counts: must be of {MOST_RECORDS} records at most, got {cells.total}")
    return cells
