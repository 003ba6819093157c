"""`fedlite stats` and `server stats`: what tables hold, before any training, under noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlite.commands.output import (
    FAILED,
    HERE,
    SCENARIO_HELP,
    CoordinatorFolder,
    Json,
    begun,
    fail,
    print_json,
    tell,
    told,
)
from fedlite.rooms import app_root

if TYPE_CHECKING:
    from fedlite.questions import Asked
    from fedlite.scenario import Scenario

Name = Annotated[str, typer.Argument(help=SCENARIO_HELP)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace one key; repeatable."),
]
Epsilon = Annotated[float, typer.Option(help="What these figures cost every record.")]
Bins = Annotated[int, typer.Option(help="Of each histogram, from 2 to 1000.")]
MostRecords = Annotated[
    int, typer.Option(min=1, max=10**9, help="How many records of a site count at most: public.")
]


def add_to(app: typer.Typer, server_app: typer.Typer) -> None:
    """Add the command to `fedlite`, and to `fedlite server`."""
    app.command()(stats)
    server_app.command("stats")(server_stats)


def stats(
    scenario: Name,
    settings: Settings = None,
    epsilon: Epsilon = 1.0,
    bins: Bins = 10,
    most_records: MostRecords = 100_000,
    out: Annotated[
        Path | None, typer.Option(help="Folder; new, or empty. Default: runs/NAME-stats.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count a simulated federation's tables by one secure sum with noise, before any training.

    Of every column: how many values there are, how many are missing, mean, quantiles and a
    histogram over its public range, each with its error. Charged to the sites' ledgers.
    """
    with told():
        from fedlite.questions import Asked
        from fedlite.reporting.record import write_statistics
        from fedlite.scenario import load
        from server.directories import free_directory, hold
        from simulations.homes import collect_ledgers
        from simulations.run import scenario_path
        from simulations.statistics import check, statistics

        chosen = load(scenario_path(scenario), list(settings or []))
        asked = Asked(
            epsilon=epsilon,
            delta=chosen.privacy.delta,
            bins=bins,
            most_records=most_records,
        )
        _fetch_table(chosen, quiet=as_json)
        check(chosen, asked)
        directory = out or free_directory(Path("runs"), f"{chosen.federation.name}-stats")
        with hold(directory, fresh=True), begun():
            found = statistics(chosen, asked, directory / "checkpoint" / "sites")
            collect_ledgers(chosen, directory)
            write_statistics(directory, found.as_dict())
        if as_json:
            print_json(found.as_dict())
        else:
            from fedlite.reporting.columns import print_columns

            print_columns(found.as_dict(), str(directory), dict(chosen.data.reading.dates))


def server_stats(
    scenario: Name,
    settings: Settings = None,
    epsilon: Epsilon = 1.0,
    bins: Bins = 10,
    most_records: MostRecords = 100_000,
    wait: Annotated[
        float,
        typer.Option(min=0.0, metavar="SECONDS", help="To wait for all sites; 0: the deadline."),
    ] = 0.0,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only write the bundle, to be approved by the sites."),
    ] = None,
    folder: CoordinatorFolder = HERE,
    as_json: Json = False,
) -> None:
    """Count real sites' tables by one secure sum with noise, once their operators approve.

    As `fedlite stats` does; of a scenario that only the sites hold the records of, too. A question
    is answered once.
    """
    with told():
        from fedlite.deployment.bundle import digest
        from fedlite.questions import Asked
        from fedlite.reporting.record import STATISTICS
        from fedlite.scenario import load
        from fedlite.storage import write_atomic
        from server.coordinator import groups, jobs, submit as runs
        from server.coordinator.folder import Coordinator
        from simulations.run import scenario_path

        coordinator = Coordinator.open(folder)
        chosen = load(scenario_path(scenario), list(settings or []))
        asked = Asked(epsilon, chosen.privacy.delta, bins, most_records)
        question = _settled(chosen, asked, quiet=as_json)
        if bundle is not None:
            content = runs.build(groups.settle(coordinator.path, question), app_root())
            write_atomic(bundle, content)
            value = {"bundle": str(bundle), "sha256": digest(content), "bytes": len(content)}
            tell(value, f"{bundle}\nSHA-256 {value['sha256']}", as_json)
            return
        job = runs.submit(coordinator, question, app_root(), wait=wait)
        job = runs.follow(coordinator, job.name, quiet=as_json)
        if job.state != jobs.FINISHED:
            fail(f"{job.name}: {job.state}: {job.reason}", FAILED)
        directory = coordinator.path / job.directory
        found = json.loads((directory / STATISTICS).read_text(encoding="utf-8"))
        if as_json:
            print_json(found)
        else:
            from fedlite.reporting.columns import print_columns

            print_columns(found, str(directory), dict(chosen.data.reading.dates))


def _settled(chosen: Scenario, asked: Asked, *, quiet: bool) -> Scenario:
    """Return the run that asks, settled: sites and coordinator compute the same plan from it."""
    from fedlite.questions import as_run, columns_in, columns_said, table_of
    from simulations.run import check

    if chosen.data.at_sites:
        columns = columns_said(chosen.data)
    else:
        _fetch_table(chosen, quiet=quiet)
        columns = columns_in(table_of(chosen), chosen.data.name)
    return check(as_run(chosen, asked, columns), deployed=True)


def _fetch_table(chosen: Scenario, *, quiet: bool) -> None:
    """Fetch a table that is not there; raise ScenarioError where it is none, before it comes."""
    from fedlite import data
    from fedlite.questions import check_table

    check_table(chosen.data)
    data.fetch_missing(chosen.data, quiet=quiet)
