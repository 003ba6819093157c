"""Scores: how each is called and written, and which one people look at first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedlite.reporting.formats import amount, score, share

BRANCHES = ("shallow", "deep")


@dataclass(frozen=True)
class Measure:
    """A score: its name in a record, its name for people, and how a figure is put.

    share: figures are shares of 1, of which people speak as percent. low: the lowest figure that a
    picture need show; None where there is none.
    """

    key: str
    name: str
    say: Callable[[object], str]
    share: bool = False
    low: float | None = 0.0

    @property
    def axis(self) -> str:
        """What stands at an axis."""
        return f"{self.name} (%)" if self.share else self.name

    @property
    def title(self) -> str:
        """Its name at the start of a sentence."""
        return self.name[:1].upper() + self.name[1:]


# What is looked at first comes first.
_KNOWN = (
    Measure("r2", "R²", score),
    Measure("f1", "F1", score),
    Measure("auc", "AUC", score),
    Measure("accuracy", "accuracy", share, share=True),
    Measure("perplexity", "perplexity", amount, low=None),
    Measure("nll", "nats a token", amount, low=None),
    Measure("mae", "mean absolute error", amount, low=None),
    Measure("rmse", "root mean squared error", amount, low=None),
)
MEASURES = {measure.key: measure for measure in _KNOWN}


def measure(key: str) -> Measure:
    """Return a score by its name in a record; one of a task of one's own is called so."""
    return MEASURES.get(key) or Measure(key, key, amount, low=None)


def ranked(found: Mapping[str, object]) -> list[Measure]:
    """Return the scores of a record in the order in which people look at them.

    >>> [one.name for one in ranked({"accuracy": {}, "mae": {}, "auc": {}})]
    ['AUC', 'accuracy', 'mean absolute error']
    """
    order = list(MEASURES)
    place = {key: order.index(key) if key in MEASURES else len(order) for key in found}
    return [measure(key) for key in sorted(found, key=lambda key: (place[key], key))]


def main(found: Mapping[str, object]) -> Measure:
    """Return the score that is looked at first; the accuracy where there is none.

    >>> main({"accuracy": {}, "auc": {}}).name, main({}).name
    ('AUC', 'accuracy')
    """
    return next(iter(ranked(found)), MEASURES["accuracy"])


def measured(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return a summary's parts of scores by name, each a figure by branch and `by_site`."""
    parts = {"accuracy": summary["accuracy"], "auc": summary.get("auc") or {}}
    parts |= summary.get("scores") or {}
    return {key: part for key, part in parts.items() if any(branch in part for branch in BRANCHES)}


def part_of(summary: Mapping[str, Any]) -> tuple[Measure, Mapping[str, Any]]:
    """Return the score that is looked at first, and its part of the summary."""
    parts = measured(summary)
    first = main(parts)
    return first, parts.get(first.key, summary["accuracy"])


def branches(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the branches that the model has, the shallow one first; both where nobody says."""
    costs = summary.get("model", {}).get("costs") or {}
    return ("deep",) if "network" in costs else BRANCHES
