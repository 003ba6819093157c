"""Which coordinates are sent: exact top-k by magnitude, at the speed of one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_CHUNK = 131_072
_SAMPLE = 65_536
# Many rows of no more values are sorted at once in less time than each is divided by itself.
_SORTED = 1024

# A float32 without its sign bit, read as an integer: magnitudes keep their order, and infinity and
# NaN come after them all.
_MAGNITUDE = 0x7FFF_FFFF
_LOW_BITS = 15

Bits = NDArray[np.int32]
Found = tuple[NDArray[np.int32], Bits]


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


def require_form(vector: NDArray[np.float32]) -> None:
    """Raise ValueError unless `vector` is a one-dimensional float32 array."""
    if vector.ndim != 1 or vector.dtype != np.float32:
        raise ValueError(
            f"vector must be float32 with one dimension, got {vector.dtype} of shape "
            f"{vector.shape}; flatten and cast it first"
        )


def require_finite(vector: NDArray[np.float32]) -> None:
    """Raise ValueError unless `vector` is a one-dimensional float32 array without NaN or infinity.

    >>> require_finite(np.array([1.0, np.nan], dtype=np.float32))
    Traceback (most recent call last):
    ...
    ValueError: vector must be finite, but 1 of 2 values are NaN or infinite; drop this update
    """
    require_form(vector)
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

    Exact and deterministic: of equal magnitudes the lowest index wins.

    Args:
        vector: float32[n], finite, n < 2**31.
        k: 0 <= k <= n.

    Returns:
        int64[k], strictly increasing.

    Raises:
        ValueError: `vector` is not a finite float32[n], or `k` is outside [0, n].

    >>> top_k(np.array([1, -3, 2, 3, -1], dtype=np.float32), 3)
    array([1, 2, 3])
    """
    return select(vector, k)[0].astype(np.int64)


def select(
    vector: NDArray[np.float32], k: int, start: int = 0, stop: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return where in `vector[start:stop]` the `k` largest magnitudes are, and what is there.

    A strided sample proposes a threshold a little too low, one pass in cache-sized chunks collects
    what reaches it, and the collected few are trimmed exactly. Where the sample misleads, two
    histograms of the numbers' bits find the exact threshold. Neither way holds much more than its
    result.

    Args:
        vector: float32[n], finite.
        k: from 0 to the length of the part.
        start: where the part begins.
        stop: where it ends, None for n; a part has less than 2**31 values.

    Returns:
        int32[k], strictly increasing and counted from `start`, and the float32[k] found there.

    Raises:
        ValueError: `vector` is not float32[n], a value of the part is not finite, or `k` is out of
            range.

    >>> select(np.array([1, -3, 2, 3, -1], dtype=np.float32), 2, start=2)
    (array([0, 1], dtype=int32), array([2., 3.], dtype=float32))
    """
    require_form(vector)
    part = vector[start:stop]
    n = part.size
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, {n}] for a vector of {n} values, got {k}")
    if k == 0:
        require_finite(part)
    bits = part.view(np.int32)
    if k in (0, n):
        indices, chosen = np.arange(k, dtype=np.int32), bits[:k].copy()
    elif n <= _SAMPLE:
        indices, chosen = _trim(np.arange(n, dtype=np.int32), bits, k)
    else:
        found = _candidates(bits, k)
        indices, chosen = _exact(bits, k) if found is None else _trim(*found, k)
    values = chosen.view(np.float32)
    # In the order of the bits NaN and infinity are the largest of all, so they have been chosen.
    if not np.isfinite(values).all():
        require_finite(vector)
    return indices, values


def select_rows(
    rows: NDArray[np.float32], ends: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Return where in each row the largest magnitudes of each run of it are: as `select` has them.

    Args:
        rows: float32[m, n], finite.
        ends: int64[c], where each of the c runs in a row ends, ascending, the last one at n.
        counts: int64[m, c], how many are taken of each; of every row as many in all.

    Returns:
        int32[m, k], in each row strictly increasing.

    >>> select_rows(np.array([[1, -3, 2, 3]], np.float32), np.array([2, 4]), np.array([[1, 1]]))
    array([[1, 3]], dtype=int32)
    """
    keep = np.zeros(rows.shape, dtype=np.bool_)
    bits, start = rows.view(np.int32), 0
    for end, wanted in zip(ends.tolist(), counts.T, strict=True):
        magnitude = bits[:, start:end] & _MAGNITUDE
        cuts = np.minimum(end - start - wanted, end - start - 1)
        if end - start <= _SORTED:
            thresholds = np.sort(magnitude, axis=1)[np.arange(len(rows)), cuts]
        else:
            pairs = zip(magnitude, cuts.tolist(), strict=True)
            thresholds = np.array([np.partition(row, cut)[cut] for row, cut in pairs])
        chosen = keep[:, start:end]
        np.greater(magnitude, thresholds[:, None], out=chosen)
        level = magnitude == thresholds[:, None]
        short = wanted - np.count_nonzero(chosen, axis=1)
        few = short != np.count_nonzero(level, axis=1)
        level[few] = False
        chosen |= level
        for row in np.flatnonzero(few).tolist():
            at = np.flatnonzero(magnitude[row] == thresholds[row])[: short[row]]
            chosen[row, at] = True
        start = end
    found: NDArray[np.int32] = np.nonzero(keep)[1].reshape(len(rows), -1).astype(np.int32)
    return found


def _trim(indices: NDArray[np.int32], bits: Bits, k: int) -> Found:
    """Return the k >= 1 largest of some candidates, lowest index first among equals."""
    magnitude = bits & _MAGNITUDE
    cut = magnitude.size - k
    threshold = np.partition(magnitude, cut)[cut]
    keep = magnitude > threshold
    short = k - np.count_nonzero(keep)
    keep[np.flatnonzero(magnitude == threshold)[:short]] = True
    at = np.flatnonzero(keep)
    return indices[at], bits[at]


def _candidates(bits: Bits, k: int) -> Found | None:
    """Return everything that reaches a sampled threshold: at least k, not many more, or None."""
    n = bits.size
    sample = bits[:: _stride(n)] & _MAGNITUDE
    expected = k * sample.size / n
    rank = math.ceil(expected + 4.0 * math.sqrt(expected)) + 16
    if rank >= sample.size:
        return None
    cut = sample.size - rank
    sample.partition(cut)
    threshold = sample[cut]

    most = 2 * k + _SAMPLE
    found: list[Found] = []
    total = 0
    for start, magnitude in _magnitudes(bits):
        hits = np.flatnonzero(magnitude >= threshold)
        total += hits.size
        if total > most:
            return None
        found.append(_at(bits, start, hits))
    return _join(found) if total >= k else None


def _stride(n: int) -> int:
    # One that is odd does not fall into step with the row lengths of weight matrices.
    return max(64, n // _SAMPLE) | 1


def _exact(bits: Bits, k: int) -> Found:
    """Return the k >= 1 largest of all, lowest index first among equals, whatever they are."""
    high = np.zeros((_MAGNITUDE >> _LOW_BITS) + 1, dtype=np.int64)
    for _, magnitude in _magnitudes(bits):
        magnitude >>= _LOW_BITS
        high += np.bincount(magnitude, minlength=high.size)
    bucket, short = _reach(high, k)
    low = np.zeros(1 << _LOW_BITS, dtype=np.int64)
    for _, magnitude in _magnitudes(bits):
        inside = magnitude[magnitude >> _LOW_BITS == bucket] & (low.size - 1)
        low += np.bincount(inside, minlength=low.size)
    last, short = _reach(low, short)
    threshold = (bucket << _LOW_BITS) + last

    found: list[Found] = []
    for start, magnitude in _magnitudes(bits):
        keep = magnitude > threshold
        level = np.flatnonzero(magnitude == threshold)[:short]
        short -= level.size
        keep[level] = True
        found.append(_at(bits, start, np.flatnonzero(keep)))
    return _join(found)


def _reach(histogram: NDArray[np.int64], k: int) -> tuple[int, int]:
    """Return the bin in which the k-th largest lies, and its rank within that bin, from 1."""
    reached = np.cumsum(histogram[::-1])
    place = int(np.searchsorted(reached, k))
    at = histogram.size - 1 - place
    return at, k - int(reached[place] - histogram[at])


def _magnitudes(bits: Bits) -> Iterator[tuple[int, Bits]]:
    """Yield the magnitudes in cache-sized chunks, each with its start, in one reused array."""
    scratch = np.empty(min(bits.size, _CHUNK), dtype=np.int32)
    for start in range(0, bits.size, _CHUNK):
        chunk = bits[start : start + _CHUNK]
        yield start, np.bitwise_and(chunk, _MAGNITUDE, out=scratch[: chunk.size])


def _at(bits: Bits, start: int, hits: NDArray[np.intp]) -> Found:
    # The values are fetched while their chunk is in the cache.
    values = bits[start : start + _CHUNK][hits]
    hits += start
    return hits.astype(np.int32), values


def _join(found: list[Found]) -> Found:
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])
