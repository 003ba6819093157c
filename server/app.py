"""Flower's ServerApp: one run of one scenario, with everything it leaves in a run directory."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch import cuda

from fedlite import depth, plan as plans
from fedlite.data import Source
from fedlite.models.files import write_model
from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.privacy import accounting
from fedlite.registry import begin_at, digest_of, explain, file_of, place_of
from fedlite.reporting.energy import EnergyMeter
from fedlite.reporting.progress import Progress
from fedlite.reporting.record import FAILURE, GATHERING, total_bytes, write_statistics
from fedlite.reporting.report import report
from fedlite.reporting.trackers import Trackers
from fedlite.scenario import Scenario, from_run_config, own_code
from fedlite.storage import is_full, write_atomic
from server import counting, delivery, releases
from server.clock import Clock
from server.closing import finish, witness_of
from server.deployment import Deployment, check_own, from_environment
from server.directories import free_directory
from server.evaluation import Evaluator, Scores
from server.roster import Roster
from server.rounds import Rounds, RunFailed
from server.selection import Selector
from server.summary import summarize
from server.sums import ANSWERS, decoded

log = logging.getLogger("fedlite.server")

# In the run directory of a deployment: what the server noticed, for its operator.
LOG = "server.log"
SCENARIO = "scenario.toml"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the scenario in the run config.

    `run.directory` says where (default: `runs/NAME`), `run.id` which run it is, in 16 hex digits
    (default: Flower's own number): one that is started anew under its id goes on.
    """
    scenario = from_run_config(context.run_config)
    given = str(context.run_config.get("run.directory", ""))
    directory = Path(given) if given else free_directory(Path("runs"), scenario.federation.name)
    run = bytes.fromhex(str(context.run_config.get("run.id", "")))
    deployment = from_environment()
    if deployment is not None:
        _log_into(directory)
    try:
        if deployment is not None:
            check_own(directory, Path(__file__).resolve().parents[1])
            begin_at(directory.absolute())
            scenario, deployment = deployment.of_run(scenario, directory)
        task = Task(
            directory=directory.absolute(),
            run=run or context.run_id.to_bytes(8, "little", signed=False),
            engine="network" if deployment else str(getattr(grid, "engine", "ray")),
            quiet=bool(context.run_config.get("run.quiet", False)),
            cpu_seconds=getattr(grid, "cpu_seconds", time.process_time),
            deployment=deployment,
            wait=float(str(context.run_config.get("run.wait", 0.0))),
        )
        run_scenario(grid, scenario, task)
    except Exception as caught:
        error = _explained(caught)
        # Without it, whoever started this process cannot tell a failure from a crash. What passes
        # by itself, or once there is room, is no reason to give a run up.
        full = isinstance(error, OSError) and is_full(error)
        passing = full or isinstance(error, ConnectionError)
        expected = isinstance(error, RunFailed | ValueError | OSError)
        if directory.is_dir() and expected and not passing:
            write_atomic(directory / FAILURE, json.dumps({"reason": str(error)}).encode())
        if error is caught:
            raise
        raise error from caught


def _explained(error: Exception) -> Exception:
    """Return the error, with its place where code of one's own raised it, which may be any."""
    own = place_of(error) and not isinstance(error, RunFailed | OSError)
    return RunFailed(explain(error)) if own else error


def _log_into(directory: Path) -> None:
    """Keep what this process has to say in the run directory: nobody sees its terminal."""
    directory.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(directory / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def _gathering(directory: Path, text: str) -> None:
    write_atomic(directory / GATHERING, text.encode())


@dataclass(frozen=True)
class Task:
    """One call of the ServerApp: where a run is kept, which one it is, and how it is run.

    run: its 8 bytes. engine, cpu_seconds: what the record says of the grid. deployment: the
    coordinator's, whose approved sites alone may take part; None in a simulation. wait: seconds for
    which the first round waits for all sites; 0 is the deadline of a round.
    """

    directory: Path
    run: bytes
    engine: str
    quiet: bool = False
    cpu_seconds: Callable[[], float] = time.process_time
    deployment: Deployment | None = None
    wait: float = 0.0


def run_scenario(grid: Grid, scenario: Scenario, task: Task) -> None:
    """Run all rounds that are left and write the run directory.

    Only in a deployment may the records be at the sites alone; no accuracy is measured then.

    Raises RunFailed, ValueError or OSError with a text for a person; the last checkpoint is whole.
    """
    directory, deployment = task.directory, task.deployment
    for name in ("federation", "privacy"):
        if (members := getattr(scenario, name).members) and deployment is None:
            raise ValueError(
                f"{name}.members: must be empty without a coordinator (rule: nobody has approved "
                f"the names that nodes give themselves), got {members!r:.200}; leave it out, or "
                "use fedlite server submit"
            )
    evaluator = None
    if deployment is not None and scenario.data.at_sites:
        plan = plans.of(scenario, scenario.data.sizes, scenario.width)
    else:
        plan, source, sites = plans.simulated(scenario)
        evaluator = None if scenario.statistics.bins else Evaluator(plan, source, sites)
    scenario = plan.scenario

    directory.mkdir(parents=True, exist_ok=True)
    _same_scenario(directory, scenario)
    _same_code(directory, scenario)
    if evaluator is not None:
        _same_records(directory, evaluator.source)
    _say_where(directory, scenario)
    witness = witness_of(scenario, directory, deployment)
    roster = Roster(
        grid,
        scenario.federation,
        plan.travelling.digest,
        layouts=depth.layouts(plan),
        enrolled=deployment.site if deployment else None,
        met=partial(releases.note, deployment.root) if deployment else None,
        may_ask=deployment.may_ask if deployment else None,
        witness=witness,
        wait=task.wait,
        notice=partial(_gathering, directory) if deployment else log.debug,
    )
    selector = Selector.of(plan, evaluator)
    clock = None
    asks = bool(scenario.statistics.bins)
    if scenario.network.profile and evaluator is not None and deployment is None:
        clock = Clock.of(plan, evaluator.sites)
    journal: Callable[..., None] = deployment.journal.write if deployment else _unwritten
    rounds = Rounds(
        grid,
        plan,
        directory,
        roster,
        run=task.run,
        witness=witness,
        adapt=deployment is not None,
        clock=clock,
        journal=journal,
        selector=selector,
    )
    if getattr(grid, "engine", "network") == "network":
        # One of Flower's own. The simulation's never waits, and this loads Flower's servers.
        from server.grid import without_waits

        without_waits(grid, rounds.updates.longest, scenario.federation.deadline_seconds)
    trackers = Trackers(scenario.report.tracker_names, directory)
    trackers.start(scenario.federation.name, scenario.notable(), rounds.records)
    on_gpu = scenario.training.device != "cpu" and cuda.is_available()
    meter = EnergyMeter.started(gpu=on_gpu)
    budget = scenario.privacy.epsilon if plan.mechanism else None
    with Progress(scenario.federation.rounds, budget, quiet=task.quiet) as progress:
        if evaluator is None and not asks:
            progress.status("no accuracy is measured: the coordinator holds no records")
        for record in rounds.play(
            epsilon=lambda asked: _loss(plan, asked),
            evaluate=_every(evaluator, scenario),
            cpu_seconds=task.cpu_seconds,
        ):
            progress.update(record, total_bytes(rounds.records))
            trackers.round(record)
        progress.status("writing the model and the report")
        released = rounds.point.deployed[: plan.stored.size]
        read = evaluator.source if evaluator else None
        write_model(directory, scenario, plan.stored, released, plan.model(), read)
        summary = summarize(
            plan,
            rounds.point,
            rounds.records,
            engine=task.engine,
            evaluator=evaluator,
            energy=meter.since(
                sum(r.cpu_seconds for r in rounds.records),
                scenario.report.watts,
                scenario.report.grid,
            ),
            refused=roster.refused.values(),
            witness=witness,
            selection=selector.told(rounds.point) if selector else None,
        )
        if (trained := getattr(grid, "trained", None)) is not None:
            summary["trained"] = trained()
        if asks:
            # What the sum says; the model is the public first one.
            summary["statistics"] = figures_of(plan, directory)
        if scenario.inference.calibration:
            told = counting.ask(rounds, witness, journal)
            summary["inference"] = counting.inference_of(rounds, told, held=evaluator is not None)
        if deployment is not None and scenario.federation.deliver:
            summary["delivery"] = delivery.deliver(rounds, deployment.journal)
        finish(directory, summary, witness)
        report(directory)
    trackers.finish(summary)
    log.info("run directory: %s", directory)


def figures_of(plan: Plan, directory: Path) -> dict[str, object]:
    """Return the figures that a run's sum tells, and write them beside its record."""
    from fedlite.questions import told

    names, total = decoded((directory / "checkpoint" / ANSWERS).read_bytes())
    scenario = plan.scenario
    if plan.shared is None:
        raise ValueError("privacy.noise_at: must be shared where figures are asked for")
    lasting = bool(scenario.simulation.sites) or bool(scenario.members)
    found = told(scenario, plan.shared, total, len(names), lasting=lasting).as_dict()
    write_statistics(directory, found)
    return found


def _unwritten(action: str, **facts: str) -> None:
    """Take the place of a journal in a simulation, which has none."""


def _same_scenario(directory: Path, scenario: Scenario) -> None:
    """Write `scenario.toml`, or check that the run to be resumed began with the same scenario."""
    path = directory / SCENARIO
    if not path.exists():
        write_atomic(path, scenario.to_toml().encode())
        return
    began, goes_on = tomllib.loads(path.read_text(encoding="utf-8")), scenario.to_dict()
    # Records may have moved; that they are the same is checked by their digest.
    for tables in (began, goes_on):
        tables.get("data", {})["path"] = ""
    if began != goes_on:
        raise RunFailed(
            f"{path}: differs from the scenario given; resume without changes, or start a new run"
        )


def _say_where(directory: Path, scenario: Scenario) -> None:
    """Write `scenario.toml` anew where the records have moved since the run began."""
    path, text = directory / SCENARIO, scenario.to_toml()
    if path.read_text(encoding="utf-8") != text:
        write_atomic(path, text.encode())


def _same_records(directory: Path, source: Source) -> None:
    """Keep the digest of the records, or check that the run to be resumed began with the same.

    It is kept with what is secret: it would tell whoever guesses a record that he guessed right.
    """
    path = directory / "checkpoint" / "records.sha256"
    _same(path, source.digest().hex(), "records", f" ({source.origin})")


def _same_code(directory: Path, scenario: Scenario) -> None:
    """As for the records, for the code of one's own that the scenario names: a line each."""
    files = {key: file_of(name) for key, name in own_code(scenario).items()}
    lines = [f"{key} {digest_of(file)}\n" for key, file in files.items() if file is not None]
    if lines:
        _same(directory / "checkpoint" / "code.sha256", "".join(lines), "files of own code")
    if start := scenario.model.start:
        digest = hashlib.sha256(Path(start).read_bytes()).hexdigest()
        _same(directory / "checkpoint" / "start.sha256", digest, "weights to begin with")


def _same(path: Path, digest: str, what: str, of: str = "") -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, digest.encode())
    elif path.read_text(encoding="ascii") != digest:
        raise RunFailed(
            f"{path}: the {what} are not those that the run began with{of}; put them back, or "
            "start a new run"
        )


def _loss(plan: Plan, asked: int) -> float | None:
    if plan.mechanism is None or not plan.scenario.claims_privacy:
        return None
    steps = min(asked * plan.round_steps, plan.mechanism.steps)
    return accounting.running(plan.mechanism, steps, plan.scenario.privacy.delta)


def _every(evaluator: Evaluator | None, scenario: Scenario) -> Callable[[int, Vector], Scores]:
    every, last = scenario.federation.evaluate_every, scenario.federation.rounds

    def evaluate(number: int, vector: Vector) -> Scores:
        if evaluator is None or not every or (number % every and number != last):
            return {}
        return evaluator.overall(vector)

    return evaluate


def run_number(scenario: Scenario, directory: Path) -> int:
    """Return a run id from 0 to 2**63 - 1 that depends on the scenario alone: runs repeat.

    Where sites keep their ledgers from run to run, every directory is a run of its own: a site
    would take a second run under the same id for the first, whose plan is spent.
    """
    # Wherever its records are.
    text = replace(scenario, data=replace(scenario.data, path="")).to_toml()
    if scenario.simulation.sites:
        text += str(directory)
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
