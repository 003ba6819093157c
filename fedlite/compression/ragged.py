"""Many sets of coordinates written or read at once, each in the bytes that `positions` writes.

The sets lie one after the other in one array, and each step of the code is taken for all of them
together. Of the small sets of many small sites that saves what the calls themselves cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import positions
from fedlite.compression.positions import Indices

Counts = NDArray[np.int64]

# From so many indices on a divisor is chosen by a sample of them, and calls cost little.
_LARGE = 2**14


def encode(indices: Indices, counts: Counts, sizes: Counts) -> list[bytes]:
    """Return the bytes of each set.

    Args:
        indices: int32 or int64, those of all sets, one set after the other; each strictly
            increasing from 0 on and below its size. Whoever has selected them knows that.
        counts: int64[t], how many belong to each set; their sum is that of the indices.
        sizes: int64[t], among how many coordinates each set is, below 2**28.

    >>> encode(np.array([3, 14, 15, 92, 0]), np.array([4, 0, 1]), np.array([100, 7, 1]))[0].hex()
    '0831a887'
    """
    found = [b""] * counts.size
    coded = (counts > 0) & (counts < sizes)
    for at in np.flatnonzero(coded & (counts >= _LARGE)).tolist():
        begin = int(counts[:at].sum())
        mine: Indices = indices[begin : begin + int(counts[at])]
        found[at] = positions.encode(mine, int(sizes[at]))
    small = coded & (counts < _LARGE)
    if not small.all():
        indices = indices[np.repeat(small, counts)]
    if indices.size:
        written = _encode(indices.astype(np.int32), counts[small], sizes[small])
        for at, data in zip(np.flatnonzero(small).tolist(), written, strict=True):
            found[at] = data
    return found


def decode(data: Sequence[bytes | memoryview], counts: Counts, sizes: Counts) -> NDArray[np.int32]:
    """Return the indices that `data` holds, those of all sets, one set after the other.

    Args:
        data: the bytes of each set, which may be hostile.
        counts: int64[t], how many indices are in each; memory is bounded by them and by `sizes`.
        sizes: int64[t], among how many coordinates each set is.

    Raises:
        ValueError: for one of them `positions.decode` would raise it; that says of which, and why.

    >>> decode([bytes.fromhex("0831a887"), b""], np.array([4, 1]), np.array([100, 1])).tolist()
    [3, 14, 15, 92, 0]
    """
    coded = (counts > 0) & (counts < sizes) & (counts < _LARGE)
    found = np.empty(int(counts.sum()), np.int32)
    ends = np.cumsum(counts)
    for at in np.flatnonzero(~coded).tolist():
        mine = positions.decode(data[at], int(sizes[at]), int(counts[at]))
        found[ends[at] - counts[at] : ends[at]] = mine
    if coded.any():
        some = [data[at] for at in np.flatnonzero(coded).tolist()]
        into = np.flatnonzero(np.repeat(coded, counts)) if not coded.all() else slice(None)
        found[into] = _decode(some, counts[coded], sizes[coded])
    return found


def _decode(data: Sequence[bytes | memoryview], counts: Counts, sizes: Counts) -> NDArray[np.int32]:
    """Read sets of which none is empty, full or large."""
    lengths = np.array([len(one) for one in data])
    limits = [positions.limit(*pair) for pair in zip(sizes.tolist(), counts.tolist(), strict=True)]
    _require((lengths > 1) & (lengths <= limits))
    modes = np.array([one[0] for one in data], np.int64)
    _require((modes <= 2 * _last(counts, sizes)) & np.array([one[-1] > 0 for one in data]))
    room = 8 * (lengths - 1)
    base = np.cumsum(room) - room
    stream = b"".join([one[1:] for one in data])
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")

    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(counts.size), counts)
    shifts, odd = modes >> 1, modes & 1
    shift, planes = shifts[owner], shifts * counts
    _require(room >= planes + (1 + odd) * counts)
    each = (base - starts)[owner] + np.arange(owner.size)
    digits = np.zeros(owner.size, np.int32)
    third = np.flatnonzero(odd[owner])
    digits[third] = bits[(each + planes[owner])[third]]
    above = np.flatnonzero(digits)
    twos = np.bincount(owner[above], minlength=counts.size)
    unary = planes + odd * (counts + twos)
    _require(room >= unary + counts)
    rank = np.arange(above.size) - (np.cumsum(twos) - twos)[owner[above]]
    digits[above] += bits[(base + planes + counts)[owner[above]] + rank]

    values, count = digits << shift, counts[owner]
    for plane in range(int(shifts.max())):
        inside = np.flatnonzero(shift > plane)
        values[inside] |= bits[each[inside] + plane * count[inside]].astype(np.int32) << plane
    for begin, end in zip(base.tolist(), (base + unary).tolist(), strict=True):
        bits[begin:end] = 0
    ones = np.flatnonzero(bits.view(np.bool_))
    _require(np.diff(np.searchsorted(ones, [*base.tolist(), bits.size])) == counts)
    # Up to each index: the sums of the quotients, and of what is below the divisor.
    quotients = ones - (base + unary - starts)[owner] - np.arange(owner.size)
    divisors = np.where(odd == 1, 3, 1) << shifts
    last = starts + counts - 1
    _require(quotients[last] * divisors < sizes)
    sums = np.cumsum(values + 1, dtype=np.int64)
    found = sums - (sums[starts] - values[starts] - 1)[owner] + quotients * divisors[owner] - 1
    _require(found[last] < sizes)
    indices: NDArray[np.int32] = found.astype(np.int32)
    return indices


def _require(good: NDArray[np.bool_]) -> None:
    if not good.all():
        raise ValueError(f"positions of set {int(np.argmin(good))} are damaged; read it by itself")


def _last(counts: Counts, sizes: Counts) -> Counts:
    """Return half of the largest mode of each set; see `positions._last_mode`."""
    return np.frexp((sizes // counts).astype(np.float64))[1].astype(np.int64)


def _encode(indices: NDArray[np.int32], counts: Counts, sizes: Counts) -> list[bytes]:
    """Write sets of which none is empty, full or large."""
    starts = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(counts.size), counts)
    gaps = indices.copy()
    gaps[1:] -= indices[:-1] + 1
    gaps[starts] = indices[starts]
    modes = _modes(gaps, starts, owner, counts, sizes)

    shifts, odd = modes >> 1, (modes & 1).astype(bool)
    shift = shifts[owner]
    quotients, digits = gaps >> shift, np.zeros(gaps.size, np.int32)
    third = np.flatnonzero(odd[owner])
    high = quotients[third]
    quotients[third] = high // 3
    digits[third] = high - 3 * quotients[third]
    above = np.flatnonzero(digits)
    twos = np.bincount(owner[above], minlength=counts.size)

    planes = shifts * counts
    unary = planes + odd * (counts + twos)
    bits = unary + np.add.reduceat(quotients, starts, dtype=np.int64) + counts
    octets = (bits + 7) >> 3
    begins = np.cumsum(octets) - octets
    stream = np.zeros(8 * int(octets.sum()), np.uint8)
    # Where a set's first bit is, and from there the bit of each of its indices.
    base = 8 * begins
    each = (base - starts)[owner] + np.arange(gaps.size)
    count = counts[owner]
    for plane in range(int(shifts.max())):
        set_ = np.flatnonzero((gaps >> plane) & (shift > plane))
        stream[each[set_] + plane * count[set_]] = 1
    stream[each[above] + planes[owner[above]]] = 1
    rank = np.arange(above.size) - (np.cumsum(twos) - twos)[owner[above]]
    two = np.flatnonzero(digits[above] == 2)
    mine = owner[above[two]]
    stream[(base + planes + counts)[mine] + rank[two]] = 1
    ends = np.cumsum(quotients + 1, dtype=np.int64)
    before = ends[starts] - quotients[starts] - 1
    stream[(base + unary - before)[owner] + ends - 1] = 1

    packed = np.packbits(stream, bitorder="little").tobytes()
    pairs = zip(modes.tolist(), begins.tolist(), (begins + octets).tolist(), strict=True)
    return [bytes([mode]) + packed[begin:end] for mode, begin, end in pairs]


def _modes(
    gaps: NDArray[np.int32],
    starts: Counts,
    owner: NDArray[np.int64],
    counts: Counts,
    sizes: Counts,
) -> Counts:
    """Return the mode of each set, as `positions.encode` chooses it."""
    last = _last(counts, sizes)
    sets, shifts = np.arange(counts.size), np.arange(int(last.max()) + 1)
    sums = [np.add.reduceat(gaps >> shift, starts, dtype=np.int64) for shift in shifts.tolist()]
    lengths = counts * (shifts[:, None] + 1) + np.stack(sums)

    best = np.maximum(0, last - 2)
    shortest = lengths[best, sets]
    for step in (-1, 1):
        going = np.ones(counts.size, bool)
        while going.any():
            other = best + step
            going &= (other >= 0) & (other <= last)
            found = lengths[np.where(going, other, best), sets]
            going &= found < shortest
            best, shortest = np.where(going, other, best), np.where(going, found, shortest)

    modes = 2 * best
    for mode in (2 * best - 3, 2 * best - 1, 2 * best + 1):
        able = (mode > 0) & (mode <= 2 * last)
        shift = np.where(able, mode >> 1, 0)
        high = gaps >> shift[owner]
        quotients = high // 3
        bits = counts * (shift + 2) + np.add.reduceat(quotients, starts, dtype=np.int64)
        bits += np.add.reduceat(high != 3 * quotients, starts, dtype=np.int64)
        better = able & (bits < shortest)
        modes, shortest = np.where(better, mode, modes), np.where(better, bits, shortest)

    most = counts * (shifts[:, None] + 1) + ((sizes - counts) >> shifts[:, None])
    most = np.where(shifts[:, None] <= last, most, np.iinfo(np.int64).max)
    safest = most.argmin(axis=0)
    return np.where(shortest > most[safest, sets], 2 * safest, modes)
