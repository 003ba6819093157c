"""Every coordinate: the reference that ratios are measured against, and its half."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.interface import NOTHING, Context, Decoded
from fedlite.compression.quantization import quantizer
from fedlite.compression.selection import require_finite

_CODECS = {"fp32": 0, "fp16": 6}


@dataclass(frozen=True)
class Dense:
    """Every coordinate, as float32 (the reference that ratios are measured against) or as half.

    Attributes:
        values: "fp32", or "fp16": rounded to the nearest half, and clipped to plus or minus 65504.
        codec: 0 for fp32, which is also the class's own; 6 for fp16.

    Raises:
        ValueError: `values` is neither.

    >>> compressor = Dense()
    >>> body = compressor.compress(np.array([1.5, -2.0], dtype=np.float32))
    >>> len(body), compressor.decompress(body, 2).dense()
    (8, array([ 1.5, -2. ], dtype=float32))
    """

    name: ClassVar[str] = "dense"
    values: str = "fp32"
    codec: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the format and look up its number."""
        if self.values not in _CODECS:
            known = ", ".join(sorted(_CODECS))
            raise ValueError(
                f"values of the compressor dense must be one of {known}; got {self.values!r}"
            )
        object.__setattr__(self, "codec", _CODECS[self.values])

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return the 4n or 2n bytes of a finite float32[n], little-endian."""
        require_finite(vector)
        return quantizer(self.values).encode(vector)

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
        """Return the dense update; ValueError unless `body` has its length and is all finite."""
        if len(body) != self.limit(size):
            raise ValueError(
                f"a dense body of {size} values takes {self.limit(size)} bytes, got {len(body)}"
            )
        return Decoded(size, None, quantizer(self.values).decode(body, size)[0])

    def limit(self, size: int) -> int:
        """Return 4n for fp32, 2n for fp16."""
        return quantizer(self.values).limit(size)
