"""Shares of counts, and how far apart two of them are: intervals that hold for few records."""

from __future__ import annotations

import math
from statistics import NormalDist

Interval = tuple[float, float]


def wilson(hits: int, count: int, level: float = 0.95) -> Interval:
    """Return the interval of a share of `hits` in `count`, at least 1.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> low, high = wilson(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt((share * (1 - share) + spread / 4) / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(one: tuple[int, int], other: tuple[int, int], level: float = 0.95) -> Interval:
    """Return the interval of the first share less the second, each as (hits, count).

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions",
    method 10: from the two Wilson intervals.

    >>> low, high = difference((56, 70), (48, 80))
    >>> round(low, 4), round(high, 4)
    (0.0524, 0.3339)
    """
    (low, high), (below, above) = wilson(*one, level), wilson(*other, level)
    first, second = one[0] / one[1], other[0] / other[1]
    apart = first - second
    return (
        apart - math.hypot(first - low, above - second),
        apart + math.hypot(high - first, second - below),
    )
