"""How the selected values are written: a registry of quantizers, each encodes and decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.levels import Levels
from fedlite.compression.signs import Bytes, ScaledSign, Sign, Splits, require


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
    require(data, used, count)
    values = np.frombuffer(data, dtype=form, count=count).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("values must be finite, got NaN or infinity; the update is refused")
    return values, used


QUANTIZERS: dict[str, Quantizer] = {
    "sign": Sign(),
    "sign-per-tensor": ScaledSign(),
    "sign-per-chunk": Sign(codec=3, per_tensor=True),
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
