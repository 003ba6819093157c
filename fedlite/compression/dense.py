"""Every coordinate: the reference that ratios are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.interface import NOTHING, Context, Decoded
from fedlite.compression.selection import require_finite


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

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return the 4n bytes of a finite float32[n], little-endian."""
        require_finite(vector)
        return vector.astype("<f4", copy=False).tobytes()

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
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
