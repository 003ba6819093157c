"""Which coordinates are sent: exact top-k by magnitude, at the speed of one pass over memory."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_CHUNK = 262_144
_SAMPLE = 131_072


def count(size: int, density: float) -> int:
    """Return how many of `size` coordinates a `density` in (0, 1] selects.

    The count is ``max(1, ceil(density * size))``, and 0 for an empty vector. The product is exact
    in the decimal digits of `density`, so both ends agree and 0.07 of 100 is 7, not 8.

    Raises:
        ValueError: `size` is negative or `density` is outside (0, 1].

    >>> count(20_640, 0.01), count(100, 0.07), count(5, 0.001), count(0, 0.5)
    (207, 7, 1, 0)
    """
    if size < 0:
        raise ValueError(f"size must be 0 or more, got {size}; pass the number of parameters")
    if not 0.0 < density <= 1.0:
        raise ValueError(
            f"density must be in (0, 1], got {density!r}; 0.01 sends one coordinate in a hundred"
        )
    if size == 0:
        return 0
    return max(1, math.ceil(Fraction(repr(float(density))) * size))


def require_finite(vector: NDArray[np.float32]) -> None:
    """Raise ValueError unless `vector` is a one-dimensional float32 array without NaN or infinity.

    >>> require_finite(np.array([1.0, np.nan], dtype=np.float32))
    Traceback (most recent call last):
    ...
    ValueError: vector must be finite, but 1 of 2 values are NaN or infinite; drop this update
    """
    if vector.ndim != 1 or vector.dtype != np.float32:
        raise ValueError(
            f"vector must be float32 with one dimension, got {vector.dtype} of shape "
            f"{vector.shape}; flatten and cast it first"
        )
    if vector.size == 0:
        return
    # NaN and infinity survive min and max, so the usual case needs no temporary array.
    if not (math.isfinite(float(vector.min())) and math.isfinite(float(vector.max()))):
        bad = vector.size - int(np.isfinite(vector).sum())
        raise ValueError(
            f"vector must be finite, but {bad} of {vector.size} values are NaN or infinite; "
            "drop this update"
        )


def top_k(vector: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the indices of the `k` largest magnitudes of `vector`, ascending.

    Exact and deterministic: of equal magnitudes the lowest index wins. A strided sample proposes a
    threshold a little too low, one pass in cache-sized chunks collects what reaches it, and the
    collected few are trimmed exactly. Where the sample misleads, everything is partitioned instead.

    Args:
        vector: float32[n], finite.
        k: 0 <= k <= n.

    Returns:
        int64[k], strictly increasing.

    Raises:
        ValueError: `vector` is not a finite float32[n], or `k` is outside [0, n].

    >>> top_k(np.array([1, -3, 2, 3, -1], dtype=np.float32), 3)
    array([1, 2, 3])
    """
    require_finite(vector)
    n = vector.size
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, {n}] for a vector of {n} values, got {k}")
    if k == 0:
        return np.empty(0, dtype=np.int64)
    if k == n:
        return np.arange(n, dtype=np.int64)
    if n > _SAMPLE:
        candidates = _candidates(vector, k)
        if candidates is not None:
            return candidates[_partition(np.abs(vector[candidates]), k)]
    return _partition(np.abs(vector), k)


def _partition(magnitude: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the indices of the k >= 1 largest entries, lowest index first among equals."""
    cut = magnitude.size - k
    threshold = np.partition(magnitude, cut)[cut]
    above = np.flatnonzero(magnitude > threshold)
    level = np.flatnonzero(magnitude == threshold)[: k - above.size]
    return np.sort(np.concatenate([above, level])).astype(np.int64, copy=False)


def _candidates(vector: NDArray[np.float32], k: int) -> NDArray[np.int64] | None:
    """Return every index that reaches a sampled threshold: at least k, not many more, or None."""
    n = vector.size
    # An odd stride does not fall into step with the row lengths of weight matrices.
    sample = np.abs(vector[:: (n // _SAMPLE) | 1])
    expected = k * sample.size / n
    rank = math.ceil(expected + 4.0 * math.sqrt(expected)) + 16
    if rank >= sample.size:
        return None
    cut = sample.size - rank
    threshold = np.partition(sample, cut)[cut]

    most = 2 * k + _SAMPLE
    magnitude = np.empty(_CHUNK, dtype=np.float32)
    found: list[NDArray[np.int64]] = []
    total = 0
    for start in range(0, n, _CHUNK):
        chunk = vector[start : start + _CHUNK]
        part = np.abs(chunk, out=magnitude[: chunk.size])
        hits = np.flatnonzero(part >= threshold)
        hits += start
        total += hits.size
        if total > most:
            return None
        found.append(hits)
    return np.concatenate(found) if total >= k else None
