"""The largest coordinates by magnitude: which ones, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import positions
from fedlite.compression.interface import NOTHING, Context, Decoded
from fedlite.compression.quantization import QUANTIZERS
from fedlite.compression.selection import count, top_k


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

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return values and positions of the largest coordinates of a finite float32[n]."""
        indices = top_k(vector, count(vector.size, self.density))
        splits = self._splits(indices, vector.size)
        selected = QUANTIZERS[self.values].encode(vector[indices], splits)
        return selected + positions.encode(indices, vector.size)

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
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
