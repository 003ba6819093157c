"""Whether a model does as well for one group of people as for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.evaluation.rates import difference, wilson

LEVEL = 0.95
# Of the bootstrap of means of errors.
_RESAMPLES = 2000
Mask = NDArray[np.bool_]


def rates_of(
    told: NDArray[np.int64], true: NDArray[np.int64], names: tuple[str, ...]
) -> dict[str, tuple[Mask, Mask]]:
    """Return what is compared between groups: of which records (bool [n]) which are hits.

    The accuracy, and of the last of two classes, or of each of more, the true positive rate (its
    records that are found) and the false positive rate (others' that are taken for it).
    """
    found = {"accuracy": (np.ones(len(told), bool), told == true)}
    for at in [1] if len(names) == 2 else range(len(names)):
        found[f"true positive rate of {names[at]}"] = (true == at, told == at)
        found[f"false positive rate of {names[at]}"] = (true != at, told == at)
    return found


def rates_of_labels(told: Mask, true: Mask, names: tuple[str, ...]) -> dict[str, tuple[Mask, Mask]]:
    """Return the same for each of several labels; told and true are bool [n, labels]."""
    found = {}
    for at, name in enumerate(names):
        found[f"true positive rate of {name}"] = (true[:, at], told[:, at])
        found[f"false positive rate of {name}"] = (~true[:, at], told[:, at])
    return found


def compare(groups: Sequence[str], rates: Mapping[str, tuple[Mask, Mask]]) -> list[dict[str, Any]]:
    """Return each rate in each group, and its largest gap between two.

    groups: of each record, n of them. A gap's interval is that of Newcombe, at a level at which all
    pairs of groups hold together (Bonferroni), as the widest apart is looked for; `beyond_chance`
    is whether it leaves out 0. A group without records for a rate has none.
    """
    of, found = np.array(groups, str), []
    order = tuple(map(str, np.unique(of)))
    for name, (among, hits) in rates.items():
        counts = {
            g: (int((hits & among & (of == g)).sum()), int((among & (of == g)).sum()))
            for g in order
        }
        known = {g: pair for g, pair in counts.items() if pair[1]}
        rows = {g: _rate(*pair) for g, pair in known.items()}
        found.append({"rate": name, "groups": rows, "gap": _gap(known)})
    return found


def compare_errors(groups: Sequence[str], errors: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean of `errors` [n] in each group, and the largest gap between two.

    Intervals are percentiles of a bootstrap whose draws are always the same.
    """
    of, rng = np.array(groups, str), np.random.default_rng(0)
    draws, rows = {}, {}
    for group in map(str, np.unique(of)):
        own = errors[of == group]
        means = [own[rng.integers(0, len(own), len(own))].mean() for _ in range(_RESAMPLES)]
        draws[group] = np.array(means)
        low, high = _middle(draws[group], LEVEL)
        rows[group] = {"value": float(own.mean()), "low": low, "high": high, "records": len(own)}
    gap = None
    if len(rows) > 1:
        level = _together(len(rows))
        best, worst = (pick(rows, key=lambda g: rows[g]["value"]) for pick in (max, min))
        low, high = _middle(draws[best] - draws[worst], level)
        gap = _told(best, worst, rows[best]["value"] - rows[worst]["value"], low, high)
    return {"rate": "mean absolute error", "groups": rows, "gap": gap}


def _rate(hits: int, count: int) -> dict[str, Any]:
    low, high = wilson(hits, count, LEVEL)
    return {"value": hits / count, "low": low, "high": high, "records": count}


def _gap(known: Mapping[str, tuple[int, int]]) -> dict[str, Any] | None:
    if len(known) < 2:
        return None

    def apart(pair: tuple[str, str]) -> float:
        return abs(known[pair[0]][0] / known[pair[0]][1] - known[pair[1]][0] / known[pair[1]][1])

    one, other = max(combinations(known, 2), key=apart)
    if known[one][0] / known[one][1] < known[other][0] / known[other][1]:
        one, other = other, one
    low, high = difference(known[one], known[other], _together(len(known)))
    return _told(one, other, apart((one, other)), low, high)


def _told(one: str, other: str, size: float, low: float, high: float) -> dict[str, Any]:
    return {
        "from": other,
        "to": one,
        "value": size,
        "low": low,
        "high": high,
        "beyond_chance": low > 0 or high < 0,
    }


def _together(groups: int) -> float:
    return 1 - (1 - LEVEL) / (groups * (groups - 1) / 2)


def _middle(draws: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
