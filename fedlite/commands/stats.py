"""`fedlite stats`: what a federation's tables hold, before any training, under noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlite.commands.output import SCENARIO_HELP, Json, begun, print_json, told

if TYPE_CHECKING:
    from simulations.statistics import Statistics

RESULT = "statistics.json"


def add_to(app: typer.Typer) -> None:
    """Add the command to `fedlite`."""
    app.command()(stats)


def stats(
    scenario: Annotated[str, typer.Argument(help=SCENARIO_HELP)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace one key; repeatable."),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="What these figures cost every record.")] = 1.0,
    bins: Annotated[int, typer.Option(min=1, max=1000, help="Of each histogram.")] = 10,
    most_records: Annotated[
        int,
        typer.Option(min=1, max=10**9, help="How many records of a site count at most: public."),
    ] = 100_000,
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
        from fedlite.scenario import load
        from server.directories import free_directory, hold
        from simulations.homes import collect_ledgers
        from simulations.run import scenario_path
        from simulations.statistics import Asked, check, statistics

        chosen = load(scenario_path(scenario), list(settings or []))
        asked = Asked(
            epsilon=epsilon,
            delta=chosen.privacy.delta,
            bins=bins,
            most_records=most_records,
        )
        check(chosen, asked)
        directory = out or free_directory(Path("runs"), f"{chosen.federation.name}-stats")
        with hold(directory, fresh=True), begun():
            found = statistics(chosen, asked, directory / "checkpoint" / "sites")
            collect_ledgers(chosen, directory)
            _write(found, directory / RESULT)
        if as_json:
            print_json(found.as_dict())
        else:
            from fedlite.reporting.columns import print_columns

            print_columns(found.as_dict(), str(directory))


def _write(found: Statistics, path: Path) -> None:
    from fedlite.storage import write_atomic

    text = json.dumps(found.as_dict(), indent=2, sort_keys=True) + "\n"
    write_atomic(path, text.encode())
