"""After the last round of a simulation: which inputs may leave early, and what that comes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedlite.data import SiteData
from fedlite.evaluation import open_model
from fedlite.inference import routing
from fedlite.inference.measured import inference_of
from fedlite.inference.work import BRANCHES
from fedlite.plan import Plan
from fedlite.registry import label
from fedlite.reporting.record import read_summary
from fedlite.reporting.report import report
from fedlite.scenario import Scenario, ScenarioError
from server.closing import finish, witness_of


def check(plan: Plan, sites: Sequence[SiteData]) -> None:
    """Raise ValueError where a scenario's router, model or records allow no calibration."""
    chosen = plan.scenario.inference
    routing.ROUTERS.check(chosen.router)
    if tuple(plan.model().branches) != BRANCHES:
        raise ScenarioError(
            "inference.calibration: must be 0 for a model with one branch (rule: there is no "
            f"shallow answer to trust), got {chosen.calibration} with "
            f"{label(plan.scenario.model.name)!r}; leave it out, or use a model that answers twice"
        )
    if not any(site.calibration for site in sites):
        raise ScenarioError(
            "inference.calibration: must hold out one record at least, got "
            f"{chosen.calibration}, which holds out none; make it larger"
        )
    if chosen.threshold != "pooled" and not any(len(site.test) for site in sites):
        raise ScenarioError(
            "data.test_fraction: must hold out one record at least, by which a site's own "
            "threshold is judged, and holds out none; make it larger"
        )


def add_inference(scenario: Scenario, directory: Path) -> None:
    """Add `inference` to a finished run's summary, and draw its report again.

    scenario: checked and settled, with `inference.calibration` above 0.
    """
    summary = read_summary(directory)
    summary["inference"] = inference_of(scenario, open_model(directory))
    finish(directory, summary, witness_of(scenario, directory))
    report(directory)
