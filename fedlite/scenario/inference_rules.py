"""Rules that tie the keys of `[inference]` to others."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlite.scenario.whole import Scenario


def broken(scenario: Scenario) -> list[str]:
    """Return a line for each rule that the scenario breaks: key, rule, value and mend."""
    chosen = scenario.inference
    if not chosen.calibration:
        return [
            f"inference.{one.name}: must be left out unless inference.calibration is above 0 "
            f"(rule: without records held out for it no threshold is chosen), got "
            f"{getattr(chosen, one.name)!r}; set inference.calibration, for example to 0.1"
            for one in fields(chosen)
            if one.name not in ("home_head", "calibration")
            and getattr(chosen, one.name) != one.default
        ]
    errors = []
    errors += _counts(scenario) + _risk(scenario)
    if not scenario.classifies:
        errors.append(
            f"inference.calibration: is for classification, and task.name is "
            f"{scenario.task.reads}, got {chosen.calibration}; leave it out"
        )
    if chosen.threshold != "pooled" and not scenario.data.test_fraction:
        errors.append(
            "inference.threshold: must be pooled when data.test_fraction is 0 (rule: a site's own "
            f"threshold is judged by what the site holds out), got {chosen.threshold!r}; set "
            "data.test_fraction"
        )
    return errors


def _risk(scenario: Scenario) -> list[str]:
    """Return what speaks against a bound of the loss instead of the harm."""
    chosen = scenario.inference
    if chosen.risk == "harm":
        return []
    why = [
        (not chosen.labels, "without inference.labels", "only a label tells what gains"),
        (
            chosen.threshold == "shrunk",
            "where inference.threshold is shrunk",
            "the test of a loss is of whole records, and a mixture has none",
        ),
        (
            chosen.epsilon > 0,
            "with inference.epsilon",
            "noised counts tell harm alone, each kind more would add its noise",
        ),
    ]
    return [
        f"inference.risk: must be harm {where} (rule: {rule}), got {chosen.risk!r}; set it so, "
        "which bounds the loss from above"
        for broken, where, rule in why
        if broken
    ]


def _counts(scenario: Scenario) -> list[str]:
    """Return what speaks against letting counts leave the sites as the scenario says."""
    chosen, unit = scenario.inference, scenario.privacy.unit
    if not scenario.private:
        return [
            "inference.epsilon: must be 0 when privacy.unit is none (rule: where updates leave "
            "without noise no ledger is kept, and noise on counts alone would promise nothing for "
            f"the data), got {chosen.epsilon:g}; leave it out, or set privacy.unit"
        ] * bool(chosen.epsilon)
    if unit == "client":
        return [
            "inference.calibration: must be 0 when privacy.unit is client (rule: one client's "
            "counts are of all its records, and noise that hides one record does not hide them), "
            f"got {chosen.calibration}; leave it out, and all inputs go deep"
        ]
    if scenario.shared:
        return [
            "inference.calibration: must be 0 when privacy.noise_at is shared (rule: a site's "
            "counts leave with its own noise alone, and a ledger holds one kind of plan in a run), "
            "got "
            f"{chosen.calibration}; leave it out, and all inputs go deep"
        ]
    if not chosen.epsilon:
        return [
            "inference.calibration: must be 0 when privacy.unit is record and inference.epsilon is "
            "0 (rule: counts on private records may not leave a site without noise and a charge to "
            f"its ledger), got {chosen.calibration}; set inference.epsilon, for example to 1, or "
            "leave both out, and all inputs go deep"
        ]
    if chosen.threshold == "shrunk":
        return [
            "inference.threshold: must be pooled or site with inference.epsilon (rule: of a "
            "mixture of noised counts no bound is known), got "
            f"{chosen.threshold!r}; set one of these"
        ]
    return []
