"""Two sites of a coordinator at work, for the tests of who and what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from clients.runtime import approval, setup
from fedlite import scenario as config
from fedlite.deployment import bundle as bundles
from fedlite.guard.policy import DataSet
from fedlite.rooms import app_root
from server.coordinator import enrolment, submit as runs
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator
from simulations.run import check, scenario_path

ROUNDS = 2
CLEAR = ("privacy.unit=none", "training.learning_rate=1.0")


@cache
def scenario(name: str, sites: int, *overrides: str) -> config.Scenario:
    """Return the quickstart, short and settled as `fedlite server submit` settles it."""
    keys = [f"federation.name={name}", f"federation.sites={sites}", "federation.quorum=1"]
    keys += [f"federation.rounds={ROUNDS}", *overrides]
    return check(config.load(scenario_path("quickstart"), keys), deployed=True)


def enrol(lab: Any, name: str) -> Path:
    """Make a site of digits, let it join and approve it; return its folder."""
    home: Path = lab.partner(name).home
    setup.init(home, name, data=DataSet("digits", "digits"))
    setup.join(home, lab.invitation, fingerprint=lab.fingerprint)
    change(home, 'units = ["record"]', 'units = ["record", "none"]')
    let_in(lab, home / "request.json")
    return home


def let_in(lab: Any, request: Path) -> None:
    coordinator = Coordinator.open(lab.coordinator)
    control = Control(coordinator)
    try:
        enrolment.approve(coordinator, request, control, lambda question: True)
    finally:
        control.close()


def change(home: Path, old: str, new: str) -> None:
    path = home / "site.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def approve(home: Path, chosen: config.Scenario) -> None:
    bundle = bundles.read(runs.build(chosen, app_root()))
    approval.approve(home, approval.review(home, bundle, {}), "a test")


def submit(lab: Any, chosen: config.Scenario, root: Path | None = None) -> tuple[str, Path]:
    """Submit a run; return its name and its directory."""
    job = runs.submit(Coordinator.open(lab.coordinator), chosen, root or app_root(), again=True)
    return job.name, lab.coordinator / job.directory


def text_of(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
