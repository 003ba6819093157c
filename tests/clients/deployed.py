"""A deployed site in one process: the guardian beside the app that asks it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clients import opening
from clients.site import Site
from fedlite.guard import guardian, policy
from fedlite.scenario import Scenario


def open_deployed_site(scenario: Scenario, home: Path, run: str) -> Site:
    """Return the site whose folder is `home`, as its own process and a worker open it together."""
    guard = guardian.deployed(scenario, home, run)
    told = policy.load(home / "site.toml")
    chosen = told.data_set(scenario.data.name)
    assert chosen is not None
    if chosen.path:
        chosen = replace(chosen, path=str(chosen.file(home).absolute()))
    folder = home / "state" / run
    return opening.open_deployed_site(scenario, told.site, chosen, folder, guard)
