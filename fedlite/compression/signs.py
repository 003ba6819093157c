"""Values as one bit each, and a magnitude for all of them or for every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Splits = NDArray[np.int64]
Bytes = bytes | memoryview

# 2**(-i / 8), rounded: written out, so that every machine has the same.
_ROOTS = np.array(
    [1.0, 0.91700405, 0.8408964, 0.7711054, 0.70710677, 0.6484198, 0.59460354, 0.5452539],
    dtype=np.float32,
)
_NOTHING = 255


@dataclass(frozen=True)
class Sign:
    """One bit per value, and the mean of the absolute values (float32) of the set as its magnitude.

    With `per_tensor` every tensor has a magnitude of its own. That is what a rotated update needs,
    whose lengths may not be rounded; for others `ScaledSign` says almost the same in fewer bytes.

    A selected zero is written as plus the magnitude; error feedback carries the difference.
    Source: Sattler, Wiedemann, Mueller, Samek 2019, "Robust and communication-efficient federated
    learning from non-IID data", Algorithm 1 (sparse ternary compression).

    >>> data = Sign().encode(np.array([3.0, -1.0], dtype=np.float32))
    >>> Sign().decode(data, 2)
    (array([ 2., -2.], dtype=float32), 5)
    """

    codec: int = 1
    per_tensor: bool = False

    def limit(self, count: int, sections: int = 1) -> int:
        """Return the bytes of `count` values: 4 a magnitude, an eighth of a byte per sign."""
        magnitudes = sections if self.per_tensor else 1
        return 4 * magnitudes + (count + 7) // 8 if count else 0

    def encode(self, values: NDArray[np.float32], splits: Splits | None = None) -> bytes:
        """Return magnitudes and packed signs of float32[count]; nothing for an empty set."""
        if values.size == 0:
            return b""
        sizes = self._sizes(values.size, splits)
        magnitudes = np.zeros(sizes.size, dtype="<f4")
        magnitudes[sizes > 0] = _means(values, sizes[sizes > 0])
        return magnitudes.tobytes() + _pack(values)

    def decode(
        self, data: Bytes, count: int, splits: Splits | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Return float32[count] of plus or minus the magnitude, and the bytes consumed."""
        if count == 0:
            return np.empty(0, dtype=np.float32), 0
        sizes = self._sizes(count, splits)
        used = self.limit(count, sizes.size)
        require(data, used, count)
        magnitudes = _read_magnitudes(data, sizes.size)
        if magnitudes[sizes == 0].any():
            raise ValueError("magnitude of a tensor of which nothing is sent must be 0")
        return _signed(np.repeat(magnitudes, sizes), data, 4 * sizes.size), used

    def _sizes(self, count: int, splits: Splits | None) -> NDArray[np.int64]:
        return np.array([count]) if splits is None or not self.per_tensor else np.diff(splits)


@dataclass(frozen=True)
class ScaledSign:
    """One bit per value, and for every tensor a byte that says how large its values are.

    Updates of a first layer and of a head differ by orders, and one magnitude for both distorts the
    smaller. The largest mean of absolute values is sent as float32; a tensor's byte c stands for it
    times 2**(-c / 8), and 255 for nothing. So down to 2**-31 of the largest a magnitude is within
    4.5 % of the tensor's mean, which leaves 0.2 % more of what is sent to error feedback, at most.
    A tensor of which nothing is sent takes no byte.

    >>> data = ScaledSign().encode(np.array([8.0, -1.0], dtype=np.float32), np.array([0, 1, 1, 2]))
    >>> ScaledSign().decode(data, 2, np.array([0, 1, 1, 2]))
    (array([ 8., -1.], dtype=float32), 7)
    """

    codec: int = 11

    def limit(self, count: int, sections: int = 1) -> int:
        """Return the most bytes of `count` values: a magnitude, a byte a tensor, and the signs."""
        return 4 + min(count, sections) + (count + 7) // 8 if count else 0

    def encode(self, values: NDArray[np.float32], splits: Splits | None = None) -> bytes:
        """Return magnitude, bytes and packed signs of float32[count]; nothing for an empty set."""
        if values.size == 0:
            return b""
        means = _means(values, _sizes_sent(values.size, splits))
        largest = means.max()
        codes = np.zeros(means.size, dtype=np.uint8)
        if largest:
            # A mean of 0 is infinitely many steps below the largest.
            with np.errstate(divide="ignore"):
                steps = np.rint(8.0 * (np.log2(largest) - np.log2(means)))
            codes[:] = np.minimum(steps, _NOTHING)
        return np.array([largest], dtype="<f4").tobytes() + codes.tobytes() + _pack(values)

    def decode(
        self, data: Bytes, count: int, splits: Splits | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Return float32[count] of plus or minus the magnitudes, and the bytes consumed."""
        if count == 0:
            return np.empty(0, dtype=np.float32), 0
        sizes = _sizes_sent(count, splits)
        used = self.limit(count, sizes.size)
        require(data, used, count)
        codes = np.frombuffer(data, dtype=np.uint8, count=sizes.size, offset=4)
        octaves = np.ldexp(np.float32(1), -(codes // 8).astype(np.int32))
        magnitudes = _read_magnitudes(data, 1) * _ROOTS[codes % 8] * octaves
        magnitudes[codes == _NOTHING] = 0
        return _signed(np.repeat(magnitudes, sizes), data, 4 + sizes.size), used


def decode_many(
    data: Sequence[Bytes], where: NDArray[np.int32], ends: Splits
) -> tuple[NDArray[np.float32], int]:
    """Return what `Sign(per_tensor=True).decode` does of each: float32[m, k], and the bytes of one.

    where: int32[m, k], the coordinates of the values of each, ascending. ends: int64[t], where the
    tensors end. Raises ValueError as that does for one of them.
    """
    many, count = where.shape
    used = Sign(per_tensor=True).limit(count, ends.size)
    for one in data:
        require(one, used, count)
    raw = np.frombuffer(b"".join([one[:used] for one in data]), np.uint8).reshape(many, -1)
    heads = raw[:, : 4 * ends.size].tobytes()
    magnitudes = _read_magnitudes(heads, many * ends.size)
    # Row after row they ascend, so one search finds the tensors of all.
    rows = np.arange(many)[:, None] * int(ends[-1])
    splits = np.searchsorted((where + rows).reshape(-1), rows + np.concatenate(([0], ends)))
    sizes = np.diff(splits).reshape(-1)
    if magnitudes[sizes == 0].any():
        raise ValueError("magnitude of a tensor of which nothing is sent must be 0")
    packed = raw[:, 4 * ends.size :]
    if count % 8 and (packed[:, -1] >> (count % 8)).any():
        raise ValueError(f"pad bits after {count} signs must be 0")
    negative = np.unpackbits(packed, axis=1, count=count, bitorder="little").view(np.bool_)
    values = np.repeat(magnitudes, sizes).reshape(many, count)
    return np.where(negative, -values, values), used


def require(data: Bytes, used: int, count: int) -> None:
    """Raise ValueError unless `data` has the `used` bytes that `count` values take."""
    if len(data) < used:
        raise ValueError(f"{count} values take {used} bytes, got {len(data)}; it is truncated")


def _sizes_sent(count: int, splits: Splits | None) -> NDArray[np.int64]:
    """Return how many values each tensor has of which one is sent at least."""
    sizes = np.array([count]) if splits is None else np.diff(splits)
    return sizes[sizes > 0]


def _means(values: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean magnitude of each run of `sizes` values, none of them empty."""
    starts = np.cumsum(sizes) - sizes
    means: NDArray[np.float64] = np.add.reduceat(np.abs(values), starts, dtype=np.float64) / sizes
    return means


def _pack(values: NDArray[np.float32]) -> bytes:
    packed: NDArray[np.uint8] = np.packbits(values < 0, bitorder="little")
    return packed.tobytes()


def _read_magnitudes(data: Bytes, number: int) -> NDArray[np.float32]:
    magnitudes = np.frombuffer(data, dtype="<f4", count=number).astype(np.float32)
    # The comparison is false for NaN, so the rule is stated as what must be true.
    if not (np.isfinite(magnitudes) & (magnitudes >= 0)).all():
        raise ValueError(f"magnitude must be finite and 0 or more, got {magnitudes.min()}")
    return magnitudes


def _signed(magnitudes: NDArray[np.float32], data: Bytes, offset: int) -> NDArray[np.float32]:
    """Return float32[count] with the signs that are in `data` from `offset` on."""
    count = magnitudes.size
    packed = np.frombuffer(data, dtype=np.uint8, count=(count + 7) // 8, offset=offset)
    if count % 8 and int(packed[-1]) >> (count % 8):
        raise ValueError(f"pad bits after {count} signs must be 0")
    negative = np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)
    return np.where(negative, -magnitudes, magnitudes)
