"""A sorted set of coordinates in few bits: Rice-coded gaps, or a bitmap where that is smaller.

Layout of a set of `count` out of `size`: nothing at all when it is empty or full; otherwise one
mode byte, then either a bitmap of `size` bits (mode 255), or, with the Rice parameter b as the
mode, b planes of `count` remainder bits followed by the quotients of all gaps in unary (zeros ended
by a one). Bits run from the lowest of each byte; the last byte is filled up with zeros. Neither
`size` nor `count` is in the stream: both ends know them.

Source: Rice 1979, "Some practical universal noiseless coding techniques"; Golomb 1966.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BITMAP = 255


def limit(size: int, count: int) -> int:
    """Return the most bytes that `encode` writes for any `count` out of `size` coordinates.

    >>> limit(20_640, 207), limit(10, 0), limit(10, 10)
    (222, 0, 0)
    """
    _require_plan(size, count)
    if count in (0, size):
        return 0
    rice = min(_rice_bits(size, count, b) for b in range(_most(size, count) + 1))
    return 1 + _bytes(min(size, rice))


def encode(indices: NDArray[np.int64], size: int) -> bytes:
    """Return the bytes for a strictly increasing int64[count] of indices below `size`.

    Raises:
        ValueError: the indices are not int64, not strictly increasing, or outside [0, size).

    >>> encode(np.array([3, 14, 15, 92]), 100).hex()
    '0431a887'
    """
    if indices.ndim != 1 or indices.dtype != np.int64:
        raise ValueError(
            f"indices must be int64 with one dimension, got {indices.dtype} {indices.shape}"
        )
    count = indices.size
    _require_plan(size, count)
    if count == 0:
        return b""
    gaps = np.diff(indices, prepend=-1) - 1
    if int(gaps.min()) < 0 or int(indices[-1]) >= size:
        raise ValueError(
            f"indices must be strictly increasing and in [0, {size}); sort them, drop duplicates"
        )
    if count == size:
        return b""
    b, unary = _best(gaps, size)
    if count * b + unary > size:
        bits = np.zeros(size, dtype=np.bool_)
        bits[indices] = True
        return bytes([_BITMAP]) + _pack(bits)
    bits = np.zeros(count * b + unary, dtype=np.bool_)
    for plane in range(b):
        np.not_equal(gaps & (1 << plane), 0, out=bits[plane * count : (plane + 1) * count])
    bits[count * b :][np.cumsum((gaps >> b) + 1) - 1] = True
    return bytes([b]) + _pack(bits)


def decode(data: bytes, size: int, count: int) -> NDArray[np.int64]:
    """Return the int64[count] of strictly increasing indices below `size` that `data` holds.

    `data` may be hostile. Memory is bounded by `size` and `count`, which are the caller's own.

    Raises:
        ValueError: the length, the mode, the pad bits, the number of indices or their range is off.

    >>> decode(encode(np.array([3, 14, 15, 92]), 100), 100, 4)
    array([ 3, 14, 15, 92])
    """
    most = limit(size, count)
    if len(data) > most:
        raise ValueError(
            f"positions of {count} out of {size} take at most {most} bytes, got {len(data)}"
        )
    if count in (0, size):
        return np.arange(count, dtype=np.int64)
    if not data:
        raise ValueError(f"positions of {count} out of {size} are missing; they are truncated")
    mode = data[0]
    if mode == _BITMAP:
        return _decode_bitmap(data, size, count)
    if mode > _most(size, count):
        raise ValueError(
            f"positions mode must be {_BITMAP} or a Rice parameter up to {_most(size, count)} for "
            f"{count} out of {size}, got {mode}"
        )
    return _decode_rice(data, mode, size, count)


def _decode_bitmap(data: bytes, size: int, count: int) -> NDArray[np.int64]:
    if len(data) != 1 + _bytes(size):
        raise ValueError(f"a bitmap of {size} takes {1 + _bytes(size)} bytes, got {len(data)}")
    packed = np.frombuffer(data, dtype=np.uint8, offset=1)
    # Counting ones before expanding keeps a hostile payload from asking for 64 times its size.
    _require_ones(int(np.bitwise_count(packed).sum()), count)
    if size % 8 and int(packed[-1]) >> (size % 8):
        raise ValueError(f"pad bits after a bitmap of {size} must be 0")
    return np.flatnonzero(_unpack(packed, size))


def _decode_rice(data: bytes, b: int, size: int, count: int) -> NDArray[np.int64]:
    packed = np.frombuffer(data, dtype=np.uint8, offset=1)
    least, most = _bytes(count * (b + 1)), _bytes(_rice_bits(size, count, b))
    if not least <= packed.size <= most:
        raise ValueError(
            f"a Rice code of {count} out of {size} with parameter {b} takes {least} to {most} "
            f"bytes, got {packed.size}; truncated or trailing bytes"
        )
    if packed[-1] == 0:
        raise ValueError("a Rice code ends in the byte of its last one; trailing bytes")
    bits = _unpack(packed, 8 * packed.size)
    unary = bits[count * b :]
    _require_ones(int(np.count_nonzero(unary)), count)
    gaps = (np.diff(np.flatnonzero(unary), prepend=-1) - 1) << b
    for plane in range(b):
        gaps |= bits[plane * count : (plane + 1) * count].astype(np.int64) << plane
    indices = np.cumsum(gaps + 1) - 1
    if int(indices[-1]) >= size:
        raise ValueError(f"positions must be below {size}, got {int(indices[-1])}")
    return indices


def _best(gaps: NDArray[np.int64], size: int) -> tuple[int, int]:
    """Return the Rice parameter with the shortest code and the bits of its unary part.

    The code length count * (b + 1) + sum(gaps >> b) is convex in b: the step from b to b + 1 saves
    sum(ceil((gaps >> b) / 2)), which never grows with b. So walking downhill finds the minimum.
    """
    count = gaps.size
    most = _most(size, count)

    def unary(b: int) -> int:
        return count + int((gaps >> b).sum())

    b = max(0, most - 1)
    best = unary(b)
    for step in (-1, 1):
        while 0 <= b + step <= most:
            bits = unary(b + step)
            if bits + step * count >= best:
                break
            b, best = b + step, bits
    return b, best


def _most(size: int, count: int) -> int:
    """Return the largest Rice parameter that can be the best one.

    Above it the step to b + 1 costs `count` bits and saves less, as sum(gaps) < size < count << b.
    """
    return (size // count).bit_length()


def _rice_bits(size: int, count: int, b: int) -> int:
    """Return the most bits of a Rice code: all gaps together are size - count at most."""
    return count * (b + 1) + ((size - count) >> b)


def _bytes(bits: int) -> int:
    return (bits + 7) // 8


def _pack(bits: NDArray[np.bool_]) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.bool_]:
    return np.unpackbits(packed, count=bits, bitorder="little").view(np.bool_)


def _require_plan(size: int, count: int) -> None:
    if not 0 <= count <= size:
        raise ValueError(f"count must be in [0, size], got count {count} and size {size}")


def _require_ones(ones: int, count: int) -> None:
    if ones != count:
        raise ValueError(f"positions must be {count} in number, got {ones}")
