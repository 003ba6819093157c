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
    if scenario.private:
        errors.append(
            "inference.calibration: must be 0 when privacy.unit is not none (rule: counts on "
            "private records may not leave a site without a charge to its ledger, and nothing "
            f"charges them), got {chosen.calibration}; leave it out, and all inputs go deep"
        )
    if not scenario.classifies:
        errors.append(
            f"inference.calibration: is for classification, and task.name is "
            f"{scenario.task.reads}, got {chosen.calibration}; leave it out"
        )
    if scenario.data.at_sites:
        errors.append(
            "inference.calibration: must be 0 where the sites alone hold the records (rule: a "
            f"simulation counts, and no site of a deployment does), got {chosen.calibration}; "
            "leave it out"
        )
    if chosen.threshold != "pooled" and not scenario.data.test_fraction:
        errors.append(
            "inference.threshold: must be pooled when data.test_fraction is 0 (rule: a site's own "
            f"threshold is judged by what the site holds out), got {chosen.threshold!r}; set "
            "data.test_fraction"
        )
    return errors
