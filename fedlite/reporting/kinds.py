"""What sites of each kind came to, where some train the shallow branch alone, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlite.reporting.record import WEAK, WHOLE
from fedlite.reporting.wording import count, megabytes


def told(summary: Mapping[str, Any]) -> list[str]:
    """Return it as plain sentences; none where all sites train everything.

    >>> kind = {"sites": ["a"], "parameters": 7, "used": 2, "up": 40, "down": 60}
    >>> strong = kind | {"sites": ["b"], "parameters": 9, "up": 90}
    >>> for line in told({"rounds": 2, "kinds": {WEAK: kind, WHOLE: strong,
    ...                                          "tail stood still": 1}}):
    ...     print(line)
    1 site trained the shallow branch, 7 values: an update took 20 bytes up and 30 bytes down.
    1 site trained the whole model, 9 values: an update took 45 bytes up and 30 bytes down.
    In 1 of 2 rounds no site was used that trains the tail, which stood still.
    """
    kinds = summary.get("kinds")
    if not isinstance(kinds, Mapping):
        return []
    lines = [_line(kind, kinds[kind]) for kind in (WEAK, WHOLE) if kind in kinds]
    if still := kinds.get("tail stood still"):
        lines.append(
            f"In {still:,} of {count(summary['rounds'], 'round')} no site was used that trains the "
            "tail, which stood still."
        )
    return lines


def _line(kind: str, found: Mapping[str, Any]) -> str:
    who = f"{count(len(found['sites']), 'site')} trained the {kind}"
    line = f"{who}, {count(found['parameters'], 'value')}"
    used = found["used"]
    if not used:
        return f"{line}: no update was used."
    up, down = (megabytes(found[way] / used) for way in ("up", "down"))
    line += f": an update took {up} up and {down} down"
    if "cpu_seconds" in found:
        line += f", and {1000 * found['cpu_seconds'] / used:,.0f} ms of a processor"
    return f"{line}."
