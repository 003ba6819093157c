"""From a checked scenario to a bundle, from a bundle to a run, and what people see of it."""

from __future__ import annotations

import json
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

# Private to Flower 1.41, which the project pins: the function behind `flwr build`.
from flwr.cli.build import build_fab_from_files

from fedlite.deployment import bundle as bundles, journal
from fedlite.protection import question_run
from fedlite.reporting.attendance import rested
from fedlite.reporting.progress import Progress
from fedlite.reporting.record import GATHERING, RoundRecord, read_rounds, total_bytes
from fedlite.scenario import Network, Scenario, Simulation, from_run_config, load, with_values
from fedlite.storage import write_atomic
from server.attendance import STRIKES
from server.coordinator import authority, groups, jobs, refusals, superlink
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator
from server.coordinator.jobs import Job
from server.deployment import Deployment, write_members

Answer = TypeVar("Answer")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What is said beside the bundle, when its run starts; Flower wants every key to be there before.
RUN = {"directory": "", "id": "", "quiet": False, "wait": 0.0}
_NO_FILES: Mapping[str, bytes] = {}
_PROJECT = ("name", "version", "description", "license")


def build(scenario: Scenario, root: Path, own: Mapping[str, bytes] = _NO_FILES) -> bytes:
    """Return the bundle of a scenario: the app folders under `root`, and every setting.

    own: the user's own files by their names in the bundle, as `fedlite.deployment.own.pack` returns
    them with the scenario that names them so.

    The same scenario and files give the same bytes. What only a simulation has to be told is left
    out, and whom `federation.members` means: no site is told of another, but those who share noise
    of each other, in `privacy.members`. Raises ValueError when the scenario is
    not settled, or the bundle breaks a rule of sites.
    """
    if scenario.privacy.unit == "record" and not scenario.privacy.expected_batch:
        raise ValueError(
            "privacy.expected_batch: must be settled before a bundle is built, got 0; set it, or "
            "check the scenario first"
        )
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    flower: dict[str, Any] = project["tool"]["flwr"]["app"]
    if scenario.shared and not (scenario.members and scenario.privacy.coordinates):
        raise ValueError(
            "privacy.members: must be settled with privacy.coordinates before a bundle is built "
            "(rule: people approve who shares the noise), got none; see `groups.settle`"
        )
    settings = scenario.to_dict() | {
        "simulation": asdict(Simulation()),
        "network": asdict(Network()),
    }
    settings["federation"] |= {"members": ""}
    app = {key: flower[key] for key in ("publisher", "fab-include", "components")}
    app["fab-include"] = [*app["fab-include"], *own]
    text = tomli_w.dumps(
        {
            "project": {key: project["project"][key] for key in _PROJECT},
            "tool": {"flwr": {"app": app | {"config": settings | {"run": RUN}}}},
        }
    )
    files: dict[str, bytes | Path] = {
        path.relative_to(root).as_posix(): path
        for pattern in flower["fab-include"]
        for path in sorted(root.glob(pattern))
    }
    content, _ = build_fab_from_files(files | {bundles.CONFIG: text.encode(), **own})
    if missing := own.keys() - bundles.read(content).own.keys():
        raise ValueError(
            f"{min(missing)}: must be a file that Flower takes into an app, and is left out; "
            "rename it"
        )
    return content


def submit(
    coordinator: Coordinator,
    scenario: Scenario,
    root: Path,
    own: Mapping[str, bytes] = _NO_FILES,
    *,
    wait: float = 0.0,
    again: bool = False,
) -> Job:
    """Hand a checked scenario to the coordinator, which starts it within a second or two.

    wait: seconds for which the first round waits for all sites; 0: the deadline of a round.
    again: also when the same scenario was submitted before: every run spends budget of its own.
    Raises ConnectionError when the coordinator does not run, ValueError for a second submission,
    when the scenario has no name for files, or `federation.members` means nobody.
    """
    require_running(coordinator)
    name = scenario.federation.name
    if not _NAME.fullmatch(name):
        raise ValueError(
            "federation.name: must be letters, digits and . _ - here, as it names files, got "
            f"{name!r}; use --set federation.name=NAME"
        )
    scenario = groups.settle(coordinator.path, scenario)
    members = tuple(scenario.members) or groups.members(coordinator.path, scenario.federation)
    groups.check_weak(coordinator.path, scenario.federation, members)
    content = build(scenario, root, own)
    sha256 = bundles.digest(content)
    with jobs.locked(coordinator):
        if not again or scenario.statistics.bins:
            _refuse_second(coordinator, scenario, members, bundles.read(content).own)
        free, number = name, 1
        while any(
            path.exists() for path in (coordinator.jobs / f"{free}.json", coordinator.runs / free)
        ):
            number += 1
            free = f"{name}-{number}"
        bundle = coordinator.bundles / f"{free}-{sha256[:8]}.fab"
        write_atomic(bundle, content)
        job = Job(
            name=free,
            run_id=_run_id(content, scenario),
            bundle=bundle.relative_to(coordinator.path).as_posix(),
            directory=(coordinator.runs / free).relative_to(coordinator.path).as_posix(),
            wait=wait,
        )
        # A run that fails before its first line leaves its reason there.
        (coordinator.runs / free).mkdir(mode=0o700)
        for file, data in own.items():
            # What the run may import here, whatever a bundle brings: `Deployment.own_code`.
            path = coordinator.runs / free / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        if members:
            write_members(coordinator.runs / free, scenario.federation.members, members)
        jobs.save(coordinator, job)
    told = " ".join(f"{file}={digest}" for file, digest in bundles.read(content).own.items())
    more = {"own": told} if own else {}
    coordinator.journal.write("submit", run=free, run_id=job.run_id, sha256=sha256, **more)
    return job


def _run_id(content: bytes, scenario: Scenario) -> str:
    """Return a new run's number; that of a question follows from what is asked."""
    if not scenario.statistics.bins:
        return secrets.token_hex(8)
    return question_run(from_run_config(bundles.read(content).settings))


def _refuse_second(
    coordinator: Coordinator, scenario: Scenario, members: tuple[str, ...], own: Mapping[str, str]
) -> None:
    """Raise ValueError when this scenario was submitted before, whatever became of that run.

    Compared is what sites train by, the user's own files included, and who: another release's
    bundle of the same scenario is no other run, and the bundle does not say who the members are.
    """
    wanted = with_values(replace(scenario, simulation=Simulation()), "federation", members="")
    for job in jobs.load_all(coordinator):
        try:
            directory = coordinator.path / job.directory
            found, its = Deployment(coordinator.path).of_run(_scenario(coordinator, job), directory)
            asked = its.members or frozenset()
            if own and bundles.read(coordinator.path / job.bundle).own != own:
                continue
            if asked != set(members) or with_values(found, "federation", members="") != wanted:
                continue
        except ValueError:
            continue  # its bundle has gone, or cannot be read: nobody can tell what it was
        instead = {
            jobs.RUNNING: f"follow it with fedlite server submit --follow {job.name}",
            jobs.FINISHED: f"its result is in {coordinator.path / job.directory}",
        }.get(job.state, f"let it go on with fedlite server submit --resume {job.name}")
        raise ValueError(
            f"submit: this scenario was submitted already, as run {job.name}, which is "
            f"{job.state}, and every run spends budget of its own; {instead}, or "
            + (
                "ask something else: sites answer a question once"
                if scenario.statistics.bins
                else "submit it once more with --again"
            )
        )


def require_running(coordinator: Coordinator) -> None:
    """Raise ConnectionError when the coordinator does not run."""
    if superlink.running(coordinator) is None:
        raise ConnectionError(
            f"{coordinator.path}: the coordinator is not running; start it with fedlite server "
            "start"
        )


def follow(coordinator: Coordinator, name: str, *, quiet: bool = False) -> Job:
    """Show a run's progress until it is over, as a simulation shows it; return how it ended.

    A KeyboardInterrupt ends only the showing.
    """
    job = jobs.load(coordinator, name)
    scenario = _scenario(coordinator, job)
    budget = scenario.privacy.epsilon if scenario.claims_privacy else None
    directory, seen, looked = coordinator.path / job.directory, 0, 0.0
    with Progress(scenario.federation.rounds, budget, quiet=quiet) as progress:
        while True:
            job = jobs.load(coordinator, name)
            records = read_rounds(directory)
            # Rounds after the checkpoint are run again by a run that goes on.
            seen = min(seen, len(records))
            for number in range(seen, len(records)):
                progress.update(records[number], total_bytes(records[: number + 1]))
            seen = len(records)
            if job.state != jobs.RUNNING:
                return job
            if time.monotonic() - looked > 2.0 and (not seen or not superlink.running(coordinator)):
                progress.status(_waiting(coordinator, scenario, job))
                looked = time.monotonic()
            time.sleep(0.2)


def _scenario(coordinator: Coordinator, job: Job) -> Scenario:
    bundle = coordinator.path / job.bundle
    if not bundle.exists():  # it was cleaned away, long after the run
        return load(coordinator.path / job.directory / "scenario.toml")
    return from_run_config(bundles.read(bundle).settings)


def _waiting(coordinator: Coordinator, scenario: Scenario, job: Job) -> str:
    if superlink.running(coordinator) is None:
        return "the coordinator is not running; the run goes on after fedlite server start"
    try:
        count = online(coordinator)
    except ConnectionError:
        return "the coordinator is starting"
    try:
        gathered = (coordinator.path / job.directory / GATHERING).read_text(encoding="utf-8")
    except FileNotFoundError:
        gathered = f"{scenario.federation.sites} wanted"
    return f"waiting for sites: {count} online, {gathered.strip()}"


def online(coordinator: Coordinator) -> int:
    """Return how many nodes are online; raises ConnectionError when the coordinator is not."""
    nodes = _with_control(coordinator, lambda control: control.nodes())
    return sum(1 for node in nodes if node["status"] == "online")


def _note(coordinator: Coordinator, job: Job, records: list[RoundRecord]) -> str:
    """Return what a run waits for, whom it misses, and what is wrong with it, over or not."""
    running = job.state == jobs.RUNNING
    if not records and running:
        try:
            path = coordinator.path / job.directory / GATHERING
            return path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return "starting"
    parts = []
    for record in [record for record in records if record.jump][:1]:
        parts.append(
            f"the model may be spoilt: round {record.round} moved it {record.jump:.2g} times as "
            "far as usual"
        )
    if cut := sorted({name for record in records for name in record.cut}):
        parts.append(f"updates longer than any honest one, and cut: {', '.join(cut)}")
    if records and (missing := records[-1].missing) and running:
        parts.append(f"missing in round {records[-1].round}: {', '.join(missing)}")
    if at_rest := rested(records):
        parts.append(f"asked less, after {STRIKES} strikes: {', '.join(at_rest)}")
    return "; ".join(parts)


def stop_run(coordinator: Coordinator, name: str) -> Job:
    """End one run for good."""
    if superlink.running(coordinator) is None:
        return jobs.stop(coordinator, name, None)
    return _with_control(coordinator, lambda control: jobs.stop(coordinator, name, control))


def _with_control(coordinator: Coordinator, use: Callable[[Control], Answer]) -> Answer:
    control = Control(coordinator)
    try:
        return use(control)
    finally:
        control.close()


def overview(coordinator: Coordinator) -> dict[str, Any]:
    """Return what there is to see of a coordinator, as plain values.

    pid, sites.online: None when it does not run. runs: the last that changed first. refused: by
    site, how often in the last 24 hours by "path rule". unknown_runs: those of the last week that
    nobody has submitted here, as the journal has them.
    """
    pid = superlink.running(coordinator)
    try:
        count = online(coordinator) if pid is not None else None
    except (ConnectionError, RuntimeError):
        count = None
    sites = json.loads(coordinator.sites.read_bytes())
    return {
        "coordinator": str(coordinator.path),
        "name": coordinator.settings.name,
        "address": coordinator.settings.address,
        "pid": pid,
        "answers": pid is not None and superlink.answers(coordinator),
        "certificate_days": authority.days_left(coordinator.server_cert),
        "authority_days": authority.days_left(coordinator.ca_cert),
        "sites": {
            "approved": sum(not site["revoked"] for site in sites.values()),
            "online": count,
        },
        "refused": refusals.read(coordinator.refusals),
        "unknown_runs": _unknown_runs(coordinator),
        "runs": [_row(coordinator, job) for job in jobs.load_all(coordinator)],
    }


def _unknown_runs(coordinator: Coordinator) -> list[dict[str, Any]]:
    since = f"{datetime.now(UTC) - timedelta(days=7):%Y-%m-%dT%H:%M:%SZ}"
    return [
        {"flower_run": row["flower_run"], "time": row["time"]}
        for row in journal.read(coordinator.audit)
        if row["action"] == jobs.UNKNOWN_RUN and row["time"] >= since
    ]


def _row(coordinator: Coordinator, job: Job) -> dict[str, Any]:
    try:
        planned = _scenario(coordinator, job).federation.rounds
        records = read_rounds(coordinator.path / job.directory)
    except ValueError as error:
        planned, records = 0, []
        job = replace(job, reason=job.reason or str(error))
    total = total_bytes(records)
    return {
        "name": job.name,
        "state": job.state,
        "round": len(records),
        "rounds": planned,
        "bytes_up": int(total["up"]),
        "bytes_down": int(total["down"]),
        "restarts": job.restarts,
        "reason": "; ".join(filter(None, (job.reason, _note(coordinator, job, records)))),
        "directory": str(coordinator.path / job.directory),
    }
