"""Which round's model is released, and when a run ends before its last round.

A choice among models is one more function of what was released to whoever chooses. Where it looks
at nothing but released models and records that no site holds, it costs no privacy at all: it is
post-processing. By what private sites hold out it would be a release that no plan has charged, so
that is refused. A run that ends early has still committed, and is charged, its whole plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.reporting import measures, scores
from fedlite.scenario import Selection
from server.checkpoint import Checkpoint, Kept
from server.evaluation import Evaluator
from server.summary import scores_of


class Selector:
    """Keeps the best round by a named score of the released model.

    With `federation.average_last` that model is the average so far, once averaging has begun: what
    is scored is what would be released.
    """

    def __init__(self, plan: Plan, evaluator: Evaluator) -> None:
        """Take what was planned and what scores it; see `of`."""
        self._selection: Selection = plan.scenario.selection
        self._planned = plan.scenario.federation.rounds
        self._evaluator, self.score = evaluator, self._selection.score

    @classmethod
    def of(cls, plan: Plan, evaluator: Evaluator | None) -> Selector | None:
        """Return what chooses among a run's rounds; None where nothing is to be chosen.

        Raises ValueError, with the rule's name, where no score may be looked at, and for a score
        that these data do not have.
        """
        selection = plan.scenario.selection
        if not selection.active:
            return None
        key = "selection.keep" if selection.keep == "best" else "selection.patience"
        if evaluator is None:
            raise ValueError(
                f"{key}: must be left out where the coordinator holds no records (rule: nobody "
                "there can score a round, and no site sends a score); leave it out"
            )
        by_sites = selection.on == "sites" or evaluator.source.test is None
        if plan.scenario.private and by_sites:
            raise ValueError(
                f"{key}: must be left out when privacy.unit is not none and the score is that of "
                "the sites' held-out records (rule: a choice by private records is a release that "
                f"no plan has charged), got selection.on {selection.on!r} and data "
                f"{evaluator.source.name!r}; leave it out, or take a source with a test set of its "
                'own and selection.on = "test"'
            )
        source, data = evaluator.source, plan.scenario.data
        own_scale = source.train.raw and data.scaling == "site" and source.ranges is None
        if plan.scenario.private and own_scale:
            raise ValueError(
                f"{key}: must be left out when privacy.unit is not none and the test set is scaled "
                "by all sites' records (rule: a choice by private records is a release that no "
                f"plan has charged), got data.scaling {data.scaling!r} without data.ranges; leave "
                "it out, or set data.ranges"
            )
        if by_sites and not any(len(site.test) for site in evaluator.sites):
            raise ValueError(
                "data.test_fraction: must hold out records when selection.on is 'sites', got "
                f"{plan.scenario.data.test_fraction}; 0.2 holds out a fifth"
            )
        selector = cls(plan, evaluator)
        found = selector._scores(plan.first)
        selector.score = selection.score or scores.usual(selector._by_kind(found))
        if selector._value(found) is None:
            known = ", ".join(scores.names(selector._by_kind(found)))
            raise ValueError(
                f"selection.score: must be one of {known}, got {selector.score!r}; name one, or "
                "leave it out"
            )
        return selector

    @property
    def on(self) -> str:
        """What the score is measured on, for a person."""
        if self._selection.on == "test":
            return self._evaluator.on
        records = sum(len(site.test) for site in self._evaluator.sites)
        return f"sites' own held-out parts ({records:,} records)"

    def after(self, kept: Kept | None, number: int, vector: Vector) -> Kept | None:
        """Return what is kept after round `number` released `vector`, a model and its extras."""
        value = self._value(self._scores(vector))
        if value is None:
            return kept
        if kept is None or self._gains(value, kept.score):
            best = vector.copy() if self._selection.keep == "best" else None
            return Kept(number, value, 0, best)
        return replace(kept, waited=kept.waited + 1)

    def over(self, kept: Kept | None) -> bool:
        """Return whether the run has waited long enough for a better round."""
        patience = self._selection.patience
        return bool(patience) and kept is not None and kept.waited >= patience

    def told(self, point: Checkpoint) -> dict[str, Any]:
        """Return which round was kept and why, for the summary of a run.

        `round` and `value` are those of the best scored round, None where none was.
        """
        chosen, kept = self._selection, point.kept
        return {
            "keep": chosen.keep,
            "score": self.score,
            "on": self.on,
            "round": kept.round if kept else None,
            "value": kept.score if kept else None,
            "minimum": chosen.minimum,
            "patience": chosen.patience,
            "stopped": self.over(kept) and point.round < self._planned,
        }

    def _gains(self, value: float, best: float) -> bool:
        less = scores.less_is_better(self.score)
        gain = best - value if less else value - best
        minimum: float = self._selection.minimum
        return gain > minimum

    def _scores(self, vector: Vector) -> dict[str, Any]:
        """Return the scores of a model by kind and branch, in the form that a summary has."""
        if self._selection.on == "sites":
            return scores_of(self._evaluator, vector)
        # The evaluator remembers the model it was last asked for: this round's is not run again.
        return dict(self._evaluator.overall(vector))

    def _value(self, found: Mapping[str, Any]) -> float | None:
        read = scores.held_out if self._selection.on == "sites" else scores.of_scores
        return read(found, self.score)

    def _by_kind(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        return measures.measured(found) if self._selection.on == "sites" else found
