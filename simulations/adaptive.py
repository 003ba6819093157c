"""Whether a scenario's router, model and records allow a threshold to be chosen."""

from __future__ import annotations

from collections.abc import Sequence

from fedlite.data import SiteData
from fedlite.inference import routing
from fedlite.inference.counted import check_router
from fedlite.inference.work import BRANCHES
from fedlite.plan import Plan
from fedlite.registry import label
from fedlite.scenario import ScenarioError


def check_model(plan: Plan) -> None:
    """Raise ValueError where a scenario's router or model allow no calibration."""
    chosen = plan.scenario.inference
    routing.ROUTERS.check(chosen.router)
    check_router(plan.scenario)
    if tuple(plan.model().branches) != BRANCHES:
        raise ScenarioError(
            "inference.calibration: must be 0 for a model with one branch (rule: there is no "
            f"shallow answer to trust), got {chosen.calibration} with "
            f"{label(plan.scenario.model.name)!r}; leave it out, or use a model that answers twice"
        )


def check(plan: Plan, sites: Sequence[SiteData]) -> None:
    """Raise ValueError where the records, which are here, allow none."""
    chosen = plan.scenario.inference
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
