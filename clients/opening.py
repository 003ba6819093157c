"""A site made ready: from a scenario and a folder to records, plan, policy and ledger.

A simulated site gets its records and its policy from the scenario. A deployed one gets them from
its operator's `site.toml`; nothing that a server can choose names a file or a folder there.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from clients.site import Decline, Site
from fedlite import plan as plans
from fedlite.data import SiteData, Source
from fedlite.data.spread import load_source, share_out
from fedlite.guard import policy as site_policy
from fedlite.guard.declared import beyond_declared
from fedlite.guard.folder import Home, open_home
from fedlite.guard.policy import DataSet, for_scenario
from fedlite.messages import Code
from fedlite.plan import Plan
from fedlite.scenario import Data, Scenario, ScenarioError, own_code
from fedlite.training import Learner

log = logging.getLogger("fedlite.site")


def open_simulated_site(scenario: Scenario, index: int, directory: Path) -> Site:
    """Build simulated site `index` (from 0); its state lives in `directory`.

    Raises ValueError when the data, the model or the privacy plan is not usable.
    """
    plan, _, sites = plans.simulated(scenario)
    data, scenario, home = sites[index], plan.scenario, None
    # What claims nothing spends nothing: a thousand sites need no thousand policies on disk.
    if scenario.claims_privacy or scenario.simulation.sites:
        default = for_scenario(scenario, data.name)
        folder = _homes(scenario, directory) / data.name
        home = open_home(folder, data.name, scenario.data.name, default)
    state = directory / f"{data.name}.safetensors"
    return _ready(plan, data, state, home, most=scenario.privacy.max_records)


def open_deployed_site(scenario: Scenario, home: Path, run: str) -> Site:
    """Build the site whose folder is `home`; what it remembers of the run is kept there by `run`.

    The records are those that `[data.NAME]` of its site.toml names, NAME being the scenario's
    data.name. Raises Decline when there is no such table, or it declares less than the plan needs,
    ValueError as for a simulated site, and ScenarioError when the plan leaves open what a site must
    not find out by itself.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", run):
        raise ScenarioError(f"run.id: must be 16 lower-case hex digits, got {run!r:.40}")
    if named := own_code(scenario):
        raise ScenarioError(
            f"{named[0]}: must be a name that this site knows (rule: no file that a scenario names "
            "is run here), got one of a file"
        )
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
    if beyond := beyond_declared(policy, scenario):
        raise Decline(Code.POLICY, "site.toml: " + "; ".join(beyond))
    source, data = _own_records(scenario, chosen, home, policy.site)
    place = Home(home, policy.site, scenario.data.name)
    folder = home / "state" / run
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = folder / "state.safetensors"
    plan = plans.of(scenario, source.shape, source.classes)
    plan.check_model()
    return _ready(plan, data, state, place, most=chosen.records_at_most)


def own_source(scenario: Scenario, chosen: DataSet, home: Path) -> tuple[Source, Data]:
    """Return the source that the operator has named, and the plan's settings of it.

    Where it is private, rows of a file that do not fit the plan are left out.
    """
    path = str(chosen.file(home)) if chosen.path else ""
    settings = replace(scenario.data, name=chosen.source, path=path, target=chosen.target)
    # The sites' files must be read alike, so no file may say by its records what its columns are.
    return load_source(settings, settled=True, skip_wrong=scenario.private), settings


def _own_records(
    scenario: Scenario, chosen: DataSet, home: Path, site: str
) -> tuple[Source, SiteData]:
    """Return the records that the operator has named, under the site's own name.

    Where they are private, neither a row of a file that does not fit the plan nor a part without
    rows stops the site: it trains on what is left, and on nothing if need be.
    """
    source, settings = own_source(scenario, chosen, home)
    private, federation = scenario.private, scenario.federation
    for note in source.notes:
        log.warning("data.%s: %s", chosen.name, note)
    if chosen.part and settings.partition != "natural":
        shares = share_out(source, settings, federation.sites, federation.seed, private=private)
        found = {share.name: share for share in shares}
        if chosen.part not in found:
            raise _no_such_part(chosen, found)
        return source, replace(found[chosen.part], name=site)
    own = _of_part(source, chosen, private=private) if chosen.part else source
    alone = replace(settings, partition="iid")
    (data,) = share_out(own, alone, 1, federation.seed, private=private)
    return source, replace(data, name=site)


def _of_part(source: Source, chosen: DataSet, *, private: bool) -> Source:
    """Return the rows of one of the source's groups."""
    names = source.group_names
    if source.groups is None or (chosen.part not in names and not (private and chosen.path)):
        raise _no_such_part(chosen, names)
    if chosen.part not in names:
        log.warning("data.%s.part: no row is of %r; see the file", chosen.name, chosen.part)
    number = names.index(chosen.part) if chosen.part in names else -1
    return replace(
        source, train=source.train.take(np.flatnonzero(source.groups == number)), groups=None
    )


def _no_such_part(chosen: DataSet, known: Iterable[str]) -> ValueError:
    return ValueError(
        f"site.toml: data.{chosen.name}.part: must be one of {', '.join(sorted(known)) or 'none'}, "
        f"got {chosen.part!r}"
    )


def _ready(plan: Plan, data: SiteData, state: Path, home: Home | None, *, most: int) -> Site:
    """Build the site; where its records are private, `most` cuts them (0: never).

    A table that keeps what was declared of it is never cut. To refuse one that does not would tell
    how many records it has; to train on all of it would cost more than the plan says.
    """
    train, scenario = data.train, plan.scenario
    if scenario.private and 0 < most < len(train):
        log.warning("%s: only the first %d records count, as declared", data.name, most)
        train = train.take(np.arange(most))
    secret = home if scenario.claims_privacy else None
    commitment = secret.commitment(train) if secret else train.digest().hex()
    return Site(plan, data.name, Learner(plan, train), state, home, commitment)


def _homes(scenario: Scenario, directory: Path) -> Path:
    given = scenario.simulation.sites
    return Path(given).expanduser() if given else directory / "homes"


def default_state_directory(run: int) -> Path:
    """Return where a simulated site keeps its state when nobody said where."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "fedlite" / f"{run:016x}"
