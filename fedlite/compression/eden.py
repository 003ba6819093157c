"""Rotated coordinates in a few bits each: nothing to remember at the site, no bias to correct."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.interface import NOTHING, Context, Decoded
from fedlite.compression.levels import pack_planes, unpack_planes
from fedlite.compression.selection import require_finite

_Number = TypeVar("_Number", np.float32, np.int32, np.int64)

_LEAST, _MOST = 2**8, 2**16
_GROUP = 2**19
# With it the largest rotated coordinate, 2**31, times a scale is a finite float32.
_LARGEST_SCALE = 2.0**96
# Of so many rows, each no longer than that, transforms are taken side by side.
_MANY, _SHORT = 32, 2**12


@dataclass(frozen=True)
class Eden:
    """A random rotation, then the nearest of 2**bits centroids for each rotated coordinate.

    After the rotation of a chunk (random signs and a Hadamard transform, twice) every coordinate is
    close to normally distributed, whatever the vector was, so the best centroids are known
    beforehand; one float32 a chunk scales them. Once would do for most updates, but where a few
    coordinates outweigh the rest they alone would decide every sign. The rotation differs between
    sites and rounds, so over sites the errors average out: the squared error of one update, in
    units of its squared norm, is 0.571 for 1 bit, 0.133 for 2, 0.0358 for 3, 0.0096 for 4. For less
    than a bit, see `RotatedTopK`.

    With `unbiased` the scale keeps the mean over the rotations equal to the update. Without, the
    scale is the one of least error, which never makes a residual grow: error feedback needs it.

    The receiver computes in integers up to one last product, so two machines get the same bits.

    Attributes:
        bits: bits a coordinate, 1 to 8.
        unbiased: which scale is sent.

    Raises:
        ValueError: `bits` is out of range.

    Source: Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak, Mitzenmacher 2022, "EDEN:
    Communication-efficient and robust distributed mean estimation for federated learning",
    arXiv 2108.08842; Yu, Suresh, Choromanski, Holtmann-Rice, Kumar 2016, "Orthogonal random
    features" (repeated Hadamard transforms in place of a uniform rotation).

    >>> compressor = Eden(bits=8)
    >>> body = compressor.compress(np.array([1.5, -2.0], dtype=np.float32))
    >>> len(body), compressor.decompress(body, 2).dense().round(1)
    (260, array([ 1.5, -2. ], dtype=float32))
    """

    name: ClassVar[str] = "eden"
    codec: ClassVar[int] = 8
    bits: int = 1
    unbiased: bool = True

    def __post_init__(self) -> None:
        """Check the bits."""
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be in [1, 8], got {self.bits}; 1 is often enough")

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return scales and centroid numbers for a finite float32[n].

        Raises:
            ValueError: the vector is not finite, or a chunk of it too large, from about 1e30 on.
        """
        require_finite(vector)
        random = context.random(shared=False)
        parts: list[bytes] = []
        for start, number, length in _groups(vector.size):
            taken = vector[start : start + number * length]
            block = np.zeros(number * length, dtype=np.float32)
            block[: taken.size] = taken
            parts.append(self._encode(block.reshape(number, length), random))
        return b"".join(parts)

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
        """Return the dense update; ValueError unless `body` has exactly the planned form."""
        if len(body) != self.limit(size):
            raise ValueError(
                f"a rotated body of {size} values with {self.bits} bits "
                f"takes {self.limit(size)} bytes, got {len(body)}"
            )
        random = context.random(shared=False)
        values = np.empty(size, dtype=np.float32)
        at = 0
        for start, number, length in _groups(size):
            row = self._row_bytes(length)
            raw = np.frombuffer(body, dtype=np.uint8, count=number * row, offset=at)
            at += raw.size
            block = self._decode(raw.reshape(number, row), length, random).reshape(-1)
            values[start : start + block.size] = block[: size - start]
        return Decoded(size, None, values)

    def limit(self, size: int) -> int:
        """Return the bytes of every body for `size` coordinates; for 1 bit little above n / 8."""
        return sum(number * self._row_bytes(length) for number, length in chunks(size))

    def _row_bytes(self, length: int) -> int:
        return 4 + length * self.bits // 8

    def _encode(self, block: NDArray[np.float32], random: np.random.Philox) -> bytes:
        """Return the bytes of float32[number, length], one row after the other."""
        number, length = block.shape
        signs = _signs(random, number, length)
        # Powers of two bring the largest and the smallest updates into the middle of the range.
        exponent = np.clip(np.frexp(np.abs(block).max(axis=1))[1], -120, 120)
        rotated = block * np.ldexp(np.float32(1), -exponent)[:, None]
        energy = np.einsum("ij,ij->i", rotated, rotated, dtype=np.float64)
        for sign in signs:
            rotated *= sign
            rotated = hadamard(rotated)
        norm = np.sqrt(np.where(energy > 0, energy * length, 1.0))
        index = _nearest(rotated * (1.0 / norm).astype(np.float32)[:, None], self.bits)
        chosen = _table(self.bits)[index].astype(np.float32)
        along = np.einsum("ij,ij->i", rotated, chosen, dtype=np.float64)
        if self.unbiased:
            scale = energy * length / np.where(along > 0, along, 1.0)
        else:
            scale = along / (length * np.einsum("ij,ij->i", chosen, chosen, dtype=np.float64))
        scale = np.ldexp(scale, exponent)
        if scale.max() > _LARGEST_SCALE:
            raise ValueError(
                f"vector must stay below about 1e30 to be rotated, got {scale.max():.3g} as the "
                "scale of a chunk; drop this update"
            )
        head = scale.astype("<f4")[:, None].view(np.uint8)
        return np.concatenate((head, pack_planes(index, self.bits)), axis=1).tobytes()

    def _decode(
        self, raw: NDArray[np.uint8], length: int, random: np.random.Philox
    ) -> NDArray[np.float32]:
        """Return float32[number, length] from uint8[number, bytes of a row]."""
        signs = _signs(random, raw.shape[0], length)
        scale = np.ascontiguousarray(raw[:, :4]).view("<f4").astype(np.float32)
        # The comparison is false for NaN, so the rule is stated as what must be true.
        if not ((scale >= 0) & (scale <= _LARGEST_SCALE)).all():
            raise ValueError(f"scales must be in [0, 2**96], got {scale.min()} to {scale.max()}")
        rotated = _table(self.bits)[unpack_planes(raw[:, 4:], self.bits, length)]
        # At most 2**16 times the largest centroid, 18856, then 2**32 times: in integers no order
        # of adding makes a difference.
        back = hadamard(rotated).astype(np.int64)
        back *= signs[1]
        back = hadamard(back)
        back *= signs[0]
        values = back.astype(np.float32)
        values *= np.float32(1 / length)
        values *= scale
        return values


def _signs(random: np.random.Philox, number: int, length: int) -> list[NDArray[np.int8]]:
    """Return two arrays of signs [number, length]; a chunk takes length / 64 words for each."""
    words = random.random_raw(number * 2 * length // 64).reshape(number, 2, -1)
    bits = np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), axis=2, bitorder="little")
    signs = np.int8(1) - np.int8(2) * bits.view(np.int8)
    return [signs[:, 0], signs[:, 1]]


def chunks(size: int) -> list[tuple[int, int]]:
    """Return how `size` coordinates are cut, in order: (number of chunks, their length).

    A length is the largest power of two that fits what is left, at most 2**16 and at least 256;
    only the last chunk can be longer than what is left and is filled with zeros.

    >>> chunks(150_000)
    [(2, 65536), (1, 16384), (1, 2048), (1, 256), (1, 256)]
    """
    found: list[tuple[int, int]] = []
    while size > 0:
        length = min(_MOST, max(_LEAST, 1 << (size.bit_length() - 1)))
        number = max(1, size // length)
        found.append((number, length))
        size -= number * length
    return found


def _groups(size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, number, length) of runs of chunks that are worked on together."""
    start = 0
    for number, length in chunks(size):
        most = max(1, _GROUP // length)
        for done in range(0, number, most):
            many = min(most, number - done)
            yield start, many, length
            start += many * length


def hadamard(rows: NDArray[_Number]) -> NDArray[_Number]:
    """Return the Walsh-Hadamard transform of each row of [m, 2**p], not normalised.

    Entry i is the sum of (-1)**popcount(i & j) times entry j. Twice the transform is 2**p times the
    identity. Additions go from the longest distance, 2**(p - 1), to 1, so that rounded ones are the
    same on every machine.

    >>> hadamard(np.array([[1, 2, 3, 4]]))
    array([[10, -2, -4,  0]])
    """
    number, length = rows.shape
    spare = np.empty(rows.size // 2, rows.dtype)
    if number >= _MANY and length <= _SHORT:
        # Side by side, the same distance of all rows is one long run.
        square = _butterflies(np.array(rows.T, order="C")[None], spare)
        return np.ascontiguousarray(square[0].T)
    low = 1 << ((length.bit_length() - 1) // 2)
    # Seen as a matrix, the long distances run along its columns; transposed, the short ones do.
    square = _butterflies(np.array(rows.reshape(number, length // low, low)), spare)
    square = _butterflies(np.ascontiguousarray(square.transpose(0, 2, 1)), spare)
    return np.ascontiguousarray(square.transpose(0, 2, 1)).reshape(number, length)


def _butterflies(block: NDArray[_Number], spare: NDArray[_Number]) -> NDArray[_Number]:
    """Transform [m, 2**q, width] along its second axis, in place; spare: half as many values."""
    _, length, width = block.shape
    half = length // 2
    while half:
        pairs = block.reshape(-1, 2, half * width)
        first, second = pairs[:, 0], pairs[:, 1]
        difference = np.subtract(first, second, out=spare.reshape(first.shape))
        first += second
        second[...] = difference
        half //= 2
    return block


def _nearest(values: NDArray[np.float32], bits: int) -> NDArray[np.uint8]:
    """Return the number of the nearest centroid; `values` in units of their standard deviation."""
    if bits == 1:
        return (values >= 0).astype(np.uint8)
    table = _table(bits) / _UNIT
    between = ((table[1:] + table[:-1]) / 2).astype(np.float32)
    flat = np.searchsorted(between, values.reshape(-1), side="right")
    return flat.astype(np.uint8).reshape(values.shape)


def _table(bits: int) -> NDArray[np.int32]:
    """Return the int32[2**bits] centroids, ascending, in units of 1 / 4096."""
    half = np.array(_CENTROIDS[bits], dtype=np.int32)
    return np.concatenate((-half[::-1], half))


_UNIT = 4096
# The positive Lloyd-Max centroids of the normal distribution (Max 1960), times 4096 and rounded, so
# that every machine has the same.
# fmt: off
_CENTROIDS: dict[int, tuple[int, ...]] = {
    1: (3268,),
    2: (1855, 6187),
    3: (1004, 3097, 5505, 8814),
    4: (526, 1589, 2690, 3860, 5146, 6628, 8475, 11193),
    5: (
        270, 811, 1357, 1912, 2478, 3060, 3664, 4296, 4964, 5678, 6456, 7321, 8310, 9493, 11023,
        13356,
    ),
    6: (
        137, 411, 685, 961, 1238, 1517, 1798, 2082, 2370, 2661, 2957, 3258, 3565, 3880, 4201,
        4532, 4873, 5226, 5592, 5973, 6373, 6794, 7240, 7717, 8231, 8793, 9417, 10122, 10946,
        11950, 13273, 15336,
    ),
    7: (
        69, 207, 345, 483, 621, 760, 898, 1038, 1177, 1317, 1458, 1599, 1740, 1883, 2026, 2170,
        2315, 2461, 2608, 2756, 2905, 3056, 3208, 3361, 3516, 3673, 3832, 3992, 4155, 4319,
        4486, 4656, 4828, 5004, 5182, 5364, 5549, 5738, 5932, 6129, 6332, 6540, 6754, 6974,
        7201, 7436, 7679, 7932, 8194, 8469, 8757, 9060, 9381, 9722, 10088, 10482, 10911, 11385,
        11915, 12522, 13238, 14121, 15298, 17161,
    ),
    8: (
        35, 104, 173, 242, 311, 381, 450, 519, 589, 658, 728, 797, 867, 937, 1007, 1077, 1147,
        1217, 1287, 1357, 1428, 1499, 1570, 1640, 1712, 1783, 1854, 1926, 1998, 2070, 2142,
        2215, 2288, 2361, 2434, 2508, 2581, 2655, 2730, 2804, 2879, 2955, 3030, 3106, 3183,
        3259, 3336, 3414, 3492, 3570, 3649, 3728, 3808, 3888, 3969, 4050, 4131, 4214, 4296,
        4380, 4464, 4549, 4634, 4720, 4807, 4894, 4982, 5071, 5161, 5251, 5343, 5435, 5528,
        5623, 5718, 5814, 5911, 6010, 6110, 6210, 6313, 6416, 6521, 6627, 6735, 6844, 6955,
        7068, 7183, 7299, 7418, 7538, 7661, 7786, 7914, 8044, 8177, 8313, 8452, 8594, 8740,
        8890, 9044, 9202, 9365, 9533, 9706, 9886, 10072, 10265, 10466, 10676, 10896, 11127,
        11370, 11627, 11901, 12193, 12508, 12850, 13224, 13639, 14107, 14646, 15285, 16079,
        17148, 18856,
    ),
}
# fmt: on
