"""One simulated federation, from a scenario to a finished run directory."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from fedlite import data, depth, plan as plans
from fedlite.data import find
from fedlite.data.overview import idle, overview
from fedlite.data.own import DIVISIONS
from fedlite.data.partition import check_expected
from fedlite.deployment import own
from fedlite.plan import Plan
from fedlite.registry import is_held, resolve
from fedlite.reporting import trackers, wording
from fedlite.reporting.page_read import read_section
from fedlite.scenario import (
    CODE,
    PATHS,
    Scenario,
    ScenarioError,
    is_path,
    load,
    network_rules,
    own_code,
    with_values,
)
from fedlite.scenario.records import OWN
from fedlite.training import together
from fedlite.training.objective import Objective
from fedlite.training.share import device_of, settle_process
from server import buffered
from server.evaluation import Evaluator
from server.selection import Selector
from simulations import adaptive, homes

ENGINES = ("auto", "serial", "pool", "ray")
_FREE_BYTES = 200_000_000
# So many sites that lack labels, and labels of one, are named.
_NAMED = 5
# What makes sites' classes more alike, of divisions that read such a key.
_LARGER = dict.fromkeys(("dirichlet", "quantity"), ", or a larger data.alpha")
_LARGER["shards"] = ", or larger data.shards"
# Below this many multiply-accumulates a run is over before a pool of workers has started.
_POOL_FROM = 2e11


def scenario_path(name: str) -> Path:
    """Return the file of a scenario that is given by name or by path.

    Raises ScenarioError, naming the known scenarios, when there is none.
    """
    folder = Path(__file__).parent / "scenarios"
    path = Path(name)
    if path.suffix == ".toml":
        return path
    known = sorted(p.stem for p in folder.glob("*.toml"))
    if path.suffix in (".csv", ".tsv", ".txt") or path.is_file():
        kind = path.suffix[1:] if path.suffix[1:] in OWN else "csv"
        raise ScenarioError(
            f"scenario: must be a .toml file, got {name!r}; a table is named in one: write [data] "
            f'name = "{kind}", path = "{path.name}" and target = "your label column" into a file '
            f"{path.stem}.toml"
        )
    if name not in known:
        close = get_close_matches(name, known, n=1)
        raise ScenarioError(
            f"scenario: must be one of {', '.join(known)}, or a path to a .toml file, got {name!r}"
            + (f"; did you mean {close[0]}?" if close else "")
        )
    return folder / f"{name}.toml"


def check(scenario: Scenario, *, deployed: bool = False) -> Scenario:
    """Load and spread the data before anything else starts; settle the privacy plan and the links.

    deployed: for real sites, which may be the only ones that hold the records.

    Raises ValueError or ScenarioError: whatever can be found wrong is found here, before training.
    """
    from strategies.over_groups import make_over

    data = scenario.data
    if deployed:
        _check_bundled(scenario)
    else:
        device_of(scenario.training.device)
        scenario = _without_members(scenario)
    strategy = make_over(scenario)
    trackers.check(scenario.report.tracker_names)
    if scenario.private and find(data.name).own and not data.own:
        # Whatever a package calls it, records of one's own are held against the rules for them.
        with_values(scenario, "data", name=OWN[0])
    DIVISIONS.check(data.partition)
    if not data.at_sites:
        plan = _check_data(scenario)
    elif deployed:
        plan = plans.of(scenario, data.sizes, scenario.width)
    else:
        raise ScenarioError(
            "data.path: must be set in a simulation (rule: its sites read their records on this "
            "machine), got nothing; set data.path and data.target, or hand the scenario to real "
            "sites with `fedlite server submit`"
        )
    if scenario.privacy.unit == "record":
        _check_size(plan.scenario)
        Objective.of(plan.task, plan.scenario.training).check_private()
    plan.check_model()
    depth.check(plan)
    buffered.check(plan)
    if scenario.inference.calibration:
        adaptive.check_model(plan)
    if plan.weak:
        strategy.check_weak()
    strategy.check_updates(plan.scenario.uplink, [stretch.name for stretch in plan.extras])
    return replace(plan.scenario, notes=(*plan.scenario.notes, *strategy.notes(plan.layout.size)))


def _check_bundled(scenario: Scenario) -> None:
    """Raise ScenarioError where a site would need what no bundle brings."""
    why = own.refused(scenario)
    if scenario.data.partition in ("column", "file"):
        why.append(
            "data.partition: must not be column or file in a deployment (rule: a site's operator "
            f"says which records are its own), got {scenario.data.partition!r}; use natural"
        )
    if scenario.federation.weak:
        why.append(
            "federation.weak: must be 0 in a deployment (rule: no lot knows which machines are "
            f"weak), got {scenario.federation.weak:g}; name them in federation.weak_sites"
        )
    why += network_rules.deployed(scenario.network)
    if why:
        raise ScenarioError("\n".join(why))


def _without_members(scenario: Scenario) -> Scenario:
    """Return the scenario for simulated sites, all of which take part, with a note of that.

    The same file then serves for the real ones, whose names a simulation does not know.
    """
    for table in ("federation", "privacy"):
        if getattr(scenario, table).members:
            scenario = with_values(scenario, table, members="")
            told = f"ignored in a simulation, {scenario.federation.sites} sites take part"
            scenario = replace(scenario, notes=(*scenario.notes, f"{table}.members: {told}"))
    return scenario


def _check_data(scenario: Scenario) -> Plan:
    """Return the plan of a scenario whose records are here; refuse what they do not allow."""
    plan, source, sites = plans.simulated(scenario)
    if source.test is None and not any(len(site.test) for site in sites):
        fraction = scenario.data.test_fraction
        mend = "0.2 holds out a fifth at each site"
        if fraction:
            mend = f"of {len(source.train)} records none is held out: make it larger, give more "
            mend += "records (equal ones stand on one side), or take another federation.seed"
        raise ScenarioError(
            f"data.test_fraction: must be greater than 0 for {source.name}, which has no test set "
            f"of its own, and hold out at least one record, got {fraction}; {mend}"
        )
    if scenario.inference.calibration:
        adaptive.check(plan, sites)
    # What it may not choose by is refused here, and again where the rounds are.
    Selector.of(plan, Evaluator(plan, source, sites))
    if scenario.private and not scenario.data.own:
        chosen = scenario.data
        check_expected(
            source,
            chosen.division,
            scenario.federation.sites,
            alpha=chosen.alpha,
            seed=scenario.federation.seed,
        )
    found = [f"data: {note}" for note in source.notes]
    if not scenario.private and (alone := data.of_one_class(sites)):
        larger = _LARGER.get(scenario.data.division, "")
        found.append(
            f"data: records of one class only at {len(alone)} of {len(sites)} sites, {alone[0]} "
            f"first; see training.objective or training.logit_adjustment{larger}"
        )
    elif not scenario.private and scenario.data.division == "natural" and source.labels:
        # No lot has taken them away: a label that a site lacks may be called otherwise there.
        for site, classes in list(data.lacking(sites, source.classes).items())[:_NAMED]:
            names = ", ".join(source.labels[at] for at in classes[:_NAMED])
            found.append(f"data: {site} has no record of {names}; see how its labels are called")
    told = replace(plan.scenario, notes=(*plan.scenario.notes, *found))
    return replace(plan, scenario=told)


def _check_size(scenario: Scenario) -> None:
    """Hold the plan against how many records a site has by what is public, not by its records."""
    privacy = scenario.privacy
    records = math.ceil(privacy.expected_batch / privacy.sampling_rate)
    if privacy.delta >= 1 / records:
        raise ScenarioError(
            "privacy.delta: must be less than 1 / records of a site, of which there are "
            f"expected_batch / sampling_rate = {records}, got {privacy.delta}; use 1e-5 or less"
        )
    if 0 < privacy.max_records < records:
        raise ScenarioError(
            "privacy.max_records: must be at least the records of a site, of which there are "
            f"expected_batch / sampling_rate = {records}, got {privacy.max_records}; raise it"
        )


def check_engine(name: str) -> None:
    """Raise ScenarioError when there is no engine called `name`."""
    if name not in ENGINES:
        raise ScenarioError(
            f"--engine: must be one of {', '.join(ENGINES)}, got {name!r}; leave it out for auto"
        )


def choose_engine(name: str, scenario: Scenario) -> str:
    """Return the engine for `auto`: a pool when the work is worth starting it."""
    if name != "auto":
        return name
    if any(map(is_held, own_code(scenario).values())):
        return "serial"
    federation, training = scenario.federation, scenario.training
    plan, _, sites = plans.simulated(scenario)
    macs = sum(part["macs"] for part in plan.model().costs().values())
    records = sum(sites.sizes)
    if scenario.privacy.unit == "record":
        passes = training.steps * scenario.privacy.sampling_rate
    else:
        passes = training.epochs
    work = 3.0 * macs * records * passes * federation.rounds
    return "pool" if (os.cpu_count() or 1) > 1 and work > _POOL_FROM else "serial"


def _check_reach(engine: str, scenario: Scenario) -> None:
    """Raise ScenarioError where other processes would need what only this one was given."""
    for key, name in own_code(scenario).items():
        if is_held(name) and engine != "serial":
            raise ScenarioError(
                f"{key}: must be in a file or an installed module for the engine {engine}, whose "
                f"processes find it by its name, got {name!r}, which this process was given; put "
                "it into a file, or use the engine serial"
            )


def simulate(
    scenario: Scenario,
    directory: Path,
    *,
    engine: str = "auto",
    quiet: bool = False,
) -> None:
    """Run `scenario` into `directory`, or go on with the run that it holds.

    Raises ValueError, OSError or RuntimeError with a text for a person. Afterwards the directory
    holds the run's record, model, figures and report.
    """
    check_engine(engine)
    # Before torch starts threads of its own: workers may be copies of a process without any.
    settle_process()
    scenario = _with_absolute_paths(scenario)
    data.fetch_missing(scenario.data, quiet=quiet)
    try:
        scenario = check(scenario)
    except ValueError as error:
        # Whatever is wrong here is wrong in what was asked for, and nothing has started yet.
        raise ScenarioError(str(error)) from error
    for line in () if quiet else [*_read(scenario), *scenario.notes]:
        print(line, file=sys.stderr)
    engine = choose_engine(engine, scenario)
    _check_reach(engine, scenario)
    directory = directory.absolute()
    _check_space(directory)
    try:
        if engine == "ray":
            from simulations.ray import run_with_ray

            run_with_ray(scenario, directory, quiet=quiet)
        else:
            _run_here(scenario, directory, engine, quiet)
    finally:
        homes.collect_ledgers(scenario, directory)
    homes.drop_states(directory)
    if scenario.inference.home_head or scenario.report.baseline_repeats:
        from simulations.comparison import add_comparisons

        add_comparisons(scenario, directory, quiet=quiet)


def _read(scenario: Scenario) -> list[str]:
    """Return what was read, a line each: whoever simulates holds all records."""
    _, source, sites = plans.simulated(scenario)
    told = read_section(overview(source, sites))
    if not scenario.private:
        told.append(("columns", idle(source, sites)))
    lines = [wording.plain(f"{name}: {text}") for name, text in told if text]
    training, most = scenario.training, max(sites.sizes)
    if not training.steps and training.epochs == 1 and most <= training.batch_size:
        lines.append(
            f"training: one step a round, as no site has more than the {training.batch_size} "
            "records of a batch; a small table may want training.epochs=20 and "
            "training.learning_rate=0.5"
        )
    return lines


def _with_absolute_paths(scenario: Scenario) -> Scenario:
    """Return the scenario with absolute paths: workers, and a later --resume, start elsewhere."""
    for section, key in PATHS:
        given = getattr(getattr(scenario, section), key)
        if is_path((section, key), given):
            absolute = str(Path(given).expanduser().absolute())
            scenario = with_values(scenario, section, **{key: absolute})
    for section, key in CODE:
        given = getattr(getattr(scenario, section), key)
        if resolve(given, Path()) != given:
            scenario = with_values(scenario, section, **{key: resolve(given, Path())})
    return scenario


def _run_here(scenario: Scenario, directory: Path, engine: str, quiet: bool) -> None:
    from flwr.app import Context, RecordDict

    from server.app import app, run_number
    from simulations.engines import make_engine
    from simulations.grid import SimulationGrid

    run_id = run_number(scenario, directory)
    run_config = scenario.to_run_config() | {"run.directory": str(directory), "run.quiet": quiet}
    plan, _, shares = plans.simulated(scenario)
    workers = make_engine(
        engine,
        run_id=run_id,
        sites=len(shares),
        run_config=run_config,
        state=directory / "checkpoint" / "sites",
        work=shares.sizes,
        most=together.most(plan),
        keep=not own_code(scenario),
    )
    # Who keeps a ledger tells its head when it is met.
    met = None if scenario.claims_privacy or scenario.simulation.sites else shares.names
    try:
        grid = SimulationGrid(run_id, len(shares), workers, met)
        context = Context(
            run_id=run_id, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
        )
        app(grid, context)
    finally:
        workers.close()


def resume_scenario(directory: Path, overrides: Sequence[str] = ()) -> Scenario:
    """Return the scenario of an unfinished run; an override says where its records are now.

    Raises ScenarioError when the directory holds no run, or a finished one.
    """
    path = directory / "scenario.toml"
    if not path.is_file():
        raise ScenarioError(
            f"--resume {directory}: no scenario.toml there; give the directory of a run that was "
            "interrupted"
        )
    if (directory / "summary.json").exists():
        raise ScenarioError(
            f"--resume {directory}: the run has finished; see fedlite report {directory}"
        )
    if (directory / "checkpoint" / "fedlite").exists():
        raise ScenarioError(
            f"--resume {directory}: the run was made by Flower's Ray engine, which gives its sites "
            "new state folders each time (rule: a site that forgot what it has spent may not go "
            "on); start it again in a new directory"
        )
    scenario = load(path, overrides)
    if scenario.data.path and not Path(scenario.data.path).is_file():
        raise ScenarioError(
            f"--resume {directory}: the records are not at {scenario.data.path} (rule: a run goes "
            "on with the records that it began with); put them back, or say where they are by "
            "--set data.path=FILE"
        )
    return scenario


def _check_space(directory: Path) -> None:
    parent = next(one for one in (directory, *directory.parents) if one.exists())
    free = shutil.disk_usage(parent).free
    if free < _FREE_BYTES:
        raise OSError(
            f"--out {directory}: needs {_FREE_BYTES / 1e6:.0f} MB of free disk, {parent} has "
            f"{free / 1e6:.0f} MB; free some space or choose another directory"
        )
