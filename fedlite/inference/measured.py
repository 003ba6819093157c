"""What calibration comes to: thresholds from counts, and accuracy, work and harm on other records.

Each site's counts are computed from its own calibration records, as a site would compute them, and
only the counts are looked at. What it comes to is measured on records held out from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.evaluation import Trained
from fedlite.inference import calibration, routing
from fedlite.inference.calibration import Choice, Counts
from fedlite.inference.quantized import choosing
from fedlite.inference.work import (
    Answered,
    Costs,
    answered,
    auroc,
    copies,
    curve,
    early,
    harm_by_class,
    outcome,
)
from fedlite.registry import label
from fedlite.scenario import Scenario
from fedlite.settings import read_options


def inference_of(scenario: Scenario, trained: Trained) -> dict[str, Any]:
    """Return the `inference` part of the summary: the thresholds, and what they come to."""
    plan, source, sites = plans.simulated(scenario)
    chosen = scenario.inference
    counts = {
        site.name: site_counts(scenario, trained, site.calibration, plan.classes)
        for site in sites
        if site.calibration is not None
    }
    choices = calibration.by_site(counts, chosen.threshold, chosen.alpha, chosen.confidence)
    pool = chosen.threshold == "pooled"
    held = {site.name: answered(trained, site.test) for site in sites if len(site.test)}
    if source.test is not None and pool:
        parts, on = (
            {sites[0].name: answered(trained, source.test)},
            f"the test set of {source.name}",
        )
    else:
        parts, on = held, "the sites' own held-out records"
    return {
        "router": label(chosen.router),
        "alpha": chosen.alpha,
        "confidence": chosen.confidence,
        "labels": chosen.labels,
        "kind": chosen.threshold,
        "promise": calibration.PROMISES[chosen.threshold],
        "least": calibration.least(chosen.alpha, chosen.confidence),
        "copies": copies(
            [choosing(trained, site.calibration) for site in sites if site.calibration is not None]
        ),
        **(_told(next(iter(choices.values()))) if pool else {}),
        "on": on,
        **_measured(scenario, trained, parts, choices, source.labels),
        "by_site": _by_site(scenario, held, choices),
    }


def site_counts(scenario: Scenario, trained: Trained, data: Dataset, classes: int) -> Counts:
    """Return what a site tells of its calibration records."""
    chosen = scenario.inference
    of = answered(trained, choosing(trained, data))
    scores = of.scores(chosen.router, read_options(chosen.router_options))
    truth = of.truth if chosen.labels else None
    return calibration.count(scores, of.shallow, of.deep, classes, truth)


def _told(choice: Choice) -> dict[str, Any]:
    return {
        "threshold": choice.threshold,
        "records": choice.records,
        "harmed": choice.harm,
        "missing": choice.missing,
    }


def _measured(
    scenario: Scenario,
    trained: Trained,
    parts: Mapping[str, Answered],
    choices: dict[str, Choice],
    labels: tuple[str, ...],
) -> dict[str, Any]:
    """Return what all test records together come to, each under the threshold of its site."""
    chosen, costs = scenario.inference, Costs.of(trained.model.costs())
    options = read_options(chosen.router_options)
    leaves = np.concatenate(
        [
            early(of.scores(chosen.router, options), choices[name].threshold)
            for name, of in parts.items()
        ]
    )
    names = ("inputs", "shares", "shallow", "deep", "truth")
    whole = Answered(
        *(np.concatenate([getattr(of, name) for of in parts.values()]) for name in names)
    )
    scores = whole.scores(chosen.router, options)
    routers = {name: whole.scores(name, {}) for name in routing.HOUSE}
    routers[label(chosen.router)] = scores
    found = outcome(whole, leaves)
    asked = any(choices[name].threshold is not None for name in parts)
    work = costs.adaptive(found["share_shallow"]) if asked else costs.deep
    return {
        "tested": found.pop("records"),
        **found,
        "macs": {"deep": costs.deep, "shallow": costs.shallow, "adaptive": work},
        "by_class": harm_by_class(whole, leaves, labels),
        "auroc": {name: auroc(whole, of) for name, of in routers.items()},
        "curve": curve(whole, scores, costs),
    }


def _by_site(
    scenario: Scenario, held: Mapping[str, Answered], choices: dict[str, Choice]
) -> dict[str, Any]:
    """Return each site's threshold and, where it holds records out, what comes of it there.

    `violated` says that more than alpha of these records are harmed: of few, that may be chance.
    """
    chosen, found = scenario.inference, {}
    for name, choice in choices.items():
        told = _told(choice)
        if of := held.get(name):
            scores = of.scores(chosen.router, read_options(chosen.router_options))
            measured = outcome(of, early(scores, choice.threshold))
            told |= {"tested": measured.pop("records"), **measured}
            told["violated"] = measured["harm"] > chosen.alpha
        found[name] = told
    return found
