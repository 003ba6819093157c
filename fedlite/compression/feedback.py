"""Error feedback: what compression left out of one update is added to the next.

Source: Seide, Fu, Droppo, Li, Yu 2014, "1-bit stochastic gradient descent"; Karimireddy, Rebjock,
Stich, Jaggi 2019, "Error feedback fixes SignSGD and other gradient compression schemes"; Sattler,
Wiedemann, Mueller, Samek 2019, "Robust and communication-efficient federated learning from non-IID
data".

Privacy: under record-level privacy the delta must be the noised one. A residual of clean deltas
would carry unprotected information into later messages. Under central client-level privacy error
feedback is not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.interface import Compressor, Decoded


@dataclass(frozen=True, eq=False)
class Residual:
    """What earlier updates wanted to say and could not.

    Attributes:
        value: float32[n], in the units of the delta.

    Raises:
        ValueError: `value` is not a one-dimensional float32 array.

    >>> Residual(np.zeros(3, dtype=np.float32)).value
    array([0., 0., 0.], dtype=float32)
    """

    value: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Check shape and type."""
        if self.value.ndim != 1 or self.value.dtype != np.float32:
            raise ValueError(
                f"residual must be float32 with one dimension, got {self.value.dtype} of shape "
                f"{self.value.shape}"
            )


def compress(
    compressor: Compressor, delta: NDArray[np.float32], residual: Residual | None
) -> tuple[bytes, Decoded, Residual]:
    """Compress `delta` plus `residual` and return body, what the receiver decodes, new residual.

    Neither argument is changed: the caller keeps the old residual until the receiver has
    acknowledged the update, and takes it up again otherwise. Up to float32 rounding, decoded
    plus new residual equals delta plus old residual; with a dense compressor the new one is zero.

    Args:
        compressor: the stage that loses something.
        delta: float32[n], finite.
        residual: of the last acknowledged update, or None at the start.

    Raises:
        ValueError: the shapes differ, or the sum is not a finite float32[n].

    >>> from fedlite.compression.topk import TopK
    >>> delta = np.array([4.0, 1.0, -2.0], dtype=np.float32)
    >>> body, decoded, residual = compress(TopK(0.3, "fp32"), delta, None)
    >>> decoded.dense(), residual.value
    (array([4., 0., 0.], dtype=float32), array([ 0.,  1., -2.], dtype=float32))
    """
    if residual is None:
        corrected = delta.copy()
    elif residual.value.shape != delta.shape:
        raise ValueError(
            f"residual must have the shape of the delta, got {residual.value.shape} and "
            f"{delta.shape}; a new model starts without a residual"
        )
    else:
        # An overflow becomes infinite here and is refused by the compressor.
        with np.errstate(over="ignore"):
            corrected = delta + residual.value
    body = compressor.compress(corrected)
    decoded = compressor.decompress(body, corrected.size)
    decoded.add_to(corrected, -1.0)
    return body, decoded, Residual(corrected)
