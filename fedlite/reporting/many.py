"""Of many sites a reader wants the distribution, not a row each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# More sites than this get a distribution in place of a row each.
MANY = 50
LEVELS = {
    "lowest": 0.0,
    "1/10 at most": 0.1,
    "1/4 at most": 0.25,
    "median": 0.5,
    "3/4 at most": 0.75,
    "9/10 at most": 0.9,
    "highest": 1.0,
}


def quantile(values: Iterable[float], level: float) -> float | None:
    """Return the value at a level from 0 to 1, always one of `values`; None when there is none.

    >>> quantile([5, 1, 3], 0.5), quantile([], 0.5)
    (3, None)
    """
    ranked = sorted(values)
    return ranked[round(level * (len(ranked) - 1))] if ranked else None


def numbers(values: Iterable[object]) -> list[float]:
    """Return those that are numbers."""
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def span(sizes: Sequence[int]) -> str:
    """Return how sizes are spread: "12", or "3 to 40 (median 12)".

    >>> span([4, 4]), span([40, 3, 12])
    ('4', '3 to 40 (median 12)')
    """
    low, high = min(sizes), max(sizes)
    if low == high:
        return f"{low:,}"
    return f"{low:,} to {high:,} (median {quantile(sizes, 0.5):,})"
