"""How the selected values are written: a registry of quantizers, each encodes and decodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Quantizer(Protocol):
    """Writes the values of a selected set; the set itself is written by `positions`.

    A quantizer reports how many bytes it consumed, so one whose length depends on the data (nested
    level sets, for instance) fits beside those of fixed length.
    """

    @property
    def codec(self) -> int:
        """Number in the frame of a top-k update that carries these values; never reused."""
        ...

    def limit(self, count: int) -> int:
        """Return the most bytes that `count` values can take."""
        ...

    def encode(self, values: NDArray[np.float32]) -> bytes:
        """Return the bytes for float32[count]."""
        ...

    def decode(self, data: bytes, count: int) -> tuple[NDArray[np.float32], int]:
        """Return float32[count], all finite, and the bytes consumed at the start of `data`.

        Raises:
            ValueError: `data` is not what `encode` writes for `count` values.
        """
        ...


@dataclass(frozen=True)
class Sign:
    """One bit per value and one magnitude, the mean of the absolute values (float32), per set.

    A selected zero is written as plus the magnitude; error feedback carries the difference.
    Source: Sattler, Wiedemann, Mueller, Samek 2019, "Robust and communication-efficient federated
    learning from non-IID data", Algorithm 1 (sparse ternary compression).

    >>> data = Sign().encode(np.array([3.0, -1.0], dtype=np.float32))
    >>> Sign().decode(data, 2)
    (array([ 2., -2.], dtype=float32), 5)
    """

    codec: int = 1

    def limit(self, count: int) -> int:
        """Return the bytes of `count` values: 4 for the magnitude, an eighth of a byte per sign."""
        return 4 + (count + 7) // 8 if count else 0

    def encode(self, values: NDArray[np.float32]) -> bytes:
        """Return the magnitude and the packed signs of float32[count]; nothing for an empty set."""
        if values.size == 0:
            return b""
        magnitude = np.array(np.abs(values).mean(dtype=np.float64), dtype="<f4")
        return magnitude.tobytes() + np.packbits(values < 0, bitorder="little").tobytes()

    def decode(self, data: bytes, count: int) -> tuple[NDArray[np.float32], int]:
        """Return float32[count] of plus or minus the magnitude, and the bytes consumed."""
        used = self.limit(count)
        _require(data, used, count)
        if count == 0:
            return np.empty(0, dtype=np.float32), 0
        magnitude = float(np.frombuffer(data, dtype="<f4", count=1)[0])
        if not (math.isfinite(magnitude) and magnitude >= 0.0):
            raise ValueError(f"magnitude must be finite and 0 or more, got {magnitude}")
        if count % 8 and data[used - 1] >> (count % 8):
            raise ValueError(f"pad bits after {count} signs must be 0")
        packed = np.frombuffer(data, dtype=np.uint8, count=used - 4, offset=4)
        negative = np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)
        return np.where(negative, np.float32(-magnitude), np.float32(magnitude)), used


@dataclass(frozen=True)
class Exact:
    """Every value as its own little-endian float32.

    >>> data = Exact().encode(np.array([3.0, -1.0], dtype=np.float32))
    >>> Exact().decode(data, 2)
    (array([ 3., -1.], dtype=float32), 8)
    """

    codec: int = 2

    def limit(self, count: int) -> int:
        """Return the bytes of `count` values: 4 each."""
        return 4 * count

    def encode(self, values: NDArray[np.float32]) -> bytes:
        """Return the bytes of float32[count]."""
        return values.astype("<f4").tobytes()

    def decode(self, data: bytes, count: int) -> tuple[NDArray[np.float32], int]:
        """Return float32[count] and the bytes consumed."""
        used = self.limit(count)
        _require(data, used, count)
        values = np.frombuffer(data, dtype="<f4", count=count).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("values must be finite, got NaN or infinity; the update is refused")
        return values, used


def _require(data: bytes, used: int, count: int) -> None:
    if len(data) < used:
        raise ValueError(f"{count} values take {used} bytes, got {len(data)}; it is truncated")


QUANTIZERS: dict[str, Quantizer] = {
    "sign": Sign(),
    "fp32": Exact(),
}
