"""A site made ready: from a scenario and a folder to records, plan, policy and ledger.

A simulated site gets its records and its policy from the scenario. A deployed one gets them from
its operator's `site.toml`; nothing that a server can choose names a file or a folder there.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from clients import policy as site_policy
from clients.home import Home, open_home
from clients.policy import DataSet, for_scenario
from clients.site import Decline, Site
from fedlite.config import Scenario, ScenarioError
from fedlite.data import SiteData, Source
from fedlite.data.spread import spread
from fedlite.messages import Code
from fedlite.training import Learner
from fedlite.training.share import plan_mechanism, settle_batch


def open_simulated_site(scenario: Scenario, index: int, directory: Path) -> Site:
    """Build simulated site `index` (from 0); its state lives in `directory`.

    Raises ValueError when the data, the model or the privacy plan is not usable.
    """
    federation = scenario.federation
    source, sites = spread(scenario.data, federation.sites, federation.seed)
    data = sites[index]
    default = for_scenario(scenario, data.name)
    home = open_home(
        _homes(scenario, directory) / data.name, data.name, scenario.data.name, default
    )
    scenario = settle_batch(scenario, len(source.train))
    return _ready(scenario, source, data, directory / f"{data.name}.safetensors", home)


def open_deployed_site(scenario: Scenario, home: Path, run: str) -> Site:
    """Build the site whose folder is `home`; what it remembers of the run is kept there by `run`.

    The records are those that `[data.NAME]` of its site.toml names, NAME being the scenario's
    data.name. Raises Decline when there is no such table, ValueError as for a simulated site, and
    ScenarioError when the plan leaves open what a site must not find out by itself.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", run):
        raise ScenarioError(f"run.id: must be 16 lower-case hex digits, got {run!r:.40}")
    if scenario.privacy.unit == "record" and not scenario.privacy.expected_batch:
        raise ScenarioError(
            "privacy.expected_batch: must be settled by the coordinator, the same number for all "
            "sites, got 0; submit with `fedlite server submit`"
        )
    policy = site_policy.load(home / "site.toml")
    chosen = policy.data_set(scenario.data.name)
    if chosen is None:
        raise Decline(
            Code.POLICY,
            f"site.toml: has no [data.{scenario.data.name}], so nothing here answers this scenario",
        )
    source, data = _own_records(scenario, chosen, home, policy.site)
    place = Home(home, policy.site, scenario.data.name)
    folder = home / "state" / run
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return _ready(scenario, source, data, folder / "state.safetensors", place)


def _own_records(
    scenario: Scenario, chosen: DataSet, home: Path, site: str
) -> tuple[Source, SiteData]:
    """Return the records that the operator has named, under the site's own name."""
    path = str(chosen.file(home)) if chosen.path else ""
    settings = replace(scenario.data, name=chosen.source, path=path, target=chosen.target)
    federation = scenario.federation
    if not chosen.part:
        source, (data,) = spread(replace(settings, partition="iid"), 1, federation.seed)
        return source, replace(data, name=site)
    source, parts = spread(settings, federation.sites, federation.seed)
    found = {part.name: part for part in parts}
    if chosen.part not in found:
        raise ValueError(
            f"site.toml: data.{chosen.name}.part: must be one of {', '.join(sorted(found))}, got "
            f"{chosen.part!r}"
        )
    return source, replace(found[chosen.part], name=site)


def _ready(scenario: Scenario, source: Source, data: SiteData, state: Path, home: Home) -> Site:
    mechanism = plan_mechanism(scenario) if scenario.private else None
    learner = Learner(scenario, data.train, source.classes)
    # The site's own delta, and not the server's: who may choose it could find out the number.
    delta = home.policy().delta
    if scenario.privacy.unit == "record" and delta >= 1 / len(data.train):
        raise ValueError(
            f"site.toml: budget.delta must be less than 1 / records, which is "
            f"1 / {len(data.train)} at {data.name}, got {delta}; use 1e-5 or less"
        )
    commitment = home.commitment(data.train) if scenario.claims_privacy else ""
    return Site(scenario, data.name, learner, mechanism, state, home, commitment)


def _homes(scenario: Scenario, directory: Path) -> Path:
    given = scenario.simulation.sites
    return Path(given).expanduser() if given else directory / "homes"


def default_state_directory(run: int) -> Path:
    """Return where a simulated site keeps its state when nobody said where."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "fedlite" / f"{run:016x}"
