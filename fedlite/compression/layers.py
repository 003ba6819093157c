"""The positions of a selected set, layer by layer where that is shorter.

Which coordinates are large depends on the layer: a head's biases are selected ten times as often
as a wide convolution's weights. Both ends know where layers begin, so each may be coded by itself,
with a count and a divisor of its own; nothing has to be remembered for that. On real updates of
a small network it saves 8 to 22 % of the positions' bytes (docs/benchmarks.md).

Layout: an unsigned LEB128 number, twice the bytes that follow and 1 more if they are split by
layer. Not split: the set as `positions` writes it. Split: the counts of all layers but the last,
LEB128; the bytes of all layers but the last, LEB128; the layers' sets, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import positions, ragged
from fedlite.compression.positions import Indices

# Split positions are written out if they promise at most this share of the whole set's bytes: sets
# that are not random, and thirds, may be shorter than promised.
_HOPE = 1.05
# A tensor that is smaller than this part of the model joins the one before it.
_PART = 128


def ends(sections: tuple[int, ...], size: int) -> NDArray[np.int64]:
    """Return int64[t], where each of the t tensors ends; arguments and errors as in `begins`."""
    found = np.cumsum(sections or (size,), dtype=np.int64)
    if found[-1] != size:
        raise ValueError(
            f"sections must add up to the vector's {size} values, got {found[-1]}; "
            "pass the sizes of the model's own tensors"
        )
    return found


def begins(sections: tuple[int, ...], size: int) -> list[int]:
    """Return where layers begin: a tensor with the smaller ones that follow it is a layer.

    Args:
        sections: sizes of the model's tensors, in their order; empty stands for one tensor.
        size: their sum.

    Raises:
        ValueError: the sizes do not add up to `size`.

    >>> begins((144, 16, 4608, 32), 4800), begins((), 7)
    ([0, 160], [0])
    """
    given = np.array(sections or (size,), dtype=np.int64)
    starts = ends(sections, size) - given
    return sorted({0, *(int(start) for start in starts[given * _PART >= max(1, size)])})


def encode(indices: Indices, size: int, starts: list[int]) -> bytes:
    """Return the bytes for strictly increasing indices below `size`, with their length before them.

    starts: where layers begin, ascending, from 0; all below `size` unless that is 0.

    >>> encode(np.array([3, 14, 15, 92]), 100, [0]).hex()
    '080831a887'
    """
    whole = positions.encode(indices, size)
    best, flag = whole, 0
    if len(starts) > 1 and indices.size:
        edges = np.searchsorted(indices, [*starts, size])
        # A set takes some 50 microseconds to write: not for each of many small layers in vain.
        if _expected(np.diff(edges), np.diff([*starts, size])) < _HOPE * len(whole):
            split = _encode_split(indices, size, starts, edges)
            if len(split) < len(whole):
                best, flag = split, 1
    return varint(2 * len(best) + flag) + best


def encode_many(indices: NDArray[np.int32], size: int, starts: list[int]) -> list[bytes]:
    """Return what `encode` returns for each row of int32[m, count], whose indices ascend.

    >>> rows = np.array([[3, 14, 15, 92], [0, 1, 2, 3]], dtype=np.int32)
    >>> [row.hex() for row in encode_many(rows, 100, [0])]
    ['080831a887', '04000f']
    """
    many, count = indices.shape
    wholes = ragged.encode(
        indices.reshape(-1), np.full(many, count), np.full(many, size, dtype=np.int64)
    )
    best = [(whole, 0) for whole in wholes]
    if len(starts) > 1 and count:
        begins, sizes = np.array(starts), np.diff([*starts, size])
        # Row after row they ascend, so one search finds the layers of all.
        rows = np.arange(many)[:, None] * size
        edges = np.searchsorted((indices + rows).reshape(-1), rows + np.array([*starts, size]))
        counts = np.diff(edges)
        lengths = np.array([len(whole) for whole in wholes])
        hopeful = np.flatnonzero(_expected(counts, sizes) < _HOPE * lengths)
        chosen = counts[hopeful]
        inside = indices[hopeful].reshape(-1) - np.repeat(
            np.tile(begins, hopeful.size), chosen.reshape(-1)
        )
        sets = ragged.encode(inside, chosen.reshape(-1), np.tile(sizes, hopeful.size))
        for at, row in enumerate(hopeful.tolist()):
            mine = sets[at * len(starts) : (at + 1) * len(starts)]
            split = _joined(chosen[at], mine)
            if len(split) < len(best[row][0]):
                best[row] = split, 1
    return [varint(2 * len(data) + flag) + data for data, flag in best]


def decode(
    data: memoryview, size: int, count: int, starts: list[int]
) -> tuple[NDArray[np.int32], int]:
    """Return int32[count] and the bytes consumed at the start of a possibly hostile `data`.

    Raises:
        ValueError: it is not what `encode` writes for `count` of `size` in these layers.
    """
    sets, used = _sets(data, size, count, starts)
    indices = np.empty(count, dtype=np.int32)
    done = 0
    for part, many, start, stop in sets:
        np.add(positions.decode(part, stop - start, many), start, out=indices[done : done + many])
        done += many
    return indices, used


def decode_many(
    data: Sequence[memoryview], size: int, count: int, starts: list[int]
) -> tuple[NDArray[np.int32], list[int]]:
    """Return what `decode` does of each: int32[m, count], and the bytes consumed.

    Raises:
        ValueError: one of them is not what `encode` writes; `decode` says of which, and why.
    """
    opened = [_sets(one, size, count, starts) for one in data]
    parts, many, begins, stops = zip(*(one for sets, _ in opened for one in sets), strict=True)
    counts, offsets = np.array(many), np.array(begins)
    indices = ragged.decode(parts, counts, np.array(stops) - offsets)
    indices += np.repeat(offsets, counts).astype(np.int32)
    return indices.reshape(len(data), count), [used for _, used in opened]


def _sets(
    data: memoryview, size: int, count: int, starts: list[int]
) -> tuple[list[tuple[memoryview, int, int, int]], int]:
    """Return the sets in `data`, not yet read, and the bytes consumed; ValueError as `decode`.

    Of each: its bytes, how many indices it has, and where the coordinates begin and end that it is
    of.
    """
    number, used = read_varint(data)
    length, split = divmod(number, 2)
    if length > len(data) - used or length > positions.limit(size, count):
        raise ValueError(
            f"positions must take at most {positions.limit(size, count)} bytes, all of which are "
            f"there; got {length}, with {len(data) - used} left"
        )
    part = data[used : used + length]
    used += length
    if not split:
        return [(part, count, 0, size)], used
    if len(starts) < 2:
        raise ValueError("positions must not be split by layers, as there is one layer only")
    return _split(part, size, count, starts), used


def limit(size: int, count: int) -> int:
    """Return the most bytes that `encode` writes for any `count` out of `size`, however layered."""
    most = positions.limit(size, count)
    return len(varint(2 * most + 1)) + most


def _expected(counts: NDArray[np.int64], sizes: NDArray[np.int64]) -> Any:
    """Return about how many bytes split positions take, if each layer's gaps are geometric.

    Of gaps with the ratio q, a divisor m = 2**s takes s + 1 bits and a mean of
    q**m / (1 - q**m); a count, a length and a mode take at least a byte each.

    counts: int64[..., l], of one or of many vectors. sizes: int64[l].
    """
    some = (counts > 0) & (counts < sizes)
    k = counts[some][:, None]
    ratio = 1.0 - k / np.broadcast_to(sizes, counts.shape)[some][:, None]
    shift = np.arange(28)
    power = ratio ** np.exp2(shift)
    bits = (k * (shift + 1 + power / (1.0 - power))).min(axis=1, initial=np.inf)
    octets = np.zeros(counts.shape)
    octets[some] = np.ceil(1.0 + bits / 8)
    return 2.0 * (sizes.size - 1) + octets.sum(axis=-1)


def _encode_split(
    indices: Indices, size: int, starts: list[int], edges: NDArray[np.int64]
) -> bytes:
    """Return counts, lengths and sets; edges: where in `indices` each layer begins, and the end."""
    sets = [
        positions.encode(indices[first:last] - start, stop - start)
        for (first, last), (start, stop) in zip(
            pairwise(edges.tolist()), pairwise([*starts, size]), strict=True
        )
    ]
    return _joined(np.diff(edges), sets)


def _joined(counts: NDArray[np.int64], sets: list[bytes]) -> bytes:
    head = b"".join(varint(count) for count in counts[:-1].tolist())
    return head + b"".join(varint(len(part)) for part in sets[:-1]) + b"".join(sets)


def _split(
    data: memoryview, size: int, count: int, starts: list[int]
) -> list[tuple[memoryview, int, int, int]]:
    counts, data = _read(data, len(starts) - 1)
    counts.append(count - sum(counts))
    lengths, data = _read(data, len(starts) - 1)
    lengths.append(len(data) - sum(lengths))
    stops = [*starts[1:], size]
    # No layer holds more than it has, and no set takes more than is there.
    if lengths[-1] < 0 or any(
        not 0 <= c <= stop - start for c, start, stop in zip(counts, starts, stops, strict=True)
    ):
        raise ValueError(
            f"positions by layer must be {count} in number and fit into the layers, "
            f"got {counts} with {lengths} bytes"
        )
    ends = list(accumulate(lengths))
    parts = [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return list(zip(parts, counts, starts, stops, strict=True))


def _read(data: memoryview, many: int) -> tuple[list[int], memoryview]:
    numbers = []
    for _ in range(many):
        number, used = read_varint(data)
        numbers.append(number)
        data = data[used:]
    return numbers, data


def varint(number: int) -> bytes:
    """Return unsigned LEB128: seven bits a byte, lowest first, the top bit set on all but the last.

    >>> varint(0).hex(), varint(300).hex()
    ('00', 'ac02')
    """
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def read_varint(data: memoryview) -> tuple[int, int]:
    """Return the number at the start of `data` and its bytes; only its shortest form is taken.

    Raises:
        ValueError: it does not end within five bytes, or is not in its shortest form.
    """
    number = 0
    for used, byte in enumerate(data[:5], start=1):
        number |= (byte & 127) << (7 * used - 7)
        if byte < 128:
            if used > 1 and byte == 0:
                raise ValueError(f"a length must be in its shortest form, got {number} in {used}")
            return number, used
    raise ValueError(f"a length must end within 5 bytes, got {bytes(data[:5]).hex()!r}; truncated")
