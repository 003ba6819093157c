"""A site made ready: from a scenario and its records to a plan, a learner and a guardian.

A simulated site gets its records and its policy from the scenario. A deployed one is opened by
approved code in a process of its own, and told what it may know: its name, its table, its folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.remembered import Remembered
from clients.replicas import Replicas
from clients.site import Site
from fedlite import depth, plan as plans
from fedlite.compression import batch
from fedlite.data import Dataset, SiteData, Source
from fedlite.data.spread import divided
from fedlite.guard import records
from fedlite.guard.folder import open_home
from fedlite.guard.guardian import Guardian
from fedlite.guard.policy import DataSet, for_scenario
from fedlite.guard.remote import Remote
from fedlite.models.registry import of_the_house
from fedlite.plan import Plan
from fedlite.privacy.ledger.files import FILES, UNFLUSHED
from fedlite.questions import check_columns
from fedlite.scenario import Scenario, ScenarioError
from fedlite.training import Learner
from fedlite.training.bench import Bench
from fedlite.training.share import device_of
from fedlite.training.together import Together


# What simulated sites of one plan have in common; whole and weak sites have two.
@lru_cache(maxsize=2)
def _bench(plan: Plan) -> Bench:
    return Bench(plan, device_of(plan.scenario.training.device))


# What the server has written before it asks anybody.
_SCENARIO = "scenario.toml"

# Sites that train one by one, and whose updates wait for each other: whoever ends a round should
# not wait long, and what they hold is small.
_ALONE = 16

# What trains several simulated sites of a plan at once, for each plan of this process.
_together: dict[Plan, Together] = {}

_states: Remembered[Any] = Remembered()


def together_of(plan: Plan) -> Together:
    """Return what trains several simulated sites of a plan at once."""
    if plan not in _together:
        while len(_together) > 1:
            _together.pop(next(iter(_together)))
        _together[plan] = Together(plan)
    return _together[plan]


def at_once(most: int) -> int:
    """Return how many sites of this process to ask at once, `most` at most.

    Where no plan gains by training several together, some may still be compressed together.
    """
    if not _together or not all(one.why for one in _together.values()):
        # Where nobody has trained yet it is not known.
        return most
    return min(most, max(map(_packed_at_once, _together)))


def _packed_at_once(plan: Plan) -> int:
    return min(_ALONE, batch.most(plan.up(1), plan.travelling.size))


@lru_cache(maxsize=2)
def _replicas(plan: Plan) -> Replicas:
    return Replicas(plan.travelling.size, _states)


def forget() -> None:
    """Let go of what the sites of a run had in common, once all of them are closed."""
    _together.clear()
    _states.clear()
    _replicas.cache_clear()
    _bench.cache_clear()


def open_simulated_site(scenario: Scenario, index: int, directory: Path) -> Site:
    """Build simulated site `index` (from 0); its state lives in `directory`.

    Raises ValueError when the data, the model or the privacy plan is not usable.
    """
    plan, source, sites = plans.simulated(scenario)
    data, scenario, home = sites[index], plan.scenario, None
    plan = depth.plan_of(plan, data.name)
    # What claims nothing spends nothing: a thousand sites need no thousand policies on disk.
    if scenario.claims_privacy or scenario.simulation.sites:
        default = for_scenario(scenario, data.name)
        folder = _homes(scenario, directory) / data.name
        home = open_home(folder, data.name, scenario.data.dataset, default)
    state = directory / f"{data.name}.safetensors"
    train = records.counted(data, scenario, scenario.privacy.max_records)
    secret = home if scenario.claims_privacy else None
    commitment = secret.commitment(train) if secret else train.digest().hex()
    # Where homes outlive the run, so does what is spent in it: then all is flushed, as at a real
    # site.
    lasting = bool(scenario.simulation.sites)
    files = FILES if lasting else UNFLUSHED
    guardian = Guardian(
        data.name,
        scenario,
        plan.mechanism,
        home,
        lambda: commitment,
        files=files,
        lasting=lasting,
    )
    # Other people's models may remember records in more than parameters and buffers.
    bench = _bench(plan) if of_the_house(scenario.model.name) else None
    replicas = None if lasting else _replicas(plan)
    keeps = lasting or home is not None or not forgetful(plan)
    site = _ready(plan, data, train, state, guardian, commitment, bench, replicas, keeps=keeps)
    if scenario.statistics.bins:
        how = scenario.data, scenario.federation.sites, scenario.federation.seed
        read = divided(source, *how, private=True)[index]
        site.table = _table(scenario, source, read, scenario.privacy.max_records)
    return site


def forgetful(plan: Plan) -> bool:
    """Return whether a site needs nothing of a round in the next: no residual, model or budget.

    Asked again for the same round it then makes the same update again.
    """
    scenario, up = plan.scenario, plan.scenario.uplink
    kept = up.error_feedback or up.aggregate_feedback or plan.extras
    known = scenario.training.objective in ("plain", "fedprox")
    # Where values take turns, what is sent is what has moved, and the rest has to be known.
    whole = scenario.downlink.compressor == "dense" and not plan.turns
    return whole and known and not kept and not scenario.private


def open_deployed_site(
    scenario: Scenario, site: str, chosen: DataSet, folder: Path, guardian: Guardian | Remote
) -> Site:
    """Build the site called `site`, whose records are `chosen`; what it remembers is in `folder`.

    chosen: as in site.toml, its path absolute. guardian: who holds its budget; where this is a
    process of approved code, the one that asks the site's own process (`fedlite.guard.remote`).
    Raises ValueError as for a simulated site.
    """
    source, data = records.own_records(scenario, chosen, folder, site)
    plan = depth.plan_of(plans.of(scenario, source.shape, source.classes), site)
    plan.check_model()
    train = records.counted(data, scenario, chosen.records_at_most)
    # To know its own records again it needs no secret: this stays in its own folder.
    commitment = train.digest().hex()
    state = folder / "state.safetensors"
    ready = _ready(plan, data, train, state, guardian, commitment)
    if scenario.statistics.bins:
        _, read = records.own_records(scenario, chosen, folder, site, raw=True)
        ready.table = _table(scenario, source, read, chosen.records_at_most)
    return ready


def _table(scenario: Scenario, source: Source, read: SiteData, most: int) -> NDArray[np.float64]:
    """Return the site's training records as they were read, to be counted, float64 [n, d].

    Raises ScenarioError where its columns are not those that are asked for.
    """
    check_columns(scenario, source)
    found: NDArray[np.float64] = records.counted(read, scenario, most).x.astype(np.float64)
    return found


def _ready(
    plan: Plan,
    data: SiteData,
    train: Dataset,
    state: Path,
    guardian: Guardian | Remote,
    commitment: str,
    bench: Bench | None = None,
    replicas: Replicas | None = None,
    *,
    keeps: bool = True,
) -> Site:
    learner, kept = Learner(plan, train, bench), data.calibration
    return Site(plan, data.name, learner, state, guardian, commitment, kept, replicas, keeps)


def _homes(scenario: Scenario, directory: Path) -> Path:
    given = scenario.simulation.sites
    return Path(given).expanduser() if given else directory / "homes"


def state_directory(run_config: Mapping[str, Any], run: int) -> Path:
    """Return where the simulated sites of a run keep their state when nobody said where.

    Beside the server's checkpoint, where the run config says where the run is kept: then it is the
    same folder on each machine of a cluster that shares it, whichever a site is played on.

    Raises ScenarioError where that run is not on this machine: a site would begin anew, and forget
    what it has spent.
    """
    kept = Path(str(run_config.get("run.directory", "")))
    if kept.is_absolute():
        if not (kept / _SCENARIO).is_file():
            raise ScenarioError(
                f"run.directory: {kept} must be a folder that all machines share (rule: a site is "
                "played on whichever is free, and finds there what it remembers), and holds no "
                f"{_SCENARIO} here; mount it, or play the run on one machine"
            )
        return kept / "checkpoint" / "fedlite" / f"{run:016x}"
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "fedlite" / f"{run:016x}"
