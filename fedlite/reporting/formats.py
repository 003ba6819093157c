"""How a figure is written, whatever it is a figure of."""

from __future__ import annotations

import math

ABSENT = "-"


def share(value: object) -> str:
    """Return a share in [0, 1] as per cent with one decimal; a dash when there is none."""
    number = number_of(value)
    return ABSENT if number is None else f"{100 * number:.1f} %"


def score(value: object) -> str:
    """Return an AUC in [0, 1] with three decimals; a dash when there is none."""
    number = number_of(value)
    return ABSENT if number is None else f"{number:.3f}"


def amount(value: object) -> str:
    """Return a figure in somebody's own units, with three significant digits; a dash for none.

    >>> amount(0.04217), amount(51234.5), amount(None)
    ('0.0422', '51,200', '-')
    """
    number = number_of(value)
    if number is None:
        return ABSENT
    return f"{float(f'{number:.3g}'):,.0f}" if 1000 <= abs(number) < 1e9 else f"{number:.3g}"


def number_of(value: object) -> float | None:
    """Return a finite number as such; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
