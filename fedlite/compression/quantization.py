"""How the selected values are written: a registry of quantizers, each encodes and decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.levels import Levels

Splits = NDArray[np.int64]
Bytes = bytes | memoryview


class Quantizer(Protocol):
    """Writes the values of a selected set; the set itself is written by `positions`.

    A quantizer reports how many bytes it consumed, so one whose length depends on the data
    ("levels") fits beside those of fixed length.
    """

    @property
    def codec(self) -> int:
        """Number in the frame of a top-k update that carries these values; never reused.

        What is in the plan, such as the number of levels, has no number of its own.
        """
        ...

    def limit(self, count: int, sections: int = 1) -> int:
        """Return the most bytes that `count` values in `sections` tensors can take."""
        ...

    def encode(self, values: NDArray[np.float32], splits: Splits | None = None) -> bytes:
        """Return the bytes for float32[count].

        splits: int64[sections + 1], from 0 to count: where each tensor's values begin and end.
        None stands for one tensor.
        """
        ...

    def decode(
        self, data: Bytes, count: int, splits: Splits | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Return float32[count], all finite, and the bytes consumed at the start of `data`.

        Raises:
            ValueError: `data` is not what `encode` writes for `count` values.
        """
        ...


@dataclass(frozen=True)
class Sign:
    """One bit per value, and the mean of the absolute values (float32) of the set as its magnitude.

    With `per_tensor` every tensor of the model has a magnitude of its own: updates of a first layer
    and of a head differ by orders, and one magnitude for both distorts the smaller.

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
        sizes = np.diff(self._splits(values.size, splits))
        sums = np.zeros(sizes.size)
        # reduceat would take the next tensor's first value for a tensor of which nothing was sent.
        filled = np.flatnonzero(sizes)
        starts = np.cumsum(sizes)[filled] - sizes[filled]
        sums[filled] = np.add.reduceat(np.abs(values), starts, dtype=np.float64)
        magnitudes = (sums / np.maximum(sizes, 1)).astype("<f4")
        return magnitudes.tobytes() + np.packbits(values < 0, bitorder="little").tobytes()

    def decode(
        self, data: Bytes, count: int, splits: Splits | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Return float32[count] of plus or minus the magnitude, and the bytes consumed."""
        if count == 0:
            return np.empty(0, dtype=np.float32), 0
        sizes = np.diff(self._splits(count, splits))
        used = self.limit(count, sizes.size)
        _require(data, used, count)
        magnitudes = np.frombuffer(data, dtype="<f4", count=sizes.size).astype(np.float32)
        # The comparison is false for NaN, so the rule is stated as what must be true.
        if not (np.isfinite(magnitudes) & (magnitudes >= 0)).all():
            raise ValueError(f"magnitude must be finite and 0 or more, got {magnitudes.min()}")
        if magnitudes[sizes == 0].any():
            raise ValueError("magnitude of a tensor of which nothing is sent must be 0")
        if count % 8 and data[used - 1] >> (count % 8):
            raise ValueError(f"pad bits after {count} signs must be 0")
        offset = 4 * sizes.size
        packed = np.frombuffer(data, dtype=np.uint8, count=used - offset, offset=offset)
        negative = np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)
        spread = np.repeat(magnitudes, sizes)
        return np.where(negative, -spread, spread), used

    def _splits(self, count: int, splits: Splits | None) -> Splits:
        if splits is None or not self.per_tensor:
            return np.array([0, count])
        return splits


@dataclass(frozen=True)
class Exact:
    """Every value as its own little-endian float32.

    >>> data = Exact().encode(np.array([3.0, -1.0], dtype=np.float32))
    >>> Exact().decode(data, 2)
    (array([ 3., -1.], dtype=float32), 8)
    """

    codec: int = 2

    def limit(self, count: int, sections: int = 1) -> int:
        """Return the bytes of `count` values: 4 each."""
        return 4 * count

    def encode(self, values: NDArray[np.float32], splits: Splits | None = None) -> bytes:
        """Return the bytes of float32[count]."""
        return values.astype("<f4").tobytes()

    def decode(
        self, data: Bytes, count: int, splits: Splits | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Return float32[count] and the bytes consumed."""
        return _decode_floats(data, "<f4", count)


@dataclass(frozen=True)
class Half:
    """Every value as its own little-endian IEEE half.

    A value is rounded to the nearest half, one beyond the largest (65504) clipped to it. Steps are
    6e-8 at the smallest, so below half of that nothing is left. Error feedback carries what is
    lost.

    >>> data = Half().encode(np.array([3.0, -1e6], dtype=np.float32))
    >>> Half().decode(data, 2)
    (array([ 3.0000e+00, -6.5504e+04], dtype=float32), 4)
    """

    codec: int = 4

    def limit(self, count: int, sections: int = 1) -> int:
        """Return the bytes of `count` values: 2 each."""
        return 2 * count

    def encode(self, values: NDArray[np.float32], splits: Splits | None = None) -> bytes:
        """Return the bytes of float32[count]."""
        largest = np.finfo(np.float16).max
        return np.clip(values, -largest, largest).astype("<f2").tobytes()

    def decode(
        self, data: Bytes, count: int, splits: Splits | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Return float32[count] and the bytes consumed."""
        return _decode_floats(data, "<f2", count)


def _decode_floats(data: Bytes, form: str, count: int) -> tuple[NDArray[np.float32], int]:
    used = np.dtype(form).itemsize * count
    _require(data, used, count)
    values = np.frombuffer(data, dtype=form, count=count).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("values must be finite, got NaN or infinity; the update is refused")
    return values, used


def _require(data: Bytes, used: int, count: int) -> None:
    if len(data) < used:
        raise ValueError(f"{count} values take {used} bytes, got {len(data)}; it is truncated")


QUANTIZERS: dict[str, Quantizer] = {
    "sign": Sign(),
    "sign-per-tensor": Sign(codec=3, per_tensor=True),
    "fp32": Exact(),
    "fp16": Half(),
    **{f"levels-{levels}": Levels(levels) for levels in range(2, 17)},
}


def quantizer(name: str) -> Quantizer:
    """Return the quantizer that is registered under `name`; ValueError if there is none.

    >>> quantizer("levels-4")
    Levels(levels=4, codec=5)
    """
    if name not in QUANTIZERS:
        known = [key for key in sorted(QUANTIZERS) if not key.startswith("levels-")]
        raise ValueError(
            f"values must be one of {', '.join(known)}, levels-2 to levels-16; got {name!r}"
        )
    return QUANTIZERS[name]
