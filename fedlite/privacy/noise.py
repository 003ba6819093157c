"""Privacy noise: cryptographic bits, a discrete Gaussian on a fine grid, a release on a coarse one.

A release is `round(total + noise)` in three steps, all in integers once the sum has been rounded:

1. The clean sum is rounded to multiples of the *fine cell*, `noise_std / SPREAD`. That moves the
   difference of two adjacent sums by at most one cell a coordinate, which the mechanism takes off
   its clip (`fedlite.privacy.mechanism.clip_bound`).
2. A discrete Gaussian of standard deviation SPREAD cells is added to every coordinate.
3. The result is rounded to multiples of `grid(noise_std)`, 2^11 fine cells: post-processing.

Why it costs what the Gaussian mechanism costs. Let D(s) be the discrete Gaussian on the integers
with weights exp(-k^2 / 2 s^2). For integers A, independent X ~ D(s), Y ~ D(t), and any k,

    P[A X + Y = k] ~ exp(-k^2 / 2 (A^2 s^2 + t^2)) sum_j exp(-(j - c_k)^2 / 2 r^2),
    r = s t / sqrt(A^2 s^2 + t^2),

and by Poisson summation the last sum is the same for all k up to a factor within 1 +- e,
e <= 2.1 exp(-2 pi^2 r^2) (Micciancio and Walter 2017; Peikert 2010, theorem 3.1). Here s = t = 2048
and A = 819, so r > 2.5 and e < 2^-176: two draws make one of D(SPREAD), and in the same way
D(SPREAD) shifted by any integer is, up to such a factor, what rounding the *continuous* Gaussian of
variance SPREAD^2 - 6.25 at random yields. So a release is post-processing of the Gaussian mechanism
with a noise multiplier that is smaller by a factor 1 - 2^-39, whatever the dimension, the sampling
or the adaptivity of steps, and every accountant for that mechanism bounds it; the factor is part of
what `clip_bound` takes off. The table's own distance from D(2048) is at most 2^-170 a draw in total
variation, so a run of 2^50 draws adds less than 2^-119 (1 + e^epsilon) to delta: less than the
rounding of a float64 to any delta above 1e-15.

What remains assumed: AES-256 in counter mode is a pseudo-random generator, the operating system's
key is secret, and one record more changes the sum by its own clipped gradient and by no more than
the rounding of float64 (`fedlite.privacy.gradients` on why the others' stay the same to the bit).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedlite.privacy.grid import COARSE_BITS, RADIX, TABLE_STD, fine_cell, grid

Integers = NDArray[np.int64]

# A sum beyond 2^30 standard deviations of its noise would not be exact in float64 fine cells.
_MOST_CELLS = 2.0**51

# A 32-bit word picks a column of the table and the first bits of a threshold; the rest of the
# threshold decides ties.
_COLUMN_BITS = _FIRST_BITS = 16
_LOW = 2**16 - 1
_COLUMNS = 2**_COLUMN_BITS
_CENTRE = _COLUMNS // 2
_LAST_BYTES = 20
_LAST_BITS = 8 * _LAST_BYTES
_PRECISION = 320
# Coordinates that are noised at a time: they lie in a processor's near memory beside the table.
_NEAR = 2**13


class Stream:
    """Bits that nobody without the key can tell from random: AES-256 in counter mode.

    A stream belongs to one round of one site, in one process: a copy of it would repeat the noise,
    so that it can't be pickled and draws nothing after a fork.

    >>> stream = Stream.fresh()
    >>> stream.words(2).dtype, stream.gaussians(3).shape
    (dtype('uint64'), (3,))
    """

    def __init__(self, key: bytes) -> None:
        """Take a key of 32 bytes that is used for no other stream."""
        self._encryptor: Any = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    @classmethod
    def fresh(cls) -> Stream:
        """Return a stream keyed by the operating system: for every release that claims privacy."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def seeded(cls, *keys: int | str) -> Stream:
        """Return the stream that `keys` name: repeatable, so it protects nothing."""
        return cls(hashlib.sha256(json.dumps(["fedlite-simulated-noise", *keys]).encode()).digest())

    def _bytes(self, count: int) -> bytes:
        if os.getpid() != self._process:
            raise RuntimeError("stream: must be used in the process that made it; make a fresh one")
        found: bytes = self._encryptor.update(bytes(count))
        return found

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return `count` uniform 64-bit words."""
        return np.frombuffer(self._bytes(8 * count), "<u8")

    def gaussians(self, count: int) -> Integers:
        """Return `count` draws of the discrete Gaussian of standard deviation SPREAD, int64."""
        found: Integers = gaussians([self], count)[0]
        return found


def gaussians(streams: Sequence[Stream], count: int) -> Integers:
    """Return what `Stream.gaussians` draws from each of several streams, int64 [streams, count]."""
    drawn = _draws(streams, 2 * count)
    # Less than 2^26, as yet.
    found = drawn[:, :count] * np.uint32(RADIX)
    found += drawn[:, count:]
    noise = found.astype(np.int64)
    noise -= _CENTRE * (RADIX + 1)
    return noise


def _draws(streams: Sequence[Stream], count: int) -> NDArray[np.uint32]:
    """Return draws of D(2048), shifted by the centre: Walker's alias method (Vose 1991).

    Each row is of one stream's bits alone, and the same whatever streams stand beside it.
    """
    table = _table()
    # One draw more than is asked for, on which to do a tie's work when there are few: it takes
    # long enough to be timed, and far from the centre there are no draws but by a tie.
    bits = b"".join(stream._bytes(4 * (count + 1)) for stream in streams)
    words = np.frombuffer(bits, "<u4").reshape(len(streams), count + 1)
    # One lookup for both halves of an entry: this line is most of the time of all noise.
    entries = table.entries[(words & _LOW).astype(np.intp)]
    # Of words the upper half decides, unless the two are the same.
    found = np.minimum(words, entries)
    found &= _LOW
    even = np.bitwise_xor(words, entries, out=entries)
    even >>= _FIRST_BITS
    # More than these come less than once in 2^40 times.
    mean = count / 2**_FIRST_BITS
    least = math.ceil(mean + 8.0 * math.sqrt(mean) + 16.0)
    ties: list[list[int]] = [[] for _ in streams]
    for at in np.flatnonzero(even == 0).tolist():
        ties[at // (count + 1)].append(at % (count + 1))
    for stream, row, word, tied in zip(streams, found, words, ties, strict=True):
        places = [*tied, *[count] * (least - len(tied))]
        last = stream._bytes(_LAST_BYTES * len(places))
        row[places] = [
            column
            if int.from_bytes(last[at : at + _LAST_BYTES], "little") < table.last[column]
            else table.aliases[column]
            for at, column in zip(
                range(0, len(last), _LAST_BYTES), (word[places] & _LOW).tolist(), strict=True
            )
        ]
    drawn: NDArray[np.uint32] = found[:, :count]
    return drawn


@dataclass(frozen=True)
class _Table:
    """Columns of equal mass: column c stands for c below its threshold and for its alias above.

    entries: uint32 [columns], the alias in the lower half, the threshold's leading 16 bits in the
    upper. aliases: the lower halves. last: the threshold's other 160 bits.
    """

    entries: NDArray[np.uint32]
    aliases: tuple[int, ...]
    last: tuple[int, ...]


def weights() -> list[int]:
    """Return D(2048) on -32768..32767 as integers whose sum is 2^192; the tail is cut off.

    By integer arithmetic alone. Each is within one of the exact mass but the middle one, which
    takes what rounding leaves over; the tail beyond holds less than 2^-180.
    """
    one = 1 << _PRECISION
    # exp(-1 / 2 s^2) by its series; then exp(-k^2 / 2 s^2) by two multiplications a value, because
    # its logarithm is quadratic in k.
    base, term, order = one, one, 0
    while term:
        order += 1
        term //= 2 * TABLE_STD**2 * order
        base += (-1) ** order * term
    square = base * base >> _PRECISION
    half, factor = [one], base
    for _ in range(_CENTRE - 1):
        half.append(half[-1] * factor >> _PRECISION)
        factor = factor * square >> _PRECISION
    total = 2 * sum(half) - half[0]
    mass = _COLUMNS << (_FIRST_BITS + _LAST_BITS)
    scaled = [value * mass // total for value in half]
    found = [0, *scaled[:0:-1], *scaled]
    found[_CENTRE] += mass - sum(found)
    return found


@lru_cache(maxsize=1)
def _table() -> _Table:
    left = weights()
    column = sum(left) // _COLUMNS
    alias = list(range(_COLUMNS))
    small = [c for c in range(_COLUMNS) if left[c] < column]
    large = [c for c in range(_COLUMNS) if left[c] >= column]
    while small:
        poor, rich = small.pop(), large[-1]
        alias[poor] = rich
        left[rich] -= column - left[poor]
        if left[rich] < column:
            small.append(large.pop())
    # Columns that keep all their mass are their own alias, so their threshold does not matter.
    for rest in large:
        left[rest] = 0
    first = np.array([value >> _LAST_BITS for value in left], np.uint32)
    entries = np.array(alias, np.uint32)
    entries |= first << np.uint32(_FIRST_BITS)
    return _Table(entries, tuple(alias), tuple(value & ((1 << _LAST_BITS) - 1) for value in left))


def release(total: NDArray[np.float64], noise_std: float, stream: Stream) -> NDArray[np.float64]:
    """Return `total` plus Gaussian noise on every coordinate, on the public grid.

    total: float64 [n], what adjacent data sets move by at most the mechanism's clip bound.
    noise_std: greater than 0, in the units of `total`. The result is float64 [n], whole multiples
    of `grid(noise_std)`. A coordinate beyond 2^30 noise_std is cut to that, which no sum of clipped
    contributions of a sane number reaches and which moves no two sums apart.

    Raises ValueError when a coordinate is not a number, or `noise_std` is out of range.
    """
    _check_noised(total, noise_std)
    return _released(total, stream.gaussians(total.size), noise_std)


def releases(
    totals: NDArray[np.float64], noise_std: float, streams: Sequence[Stream]
) -> NDArray[np.float64]:
    """Return what `release` makes of each of several sums with its own stream, float64 [g, n].

    totals: float64 [g, n]. Raises ValueError as `release` does, and then releases none of them.
    """
    _check_noised(totals, noise_std)
    found, size = np.empty_like(totals), totals.shape[1]
    few = max(1, _NEAR // max(1, size))
    for at in range(0, len(streams), few):
        some = slice(at, at + few)
        found[some] = _released(totals[some], gaussians(streams[some], size), noise_std)
    return found


def _check_noised(totals: NDArray[np.float64], noise_std: float) -> None:
    if not (math.isfinite(noise_std) and fine_cell(noise_std) > 1e-300):
        raise ValueError(f"noise_std: must be finite and greater than 0, got {noise_std!r}")
    if np.isnan(totals).any():
        raise ValueError("total: every coordinate must be a number, got NaN; see the model")


def _released(
    totals: NDArray[np.float64], noise: Integers, noise_std: float
) -> NDArray[np.float64]:
    cells = np.divide(totals, fine_cell(noise_std))
    np.clip(cells, -_MOST_CELLS, _MOST_CELLS, out=cells)
    np.rint(cells, out=cells)
    noise += cells.astype(np.int64)
    noise += 2 ** (COARSE_BITS - 1)
    noise >>= COARSE_BITS
    return noise.astype(np.float64) * np.float64(grid(noise_std))
