"""A federation beside other ways to train, in a cross-validation whose folds train all of it anew.

Everything is measured on each site's own held-out records. An epsilon speaks of one federation
only, and only a simulation may hold the records to train so many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlite import plan as plans
from fedlite.models.files import read_vector
from fedlite.reporting.progress import Progress
from fedlite.reporting.record import read_summary
from fedlite.reporting.report import report
from fedlite.scenario import Scenario, ScenarioError
from fedlite.training.share import settle_process
from server.closing import finish, witness_of
from simulations.baselines import (
    ALONE,
    COMMONEST,
    FEDERATED_CLEAR,
    POOLED,
    Fold,
    Scores,
    divided,
    exchanged,
    federated_name,
    home_scores,
    over_folds,
    over_records,
    train_fold,
)


@dataclass(frozen=True)
class Comparison:
    """Scores of every way to train; NaN where undefined.

    `metric` is "auc" for two classes, undefined where there is only one, otherwise "accuracy".
    `scores` [repeats, ways, sites] is `metric` over all of a site's records, each scored once a
    repeat by the model of the fold that did not train on it. `by_fold` [repeats, folds, ways,
    sites] is `metric` of each held-out part by itself: of a site with eight negatives a fold holds
    one or two, and a mean of such AUCs says little. `accuracy` has the shape of `by_fold`;
    `majority` [repeats, folds, sites] is the accuracy of always answering the training part's
    commonest class; `exchange` [repeats, from, to] is `metric` of the heads that one site trained
    alone, over all records of every site (its own ones out of fold).
    """

    metric: str
    ways: tuple[str, ...]
    sites: tuple[str, ...]
    scores: Scores
    by_fold: Scores
    accuracy: Scores
    majority: Scores
    exchange: Scores

    def by_site(self, way: str) -> Scores:
        """Return `metric` [repeats, sites] of one way to train, over all records of a site."""
        return self.scores[:, self.ways.index(way)]


def add_comparisons(scenario: Scenario, directory: Path, *, quiet: bool) -> None:
    """Add `home_head` and `baselines` to a finished run's summary and draw its report again.

    What is added is what `inference.home_head` and `report.baseline_repeats` ask for. `scenario` is
    checked and settled. Raises ValueError when its model or data do not allow it.
    """
    summary = read_summary(directory)
    if scenario.inference.home_head:
        summary["home_head"] = home_scores(
            scenario, read_vector(directory, plans.simulated(scenario)[0].stored)
        )
    repeats = scenario.report.baseline_repeats
    if repeats:
        with Progress(repeats, None, quiet=quiet) as progress:
            found = compare(scenario, repeats, progress.status)
            summary["baselines"] = as_summary(scenario, found)
            progress.status("writing the report")
    finish(directory, summary, witness_of(scenario, directory))
    report(directory)


def compare(scenario: Scenario, repeats: int, say: Callable[[str], None]) -> Comparison:
    """Train and score everything, `repeats` times over all folds; a repeat divides them anew.

    `say` is told about each fold. Raises ScenarioError when no site holds records out, ValueError
    when the deep branch is not a linear head on fixed features.
    """
    if not scenario.data.test_fraction:
        raise ScenarioError(
            "data.test_fraction: must be greater than 0 with report.baseline_repeats, got 0; 0.2 "
            "gives five folds"
        )
    from threadpoolctl import threadpool_limits

    settle_process()
    folds = round(1 / scenario.data.test_fraction)
    rows: list[list[Fold]] = []
    for repeat in range(repeats):
        rows.append([])
        for fold in range(folds):
            say(f"comparisons: repeat {repeat + 1} of {repeats}, fold {fold + 1} of {folds}")
            # On so few columns several BLAS threads only wait for each other.
            with threadpool_limits(1):
                rows[-1].append(train_fold(divided(scenario, repeat, fold)))
    first = rows[0][0]
    ways = tuple(first.scores)
    _, _, sites = plans.simulated(scenario)
    return Comparison(
        metric=first.metric,
        ways=ways,
        sites=tuple(site.name for site in sites),
        scores=np.array([[over_records(row, way) for way in ways] for row in rows]),
        by_fold=np.array([[list(fold.scores.values()) for fold in row] for row in rows]),
        accuracy=np.array([[list(fold.accuracy.values()) for fold in row] for row in rows]),
        majority=np.array([[fold.majority for fold in row] for row in rows]),
        exchange=np.array([exchanged(row) for row in rows]),
    )


def as_summary(scenario: Scenario, found: Comparison) -> dict[str, Any]:
    """Return the `baselines` part of the summary, without NaN: what is undefined is left out."""
    rows = []
    for way in found.ways:
        by_site = _known(found.sites, _mean(found.by_site(way)))
        mean = float(np.mean(list(by_site.values()))) if by_site else None
        rows.append({"name": way, "by_site": by_site, "mean": mean})
    exchange = {
        name: _known(found.sites, _mean(found.exchange[:, number]))
        for number, name in enumerate(found.sites)
    }
    accuracy = {
        way: _known(found.sites, _mean(over_folds(found.accuracy[:, :, number])))
        for number, way in enumerate(found.ways)
    }
    accuracy[COMMONEST] = _known(found.sites, _mean(over_folds(found.majority)))
    return {
        "metric": found.metric,
        "folds": found.by_fold.shape[1],
        "repeats": found.scores.shape[0],
        "rows": rows,
        "exchange": exchange,
        "accuracy": accuracy,
        "mean_of_folds": {
            way: _known(found.sites, _mean(over_folds(found.by_fold[:, :, number])))
            for number, way in enumerate(found.ways)
        },
        "note": note(scenario, found, accuracy),
    }


def _mean(values: Scores) -> Scores:
    """Mean over repeats [repeats, sites] to [sites], leaving out NaN."""
    mean: Scores = over_folds(values[None])[0]
    return mean


def _known(names: tuple[str, ...], values: Scores) -> dict[str, float]:
    return {
        name: float(v) for name, v in zip(names, values, strict=True) if math.isfinite(float(v))
    }


def note(scenario: Scenario, found: Comparison, accuracy: dict[str, dict[str, float]]) -> str:
    """Return what a reader must know beside the table."""
    parts = [
        "All rows but the last are the deep branch. Alone and pooled, not private: ridge logistic "
        "regression, its strength chosen by log loss on inner folds of the training part."
    ]
    if scenario.privacy.unit == "record":
        parts.append(
            f"{FEDERATED_CLEAR.capitalize()}: the private recipe, its clipping included, without "
            "noise and compression. Every fold is a fresh simulation; epsilon speaks of one "
            "federation, and does not cover the choice of its settings."
        )
        if scenario.privacy.simulate_seed >= 0:
            parts.append("The noise is repeatable here, so no privacy is claimed at all.")
    parts.append(
        "A home head is fitted after training, on the site's clear records, and never sent; it is "
        "not private towards those who see its answers."
    )
    if found.metric == "auc":
        parts += [_rarest_note(scenario, found), _accuracy_note(scenario, accuracy)]
    return " ".join(parts)


def _rarest_note(scenario: Scenario, found: Comparison) -> str:
    """Say how few records the coarsest site's AUC rests on, and what the mean of folds would be."""
    plan, _, sites = plans.simulated(scenario)
    counts = {
        site.name: int(
            np.bincount(np.concatenate([site.train.y, site.test.y]), minlength=plan.classes).min()
        )
        for site in sites
    }
    fewest = min(counts, key=lambda site: counts[site])
    by_fold = {
        way: float(np.nanmean(over_folds(found.by_fold[:, :, found.ways.index(way)])))
        for way in (ALONE, federated_name(scenario))
    }
    text = ", ".join(f"{way} {value:.3f}" for way, value in by_fold.items())
    return (
        "An AUC is over all of a site's records, each scored by a model that was not trained on it "
        f"(mean of the folds' own AUCs instead: {text}). It rests on the rarer class: {fewest} has "
        f"{counts[fewest]} records of it, so differences of a few points there are chance."
    )


def _accuracy_note(scenario: Scenario, accuracy: dict[str, dict[str, float]]) -> str:
    """Say what accuracy shows, and why it is not what the ways are compared by."""
    mean = {way: float(np.mean(list(v.values()))) for way, v in accuracy.items() if v}
    commonest = accuracy[COMMONEST]
    most = max(commonest, key=lambda site: commonest[site])
    return (
        f"Accuracy, mean of sites: alone {mean[ALONE]:.3f}, pooled {mean[POOLED]:.3f}, "
        f"{federated_name(scenario)} {mean[federated_name(scenario)]:.3f}. It is not the measure "
        f"here, and no gain in it is claimed: sites differ in how common a class is (at {most} "
        f"always answering the commonest is right for {100 * commonest[most]:.0f} %), which a site "
        "alone knows best; AUC asks only how well records are ranked."
    )
