"""The columns that a question of `fedlite stats` is about, as a scenario says them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from fedlite.privacy.ranges import MOST_COLUMNS
from fedlite.settings import pairs_of

_LARGEST = 10**300
Ends = tuple[float, float]


def columns_of(text: str) -> dict[str, Ends]:
    """Return the public range of each column by its name, in their order.

    text: a JSON object of pairs of numbers, or empty for none. Raises ValueError where it is none,
    a name stands there twice, or a range is none.

    >>> columns_of('{"age": [0, 120]}')
    {'age': (0.0, 120.0)}
    """
    pairs = pairs_of(text)
    if len(pairs) > MOST_COLUMNS:
        raise ValueError(f"must have at most {MOST_COLUMNS:,} columns")
    found: dict[str, Ends] = {}
    for name, ends in pairs:
        if not name or not name.isprintable() or name in found:
            raise ValueError(f"must name columns, printable and each once, got {name!r:.80}")
        if not (isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))):
            raise ValueError(f"must have two finite numbers for {name!r:.80}")
        found[name] = float(ends[0]), float(ends[1])
        if not found[name][0] < found[name][1]:
            raise ValueError(f"must have a low end below a high one for {name!r:.80}")
    return found


def text_of(columns: Mapping[str, Ends]) -> str:
    """Return the one text of these columns."""
    return json.dumps({name: list(ends) for name, ends in columns.items()}, ensure_ascii=False)


def _is_number(value: object) -> bool:
    # Whole numbers may be longer than a float holds.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _LARGEST and math.isfinite(value)
