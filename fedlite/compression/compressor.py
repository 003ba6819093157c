"""Vector to bytes and back: the compressors, and the registry that names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import positions
from fedlite.compression.quantization import QUANTIZERS
from fedlite.compression.selection import count, require_finite, top_k


@dataclass(frozen=True, eq=False)
class Decoded:
    """An update as it arrived: every coordinate, or some indices and their values.

    Attributes:
        size: the length n of the vector.
        indices: int64[k], strictly increasing and below `size`; None when all are present.
        values: float32[k], finite; float32[n] when `indices` is None.

    >>> update = Decoded(4, np.array([1, 3]), np.array([2.0, -2.0], dtype=np.float32))
    >>> update.dense()
    array([ 0.,  2.,  0., -2.], dtype=float32)
    """

    size: int
    indices: NDArray[np.int64] | None
    values: NDArray[np.float32]

    def add_to(self, out: NDArray[Any], weight: float) -> None:
        """Add `weight` times this update to `out`, in place and in the precision of `out`.

        Args:
            out: float32[n] or float64[n].
            weight: finite.

        Raises:
            ValueError: `out` has another shape or type, or `weight` is not finite.
        """
        if out.shape != (self.size,) or out.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"out must be float32 or float64 of shape ({self.size},), got {out.dtype} of "
                f"shape {out.shape}"
            )
        if not math.isfinite(weight):
            raise ValueError(f"weight must be finite, got {weight}")
        scaled = self.values.astype(out.dtype, copy=False) * weight
        if self.indices is None:
            out += scaled
        else:
            out[self.indices] += scaled

    def dense(self) -> NDArray[np.float32]:
        """Return the update as a new float32[n], zero where nothing was sent."""
        if self.indices is None:
            return self.values.copy()
        out = np.zeros(self.size, dtype=np.float32)
        out[self.indices] = self.values
        return out


class Compressor(Protocol):
    """Turns a float32[n] into the body of a frame, and a body back into an update.

    Both ends hold the same compressor: nothing that shapes the result is read from the body.
    """

    @property
    def name(self) -> str:
        """The name in the registry."""
        ...

    @property
    def codec(self) -> int:
        """The number in the frame, 0 to 255, that says which format the body has."""
        ...

    def compress(self, vector: NDArray[np.float32]) -> bytes:
        """Return the body for a finite float32[n].

        Raises:
            ValueError: `vector` is not one-dimensional, not float32 or not finite.
        """
        ...

    def decompress(self, body: bytes, size: int) -> Decoded:
        """Return the update in a possibly hostile `body` for a vector of `size` coordinates.

        Raises:
            ValueError: `body` is not what `compress` writes for a vector of that size.
        """
        ...

    def limit(self, size: int) -> int:
        """Return the most bytes that `compress` writes for a vector of `size` coordinates."""
        ...


@dataclass(frozen=True)
class Dense:
    """Every coordinate as float32: the reference that ratios are measured against.

    >>> compressor = Dense()
    >>> body = compressor.compress(np.array([1.5, -2.0], dtype=np.float32))
    >>> len(body), compressor.decompress(body, 2).dense()
    (8, array([ 1.5, -2. ], dtype=float32))
    """

    name: ClassVar[str] = "dense"
    codec: ClassVar[int] = 0

    def compress(self, vector: NDArray[np.float32]) -> bytes:
        """Return the 4n bytes of a finite float32[n], little-endian."""
        require_finite(vector)
        return vector.astype("<f4", copy=False).tobytes()

    def decompress(self, body: bytes, size: int) -> Decoded:
        """Return the dense update; ValueError unless `body` is 4n bytes of finite values."""
        if len(body) != 4 * size:
            raise ValueError(
                f"a dense body of {size} values takes {4 * size} bytes, got {len(body)}"
            )
        values = np.frombuffer(body, dtype="<f4").astype(np.float32)
        require_finite(values)
        return Decoded(size, None, values)

    def limit(self, size: int) -> int:
        """Return 4n."""
        return 4 * size


@dataclass(frozen=True)
class TopK:
    """The largest coordinates by magnitude: their values, then their positions.

    An all-zero vector gives an update of zeros, an empty vector an empty body.

    Attributes:
        density: the fraction that is sent, in (0, 1]; `count` turns it into a number.
        values: a name in `quantization.QUANTIZERS`, "sign", "sign-per-tensor" or "fp32".
        sections: sizes of the model's tensors, in their order; empty stands for one tensor.

    Raises:
        ValueError: `density` is out of range or `values` is not known.

    Source: Lin, Han, Mao, Wang, Dally 2018, "Deep gradient compression"; with "sign": Sattler
    et al. 2019, Algorithm 1.

    >>> compressor = TopK(density=0.5, values="sign")
    >>> body = compressor.compress(np.array([0.1, -3.0, 1.0, 0.0], dtype=np.float32))
    >>> compressor.decompress(body, 4).dense()
    array([ 0., -2.,  2.,  0.], dtype=float32)
    """

    name: ClassVar[str] = "topk"
    density: float
    values: str = "sign"
    sections: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check both fields."""
        count(0, self.density)
        if self.values not in QUANTIZERS:
            known = ", ".join(sorted(QUANTIZERS))
            raise ValueError(f"values must be one of {known}; got {self.values!r}")

    @property
    def codec(self) -> int:
        """The number of the values' format: 1 "sign", 2 "fp32", 3 "sign-per-tensor"."""
        return QUANTIZERS[self.values].codec

    def compress(self, vector: NDArray[np.float32]) -> bytes:
        """Return values and positions of the largest coordinates of a finite float32[n]."""
        indices = top_k(vector, count(vector.size, self.density))
        splits = self._splits(indices, vector.size)
        selected = QUANTIZERS[self.values].encode(vector[indices], splits)
        return selected + positions.encode(indices, vector.size)

    def decompress(self, body: bytes, size: int) -> Decoded:
        """Return the sparse update; ValueError unless `body` has exactly the planned form."""
        limit = self.limit(size)
        if len(body) > limit:
            raise ValueError(
                f"a top-k body of {size} values at density {self.density} takes at most {limit} "
                f"bytes, got {len(body)}"
            )
        k, quantizer = count(size, self.density), QUANTIZERS[self.values]
        # The positions say how many values each tensor has; both parts' places follow from k.
        used = quantizer.limit(k, max(1, len(self.sections)))
        indices = positions.decode(body[used:], size, k)
        values, _ = quantizer.decode(body, k, self._splits(indices, size))
        return Decoded(size, indices, values)

    def limit(self, size: int) -> int:
        """Return the most bytes for any vector of `size` coordinates."""
        k = count(size, self.density)
        sections = max(1, len(self.sections))
        return QUANTIZERS[self.values].limit(k, sections) + positions.limit(size, k)

    def _splits(self, indices: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        ends = np.cumsum(self.sections or (size,))
        if ends[-1] != size:
            raise ValueError(
                f"sections must add up to the vector's {size} values, got {ends[-1]}; "
                "pass the sizes of the model's own tensors"
            )
        return np.concatenate(([0], np.searchsorted(indices, ends)))


COMPRESSORS: dict[str, Callable[[float, str, tuple[int, ...]], Compressor]] = {
    "dense": lambda density, values, sections: Dense(),
    "topk": TopK,
}


def make(name: str, *, density: float, values: str, sections: tuple[int, ...] = ()) -> Compressor:
    """Return the compressor that is registered under `name`.

    Args:
        name: a key of `COMPRESSORS`.
        density: the fraction that is sent, in (0, 1]; a dense compressor ignores it.
        values: how the sent values are written; a dense compressor ignores it.
        sections: sizes of the model's tensors (`Layout.sizes`); empty stands for one tensor.

    Raises:
        ValueError: `name` is not registered, or the compressor refuses its settings.

    >>> make("topk", density=0.03, values="sign")
    TopK(density=0.03, values='sign', sections=())
    """
    if name not in COMPRESSORS:
        known = ", ".join(sorted(COMPRESSORS))
        raise ValueError(f"compressor must be one of {known}; got {name!r}")
    return COMPRESSORS[name](density, values, sections)
