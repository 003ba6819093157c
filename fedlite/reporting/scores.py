"""A score by its name, as in `rounds.jsonl`: `accuracy.deep` is what `accuracy` says of `deep`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedlite.reporting import measures
from fedlite.reporting.formats import number_of
from fedlite.reporting.record import RoundRecord

# Of these less is better; of anything else more is.
LESS_IS_BETTER = ("loss", "error", "mae", "mse", "rmse", "nll", "perplexity")


def better(name: str, one: float, other: float) -> bool:
    """Return whether a value of the score `name` is better than another; NaN is worse than all.

    >>> better("accuracy.deep", 0.9, 0.8), better("loss.deep", 0.9, 0.8)
    (True, False)
    """
    if math.isnan(other):
        return not math.isnan(one)
    return one < other if less_is_better(name) else one > other


def less_is_better(name: str) -> bool:
    """Return whether the smaller value of a score is the better one."""
    return name.partition(".")[0] in LESS_IS_BETTER


def usual(found: Mapping[str, object]) -> str:
    """Return the score that people mean where they name none; found: scores by kind.

    >>> usual({"accuracy": {"deep": 0.9}, "auc": {"deep": 0.95}}), usual({})
    ('auc.deep', 'accuracy.deep')
    """
    return f"{measures.main(found).key}.deep"


def kind(name: str) -> measures.Measure:
    """Return how the score is called and written, whatever its branch."""
    return measures.measure(name.partition(".")[0])


def title(name: str) -> str:
    """Return the name of a score in words.

    >>> title("auc.deep"), title("accuracy.shallow")
    ('AUC, deep', 'accuracy, shallow')
    """
    branch = name.partition(".")[2]
    return f"{kind(name).name}, {branch}" if branch else kind(name).name


def of_scores(found: Mapping[str, Any], name: str) -> float | None:
    """Return a score from scores by kind and branch; None where it is not there."""
    key, _, branch = name.partition(".")
    values = found.get(key)
    # A count beside the figures is no score of a branch.
    if not isinstance(values, Mapping) or branch not in measures.BRANCHES:
        return None
    return number_of(values.get(branch))


def of_round(record: RoundRecord, name: str) -> float | None:
    """Return a round's score; None where it was not scored, or has none of this name."""
    return of_scores(record.measured, name)


def of_summary(summary: Mapping[str, Any], name: str) -> float | None:
    """Return the released model's score over all that it was measured on; None without one."""
    return of_scores(measures.measured(summary), name)


def held_out(summary: Mapping[str, Any], name: str) -> float | None:
    """Return the released model's score on the sites' own held-out records; None without any.

    An accuracy counts each record once; of any other score it is the mean of the sites.

    >>> by_site = {"a": {"deep": 1.0, "records": 1}, "b": {"deep": 0.5, "records": 4}}
    >>> held_out({"accuracy": {"deep": 0.7, "by_site": by_site}}, "accuracy.deep")
    0.6
    """
    key = name.partition(".")[0]
    sites = measures.measured(summary).get(key, {}).get("by_site") or {}
    pairs = []
    for row in sites.values():
        value = of_scores({key: row}, name)
        if value is not None:
            pairs.append((value, int(row["records"]) if key == "accuracy" else 1))
    weight = sum(w for _, w in pairs)
    return sum(value * w for value, w in pairs) / weight if weight else None


def names(found: Mapping[str, Any]) -> list[str]:
    """Return all scores of scores by kind and branch, sorted."""
    every = (f"{key}.{branch}" for key in found for branch in measures.BRANCHES)
    return sorted(name for name in every if of_scores(found, name) is not None)
