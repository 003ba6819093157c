"""Values as a sign and one of a few magnitudes, which the sender fits to what it sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import positions

_PLAIN, _NESTED = 0, 1
_ITERATIONS = 60


@dataclass(frozen=True)
class Levels:
    """A sign bit, and a magnitude that is one of at most `levels` centroids.

    The centroids are the Lloyd-Max ones of the magnitudes that are sent: each value takes the
    nearest, each centroid is the mean of its values. Which centroid a value has is written as
    nested sets, near the entropy: those of level 1 and more among all, those of level 2 and more
    among these, and so on. Where bit planes are shorter they are written instead.

    Layout: the centroids as float32, not decreasing; one sign bit a value; a mode byte; for mode 0
    the planes of the level numbers, lowest bit first; for mode 1, for every level from 1 on while
    the set before it is not empty, how many values reach it, then, unless these are all or none,
    the length and the bytes of `positions` of the smaller half (those that reach it if they are
    at most half of the set before, else those that do not). A number takes as many bytes as
    `count` needs.

    Source: Lloyd 1982, "Least squares quantization in PCM"; Max 1960, "Quantizing for minimum
    distortion".

    Attributes:
        levels: the most magnitudes, 2 to 16.
        codec: number in the frame of a top-k update, the same for every number of levels.

    Raises:
        ValueError: `levels` is out of range.

    >>> data = Levels(2).encode(np.array([3.0, -1.0, 3.0], dtype=np.float32))
    >>> Levels(2).decode(data, 3)
    (array([ 3., -1.,  3.], dtype=float32), 11)
    """

    levels: int
    codec: int = 5

    def __post_init__(self) -> None:
        """Check the number of levels."""
        if not 2 <= self.levels <= 16:
            raise ValueError(f"levels must be in [2, 16], got {self.levels}; more is fp16's work")

    @property
    def _bits(self) -> int:
        return (self.levels - 1).bit_length()

    def limit(self, count: int, sections: int = 1) -> int:
        """Return the most bytes for `count` values: centroids, signs, mode, and bit planes."""
        if not count:
            return 0
        return 4 * self.levels + _bytes(count) + 1 + _bytes(count * self._bits)

    def encode(self, values: NDArray[np.float32], splits: NDArray[np.int64] | None = None) -> bytes:
        """Return the bytes of float32[count]; nothing for an empty set. `splits` is not used."""
        if values.size == 0:
            return b""
        index, centroids = _lloyd(np.abs(values), self.levels)
        plain = pack_planes(index[None], self._bits).tobytes()
        nested = None if index.size >= positions.SIZES else _encode_nested(index, self.levels)
        short = bytes([_PLAIN]) + plain
        if nested is not None and len(nested) < len(plain):
            short = bytes([_NESTED]) + nested
        signs = np.packbits(values < 0, bitorder="little").tobytes()
        return centroids.astype("<f4").tobytes() + signs + short

    def decode(
        self, data: bytes | memoryview, count: int, splits: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Return float32[count], each plus or minus a centroid, and the bytes consumed."""
        if count == 0:
            return np.empty(0, dtype=np.float32), 0
        view = memoryview(data)
        signs = 4 * self.levels
        mode = signs + _bytes(count)
        if len(view) <= mode:
            raise ValueError(
                f"{count} values of {self.levels} levels take more than {mode} bytes, got "
                f"{len(view)}; it is truncated"
            )
        centroids = np.frombuffer(view, dtype="<f4", count=self.levels).astype(np.float32)
        # The comparisons are false for NaN, so the rule is stated as what must be true.
        rising = bool((centroids[1:] >= centroids[:-1]).all())
        if not (np.isfinite(centroids).all() and centroids[0] >= 0 and rising):
            raise ValueError(
                f"centroids must be finite, 0 or more and not decreasing, got {centroids.tolist()}"
            )
        packed = np.frombuffer(view[signs:mode], dtype=np.uint8)
        negative = unpack_planes(packed[None], 1, count)[0].view(np.bool_)
        rest = view[mode + 1 :]
        if view[mode] == _NESTED:
            index, used = _decode_nested(rest, count, self.levels)
        elif view[mode] == _PLAIN:
            used = _bytes(count * self._bits)
            if len(rest) < used:
                raise ValueError(f"{count} levels take {used} bytes, got {len(rest)}; truncated")
            index = unpack_planes(np.frombuffer(rest[:used], np.uint8)[None], self._bits, count)[0]
            if int(index.max()) >= self.levels:
                raise ValueError(f"level must be below {self.levels}, got {int(index.max())}")
        else:
            raise ValueError(f"levels mode must be 0 or 1, got {view[mode]}")
        values = centroids[index]
        return np.where(negative, -values, values), mode + 1 + used


def pack_planes(index: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return each row of uint8[m, k] as `bits` planes of k bits, the lowest bit of all first.

    Bits run from the lowest of each byte; the last byte of a row is filled with zeros.

    >>> pack_planes(np.array([[1, 2, 3]], dtype=np.uint8), 2)
    array([[53]], dtype=uint8)
    """
    rows, count = index.shape
    planes = np.empty((rows, bits, count), dtype=np.bool_)
    for bit in range(bits):
        np.not_equal(index & np.uint8(1 << bit), 0, out=planes[:, bit])
    return np.packbits(planes.reshape(rows, bits * count), axis=1, bitorder="little")


def unpack_planes(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Return the uint8[m, count] that `pack_planes` wrote; ValueError if a pad bit is set.

    >>> unpack_planes(np.array([[53]], dtype=np.uint8), 2, 3)
    array([[1, 2, 3]], dtype=uint8)
    """
    rows, used = packed.shape[0], bits * count
    if used % 8 and (packed[:, -1] >> (used % 8)).any():
        raise ValueError(f"pad bits after {count} values must be 0")
    flat = np.unpackbits(packed, axis=1, count=used, bitorder="little")
    planes = flat.reshape(rows, bits, count)
    index = planes[:, 0]
    for bit in range(1, bits):
        index |= planes[:, bit] << bit
    return index


def _lloyd(
    magnitudes: NDArray[np.float32], levels: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the level of each of float32[n >= 1], and float32[levels] centroids, not decreasing.

    Works on a histogram over the leading 16 bits, in which values differ by less than 1 in 256:
    its cost hardly depends on n, and the centroids are still means of the values themselves.
    """
    bins = magnitudes.view(np.uint32) >> 15
    counts = np.bincount(bins)
    occupied = np.flatnonzero(counts)
    sums = np.bincount(bins, weights=magnitudes)[occupied]
    counts = counts[occupied]
    means = sums / counts
    total = np.concatenate(([0], np.cumsum(counts)))
    mass = np.concatenate(([0.0], np.cumsum(sums)))

    # Panter and Dite 1951: the best cells are as dense as the cube root of the distribution.
    share = np.cumsum(np.cbrt(counts * means**2))
    wanted = (np.arange(levels) + 0.5) / levels * share[-1]
    # Different ones, as far as there are: a cell that starts empty stays so.
    rank = np.arange(levels)
    start = np.maximum.accumulate(np.searchsorted(share, wanted) - rank) + rank
    start = np.clip(np.minimum(start, means.size - levels + rank), 0, means.size - 1)
    centroids = means[np.maximum.accumulate(start)]
    edges = np.zeros(levels + 1, dtype=np.int64)
    edges[-1] = means.size
    for _ in range(_ITERATIONS):
        edges[1:-1] = np.searchsorted(means, (centroids[1:] + centroids[:-1]) / 2)
        sizes = np.diff(total[edges])
        moved = np.where(sizes > 0, np.diff(mass[edges]) / np.maximum(sizes, 1), centroids)
        # Differences of sums round: two neighbours may come out in the wrong order.
        moved = np.maximum.accumulate(np.maximum(moved, 0.0))
        if (moved == centroids).all():
            break
        centroids = moved
    level_of = np.zeros(int(occupied[-1]) + 1, dtype=np.uint8)
    level_of[occupied] = np.repeat(np.arange(levels, dtype=np.uint8), np.diff(edges))
    largest = np.float64(magnitudes.max())
    return level_of[bins], np.minimum(centroids, largest).astype(np.float32)


def _encode_nested(index: NDArray[np.uint8], levels: int) -> bytes:
    width = _bytes(index.size.bit_length())
    parts: list[bytes] = []
    for level in range(1, levels):
        if index.size == 0:
            break
        reached = index >= level
        number = int(np.count_nonzero(reached))
        parts.append(number.to_bytes(width, "little"))
        if 0 < number < index.size:
            smaller = reached if 2 * number <= index.size else ~reached
            code = positions.encode(np.flatnonzero(smaller), index.size)
            parts += (len(code).to_bytes(width, "little"), code)
        index = index[reached]
    return b"".join(parts)


def _decode_nested(data: memoryview, count: int, levels: int) -> tuple[NDArray[np.uint8], int]:
    """Return uint8[count] below `levels`, and the bytes consumed; memory is bounded by `count`."""
    width, at = _bytes(count.bit_length()), 0
    index = np.zeros(count, dtype=np.uint8)
    left = np.arange(count)

    def take(length: int) -> bytes:
        nonlocal at
        if len(data) < at + length:
            raise ValueError(f"levels take {at + length} bytes or more, got {len(data)}; truncated")
        at += length
        return bytes(data[at - length : at])

    for level in range(1, levels):
        if left.size == 0:
            break
        number = int.from_bytes(take(width), "little")
        if number > left.size:
            raise ValueError(f"at most {left.size} values reach level {level}, got {number}")
        if number < left.size:
            reached = np.zeros(left.size, dtype=np.bool_)
            if number:
                smaller = min(number, left.size - number)
                code = take(int.from_bytes(take(width), "little"))
                reached[positions.decode(code, left.size, smaller)] = True
                if smaller < number:
                    np.logical_not(reached, out=reached)
            left = left[reached]
        index[left] = level
    return index, at


def _bytes(bits: int) -> int:
    return (bits + 7) // 8
