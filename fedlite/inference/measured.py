"""What calibration comes to: thresholds from counts, and accuracy, work and harm on other records.

A site counts its own calibration records and tells the counts alone (`fedlite.inference.told`).
What it comes to is measured on records held out from both, where whoever asks holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedlite import plan as plans
from fedlite.evaluation import Trained
from fedlite.inference import calibration, noisy, routing
from fedlite.inference.calibration import Choice
from fedlite.inference.counted import site_counts
from fedlite.inference.noisy import Noisy
from fedlite.inference.quantized import choosing
from fedlite.inference.told import Cells, cells_of
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


def inference_of(
    scenario: Scenario, trained: Trained, cells: Mapping[str, Cells] | None = None
) -> dict[str, Any]:
    """Return the `inference` part of the summary: the thresholds, and what they come to.

    cells: what the sites have told; without it, where nothing is private, they are counted here.
    """
    plan, source, sites = plans.simulated(scenario)
    chosen = scenario.inference
    kept = {site.name: site.calibration for site in sites if site.calibration is not None}
    if cells is None:
        if scenario.private:
            raise ValueError("cells: must be what sites told where records are private, got none")
        cells = {
            name: cells_of(
                site_counts(scenario, trained, choosing(trained, data), plan.classes), chosen.risk
            )
            for name, data in kept.items()
        }
    names = [site.name for site in sites]
    # Real sites need not be called as those of a simulation.
    names += sorted(cells.keys() - set(names))
    choices = _choices(scenario, cells, names)
    pool = chosen.threshold == "pooled"
    held = {site.name: answered(trained, site.test) for site in sites if len(site.test)}
    if source.test is not None and pool:
        parts, on = {names[0]: answered(trained, source.test)}, f"the test set of {source.name}"
    else:
        parts, on = held, "the sites' own held-out records"
    found = _asked(scenario, choices)
    if not scenario.private:
        found["copies"] = copies([choosing(trained, data) for data in kept.values()])
    return {
        **found,
        "on": on,
        **_measured(scenario, trained, parts, choices, source.labels),
        "by_site": _by_site(scenario, held, choices),
    }


def promised(
    scenario: Scenario, cells: Mapping[str, Cells], sites: Sequence[str]
) -> dict[str, Any]:
    """Return the same where the sites alone hold records: nothing is measured but by the counts.

    sites: all of the run. `counted` has the share of the calibration records that leave early, and
    that are harmed; under noise estimates.
    """
    choices = _choices(scenario, cells, sites)
    counted = {}
    for name, choice in choices.items():
        share = {"share_shallow": choice.shallow, "harm": choice.harm}
        counted[name] = {key: value / max(1, choice.records) for key, value in share.items()}
    found = _asked(scenario, choices)
    if scenario.inference.threshold == "pooled" and sites:
        found["counted"] = counted[sites[0]]
    by_site = {name: _told(choice) | {"counted": counted[name]} for name, choice in choices.items()}
    return found | {"by_site": by_site}


def _choices(
    scenario: Scenario, cells: Mapping[str, Cells], sites: Sequence[str]
) -> dict[str, Choice]:
    """Return the threshold of each site; of one that has told nothing, what the others allow.

    By its own counts that is none: all of its inputs go deep.
    """
    chosen = scenario.inference
    how = (chosen.threshold, chosen.alpha, chosen.confidence)
    known: Mapping[str, Choice] = {}
    if cells and chosen.epsilon:
        known = noisy.by_site(cells, *how)
    elif cells:
        plain = {name: one.plain() for name, one in cells.items()}
        known = calibration.by_site(plain, *how, chosen.risk)
    nothing = Choice(None, 0, 0, 0, _least(scenario))
    if known and chosen.threshold == "pooled":
        nothing = next(iter(known.values()))
    return {name: known.get(name, nothing) for name in sites}


def _least(scenario: Scenario) -> int:
    chosen = scenario.inference
    return calibration.least(chosen.alpha, chosen.confidence, chosen.risk)


def _asked(scenario: Scenario, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Return what was asked for and promised, and of one threshold for all what it rests on."""
    chosen = scenario.inference
    found = {
        "router": label(chosen.router),
        "alpha": chosen.alpha,
        "confidence": chosen.confidence,
        "risk": chosen.risk,
        "labels": chosen.labels,
        "kind": chosen.threshold,
        "promise": calibration.PROMISES[chosen.threshold],
        "least": _least(scenario),
    }
    if chosen.epsilon:
        found["epsilon"] = chosen.epsilon
    pool = chosen.threshold == "pooled" and choices
    return found | (_told(next(iter(choices.values()))) if pool else {})


def _told(choice: Choice) -> dict[str, Any]:
    told = {
        "threshold": choice.threshold,
        "records": choice.records,
        "harmed": choice.harm,
        "missing": choice.missing,
    }
    if choice.gain:
        told["gained"] = choice.gain
    if isinstance(choice, Noisy):
        told |= {"harm_at_most": choice.harm_at_most, "records_at_least": choice.records_at_least}
    return told


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

    `violated` says that harm, or the loss, is above alpha on these records: of few, that may be
    chance.
    """
    chosen, found = scenario.inference, {}
    for name, choice in choices.items():
        told = _told(choice)
        if of := held.get(name):
            scores = of.scores(chosen.router, read_options(chosen.router_options))
            measured = outcome(of, early(scores, choice.threshold))
            told |= {"tested": measured.pop("records"), **measured}
            told["violated"] = measured[chosen.risk] > chosen.alpha
        found[name] = told
    return found
