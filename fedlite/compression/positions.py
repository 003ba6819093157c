"""A sorted set of coordinates in few bits: Golomb-coded gaps, one bit plane after the other.

Layout of a set of `count` out of `size`: nothing at all when it is empty or full; otherwise one
mode byte and a stream of bits, from the lowest of each byte, the last byte filled up with zeros.
Neither `size` nor `count` is in the stream: both ends know them.

The mode names the divisor m of the code: mode 2s stands for 2**s, mode 2s + 1 for 3 * 2**s. A gap
is the distance from the index before, less 1. The stream holds, each for all gaps in turn: the s
lowest bits, a plane of `count` bits for each; with an odd mode, whether the next digit, in base 3,
is above 0, and, only where it is, whether it is 2; at last the quotients gap // m in unary, that
many zeros and a one. Planes instead of one code word after the other let whole arrays be coded at
once. For random sets of 0.1 % to 10 % and a sign each, powers of two alone (Rice) cost up to 1.8 %
more than the entropy, where the best divisor falls between two of them; the thirds make it 0.9 %.

Source: Golomb 1966, "Run-length encodings"; Gallager and van Voorhis 1975, "Optimal source codes
for geometrically distributed integer alphabets"; Rice 1979, "Some practical universal noiseless
coding techniques".
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIZES = 2**28
"""Sets are among fewer coordinates: every sum that decoding makes then fits into 32 bits."""

# Gaps that are enough to choose the divisor by.
_SAMPLE = 8192

Indices = NDArray[np.int32] | NDArray[np.int64]
Bits = NDArray[np.uint8]


@lru_cache(maxsize=4096)
def limit(size: int, count: int) -> int:
    """Return the most bytes that `encode` writes for any `count` out of `size` coordinates.

    >>> limit(20_640, 207), limit(10, 0), limit(10, 10)
    (222, 0, 0)
    """
    _require_plan(size, count)
    if count in (0, size):
        return 0
    return 1 + _bytes(_most_bits(size, count, _safest(size, count)))


def encode(indices: Indices, size: int) -> bytes:
    """Return the bytes for a strictly increasing int32[count] or int64[count] below `size`.

    Raises:
        ValueError: the indices are of another type, not strictly increasing, or outside
            [0, size), or `size` is not below 2**28.

    >>> encode(np.array([3, 14, 15, 92]), 100).hex()
    '0831a887'
    """
    if indices.ndim != 1 or indices.dtype not in (np.int32, np.int64):
        raise ValueError(
            f"indices must be int32 or int64 with one dimension, got {indices.dtype} "
            f"{indices.shape}"
        )
    count = indices.size
    _require_plan(size, count)
    if count == 0:
        return b""
    if int(indices.min()) < 0 or int(indices.max()) >= size or np.any(indices[1:] <= indices[:-1]):
        raise ValueError(
            f"indices must be strictly increasing and in [0, {size}); sort them, drop duplicates"
        )
    if count == size:
        return b""
    gaps = indices.astype(np.int32)
    gaps[1:] -= indices[:-1] + 1
    mode, safest = _best(gaps, size), _safest(size, count)
    bits = _encode(gaps, mode)
    if bits.size > _most_bits(size, count, safest):
        mode, bits = safest, _encode(gaps, safest)
    return bytes([mode]) + np.packbits(bits, bitorder="little").tobytes()


def decode(data: bytes | memoryview, size: int, count: int) -> NDArray[np.int32]:
    """Return the int32[count] of strictly increasing indices below `size` that `data` holds.

    `data` may be hostile. Memory is bounded by `size` and `count`, which are the caller's own.

    Raises:
        ValueError: the length, the mode, the pad bits, the number of indices or their range is off.

    >>> decode(encode(np.array([3, 14, 15, 92]), 100), 100, 4)
    array([ 3, 14, 15, 92], dtype=int32)
    """
    most = limit(size, count)
    stream = np.frombuffer(data, dtype=np.uint8)
    if stream.size > most:
        raise ValueError(
            f"positions of {count} out of {size} take at most {most} bytes, got {stream.size}"
        )
    if count in (0, size):
        return np.arange(count, dtype=np.int32)
    if stream.size == 0:
        raise ValueError(f"positions of {count} out of {size} are missing; they are truncated")
    mode = int(stream[0])
    if mode > _last_mode(size, count):
        raise ValueError(
            f"positions mode must be at most {_last_mode(size, count)} for {count} out of {size}, "
            f"got {mode}"
        )
    if stream[-1] == 0:
        raise ValueError("positions end in the byte of their last one; trailing bytes")
    return _decode(np.unpackbits(stream[1:], bitorder="little"), mode, size, count)


def _encode(gaps: NDArray[np.int32], mode: int) -> Bits:
    """Return the stream as one byte a bit, 0 or not."""
    shift, odd = divmod(mode, 2)
    count = gaps.size
    high = gaps >> shift
    digits: list[Bits] = []
    if odd:
        quotients = high // 3
        digit = (high - 3 * quotients).astype(np.uint8)
        twos = digit[np.flatnonzero(digit > 0)] > 1
        high, digits = quotients, [digit, twos.view(np.uint8)]
    ends = np.cumsum(high + 1, dtype=np.int32)
    ends -= 1
    planes = shift * count
    bits = np.zeros(planes + sum(d.size for d in digits) + int(ends[-1]) + 1, dtype=np.uint8)
    for first in range(0, shift, 8):
        octet = (gaps >> first).astype(np.uint8)
        for plane in range(first, min(shift, first + 8)):
            into = bits[plane * count : (plane + 1) * count]
            np.bitwise_and(octet, 1 << (plane - first), out=into)
    for part in digits:
        bits[planes : planes + part.size] = part
        planes += part.size
    bits[planes:][ends.astype(np.intp)] = 1
    return bits


def _decode(bits: Bits, mode: int, size: int, count: int) -> NDArray[np.int32]:
    """Return the indices in a stream of one byte a bit, which may be hostile."""
    shift, odd = divmod(mode, 2)
    planes = shift * count
    _require_bits(bits, planes + (1 + odd) * count, count)
    digit = np.zeros(count, dtype=np.uint8)
    unary = bits[planes:]
    if odd:
        digit += unary[:count]
        above = np.flatnonzero(digit.view(np.bool_))
        _require_bits(bits, planes + 2 * count + above.size, count)
        digit[above] += unary[count : count + above.size]
        unary = unary[count + above.size :]
    ones = np.count_nonzero(unary)
    if ones != count:
        raise ValueError(f"positions must be {count} in number, got {ones}")
    quotients = np.flatnonzero(unary.view(np.bool_)).astype(np.int32)
    quotients -= np.arange(count, dtype=np.int32)
    # That sums the quotients up, and shows that no product below leaves 32 bits.
    divisor = (3 if odd else 1) << shift
    _require_below(int(quotients[-1]) * divisor, size)
    indices = digit.astype(np.int32) << shift
    for first in range(0, shift, 8):
        octet = np.zeros(count, dtype=np.uint8)
        for plane in range(first, min(shift, first + 8)):
            octet |= bits[plane * count : (plane + 1) * count] << (plane - first)
        indices |= octet.astype(np.int32) << first
    indices += 1
    np.cumsum(indices, out=indices)
    quotients *= divisor
    indices += quotients
    indices -= 1
    _require_below(int(indices[-1]), size)
    return indices


def _best(gaps: NDArray[np.int32], size: int) -> int:
    """Return a mode with a short code for these gaps: the best one, as far as a sample tells.

    The length of a Rice code is convex in s: the step to s + 1 costs a bit a gap and saves
    sum(ceil((gaps >> s) / 2)), which never grows with s. So walking downhill finds the minimum, and
    a divisor of three can only be better next to it.
    """
    last = _last_mode(size, gaps.size)
    # Gaps of a matrix may repeat from row to row: an odd stride does not fall into step.
    sample = gaps[:: (gaps.size // _SAMPLE) | 1]

    def length(mode: int) -> int:
        high = sample >> (mode // 2)
        bits = sample.size * (mode // 2 + 1)
        if mode % 2:
            bits += sample.size + int(np.count_nonzero(high % 3))
            high //= 3
        return bits + int(high.sum(dtype=np.int64))

    best = max(0, last - 4)
    shortest = length(best)
    for step in (-2, 2):
        while 0 <= best + step <= last:
            found = length(best + step)
            if found >= shortest:
                break
            best, shortest = best + step, found
    thirds = [mode for mode in (best - 3, best - 1, best + 1) if 0 < mode <= last]
    return min([best, *thirds], key=length)


def _last_mode(size: int, count: int) -> int:
    """Return the largest mode: 2s for the least 2**s above size / count.

    The step beyond it costs `count` bits and saves less, as sum(gaps) < size < count << s.
    """
    return 2 * (size // count).bit_length()


def _safest(size: int, count: int) -> int:
    """Return the mode whose longest code is shortest; a divisor of three is never that."""
    modes = range(0, _last_mode(size, count) + 1, 2)
    return min(modes, key=lambda mode: _most_bits(size, count, mode))


def _most_bits(size: int, count: int, mode: int) -> int:
    """Return the most bits in an even mode: all gaps together are size - count at most."""
    return count * (mode // 2 + 1) + ((size - count) >> (mode // 2))


def _bytes(bits: int) -> int:
    return (bits + 7) // 8


def _require_plan(size: int, count: int) -> None:
    if not 0 <= count <= size < SIZES:
        raise ValueError(
            f"count must be in [0, size] and size below {SIZES}, got count {count} and size "
            f"{size}; cut a longer vector into blocks"
        )


def _require_bits(bits: Bits, least: int, count: int) -> None:
    if bits.size < least:
        raise ValueError(
            f"positions of {count} take at least {least} bits, got {bits.size}; they are truncated"
        )


def _require_below(index: int, size: int) -> None:
    if index >= size:
        raise ValueError(f"positions must be below {size}, got {index}")
