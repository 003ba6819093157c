"""Whether a released model beats chance at all, and what to try next where it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedlite.reporting import measures
from fedlite.reporting.formats import number_of

_ERRORS = 2.0  # standard errors by which a score must be above what chance gives


def told(summary: Mapping[str, Any]) -> str:
    """Return that no branch beats chance by twice its standard error, and what to try; else "".

    Chance is an AUC of 0.5, or the share of the commonest class. It is the standard error of a
    model without any skill: p (1 - p) / n is the variance of a share p of n records, and of an AUC
    that of Mann and Whitney 1947 ("On a test of whether one of two random variables is
    stochastically larger than the other", section 4), (m + n + 1) / (12 m n) of m and n records.

    >>> told({"task": {"name": "classification"}, "model": {"name": "linear"}, "privacy": {},
    ...       "accuracy": {"records": 100}, "auc": {"deep": 0.6, "shallow": 0.5}})
    'It may be no better than chance: its AUC is at most 0.600, and 0.5 with two standard errors \
is 0.616; try model.name = "mlp", or more rounds.'
    """
    first, part = measures.part_of(summary)
    found = [number_of(part.get(branch)) for branch in measures.BRANCHES]
    best = max((value for value in found if value is not None), default=None)
    task, known = summary.get("task"), _shares(summary)
    name = task.get("name") if isinstance(task, Mapping) else task
    if best is None or name not in (None, "classification"):
        return ""
    if first.key == "auc":
        level, error = 0.5, _error_of_auc(summary, part, known)
    elif first.key == "accuracy" and known:
        level = max(known)
        error = _error_of_share(level, number_of(summary["accuracy"].get("records")))
    else:
        return ""
    least = level + _ERRORS * error
    if error <= 0 or best > least:
        return ""
    chance = "0.5" if first.key == "auc" else "the commonest class's share"
    reach = f"{chance} with two standard errors is {first.say(least)}"
    if least >= 1:
        return f"Too few records to tell it from chance: {reach}; hold out more."
    return (
        f"It may be no better than chance: its {first.name} is at most {first.say(best)}, and "
        f"{reach}; {_next(summary)}."
    )


def _shares(summary: Mapping[str, Any]) -> list[float]:
    """Return the classes' shares of all records; none where they are private, and not told."""
    read = summary.get("data", {}).get("read") or {}
    counts = [number_of(count) or 0.0 for count in (read.get("classes") or {}).values()]
    return [count / sum(counts) for count in counts] if sum(counts) > 0 else []


def _error_of_share(share: float, records: float | None) -> float:
    return math.sqrt(share * (1 - share) / records) if records else 0.0


def _error_of_auc(
    summary: Mapping[str, Any], part: Mapping[str, Any], shares: Sequence[float]
) -> float:
    """Return the standard error of an AUC, or of the mean of the sites'.

    Where the classes' shares are not known they are taken as equal: no error is smaller.
    """
    quality = summary["accuracy"]
    rows = quality.get("by_site") or {}
    sizes = [number_of(quality.get("records"))]
    if quality.get("of") == "sites":
        sizes = [number_of(rows.get(site, {}).get("records")) for site in part.get("by_site") or {}]
    rare = min(shares) if len(shares) == 2 else 0.5
    squares = 0.0
    for size in sizes:
        if not size or size < 2:
            return 0.0
        few = max(1.0, rare * size)  # without one of each class there is no AUC
        squares += (size + 1) / (12 * few * (size - few))
    return math.sqrt(squares) / max(1, len(sizes))


def _next(summary: Mapping[str, Any]) -> str:
    if summary["privacy"].get("unit", "none") != "none":
        return "try more records, or a higher privacy.epsilon"
    if summary.get("model", {}).get("name") == "linear":
        return 'try model.name = "mlp", or more rounds'
    return "try more rounds, or another model"
