"""The `fedlite` command. Each command imports its room only when it is called."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Federated learning with small messages, valid privacy and budgets kept at the site.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="The data sources that scenarios can name.", no_args_is_help=True)
app.add_typer(data_app, name="data")

FAILED, WRONG_USE = 1, 2

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def app_root() -> Path:
    """Return the folder that holds `clients/`, `server/`, `strategies/` and `simulations/`.

    In a checkout that is the repository; an installed wheel carries them inside the package.
    """
    package = Path(__file__).resolve().parent
    inside = package / "app"
    return inside if inside.is_dir() else package.parent


@contextmanager
def _told() -> Iterator[None]:
    """Turn the errors that a person can mend into one message and an exit code."""
    root = str(app_root())
    if root not in sys.path:
        sys.path.insert(0, root)
    from fedlite.config import ScenarioError

    try:
        yield
    except typer.Exit:
        raise  # a RuntimeError to Python, and already told
    except ScenarioError as error:
        _fail(str(error), WRONG_USE)
    except (ValueError, ConnectionError, RuntimeError) as error:
        _fail(str(error), FAILED)
    except OSError as error:
        _fail(_disk(error), FAILED)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _disk(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror.lower()}; what was written before is whole"


def _fail(text: str, code: int) -> None:
    typer.echo(f"fedlite: {text}", err=True)
    raise typer.Exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        from fedlite import __version__

        typer.echo(f"fedlite {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Federated learning with small messages, valid privacy and budgets kept at the site."""


@app.command()
def simulate(
    scenario: Annotated[
        str | None,
        typer.Argument(help="A scenario's name, or a path to a TOML file. Default: quickstart."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace one key; repeatable."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Replace federation.rounds.")] = None,
    engine: Annotated[
        str, typer.Option(help="auto, serial, pool (a process a core) or ray (Flower's own).")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Run directory; must not exist. Default: runs/NAME.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the interrupted run in this directory.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate a federation on this machine and write its record, model and report."""
    with _told():
        from fedlite.config import ScenarioError, load
        from server.app import free_directory
        from simulations import run as simulation

        if resume is not None:
            if scenario is not None or out is not None or settings or rounds is not None:
                raise ScenarioError(
                    "--resume: a run goes on as it began; leave out the scenario, --out, --set and "
                    "--rounds"
                )
            chosen, directory = simulation.resume_scenario(resume), resume
        else:
            overrides = list(settings or [])
            if rounds is not None:
                overrides.append(f"federation.rounds={rounds}")
            chosen = load(simulation.scenario_path(scenario or "quickstart"), overrides)
            if out is None:
                directory = free_directory(Path("runs"), chosen.federation.name)
            elif out.exists() and not (out.is_dir() and not any(out.iterdir())):
                raise ScenarioError(
                    f"--out {out}: already exists, and a run is never overwritten; name another "
                    f"directory, or go on with --resume {out}"
                )
            else:
                directory = out
        try:
            simulation.simulate(chosen, directory, engine=engine, quiet=as_json)
        except KeyboardInterrupt:
            _fail(f"interrupted; go on with: fedlite simulate --resume {directory}", 130)
        _show(directory, as_json, _next(chosen.federation.name, directory))


def _next(name: str, directory: Path) -> str:
    steps = {
        "quickstart": "fedlite simulate heart",
        "heart": "fedlite simulate fashion-private",
        "fashion-private": "fedlite simulate fashion",
    }
    return steps.get(name, f"fedlite report {directory}")


def _show(directory: Path, as_json: bool, next_command: str) -> None:
    from fedlite.reporting import table
    from fedlite.reporting.record import read_summary

    summary = read_summary(directory)
    if as_json:
        typer.echo(table.as_json(summary))
    else:
        table.print_summary(summary, directory, next_command=next_command)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    as_json: Json = False,
) -> None:
    """Draw a run's figures and page again, and print its table."""
    with _told():
        from fedlite.reporting.report import report as draw

        made = draw(run)
        if as_json:
            _print_json(made)
        else:
            _show(run, False, f"open {made['page']}")


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the data sources and whether they are on this machine."""
    with _told():
        from fedlite import data

        rows = [
            {
                "name": entry.name,
                "what": entry.what,
                "records": entry.records,
                "licence": entry.licence,
                "bytes": entry.size,
                "how": entry.how,
                "available": data.available(entry.name),
            }
            for entry in data.entries()
        ]
        if as_json:
            _print_json({"sources": rows})
            return
        from rich.console import Console
        from rich.table import Table

        listing = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("name", "records", "here", "what", "licence"):
            listing.add_column(column, justify="right" if column == "records" else "left")
        for row in rows:
            listing.add_row(
                str(row["name"]),
                f"{row['records']:,}" if row["records"] else "",
                "yes" if row["available"] else "no",
                str(row["what"]),
                str(row["licence"]),
            )
        Console().print(listing)
        typer.echo("Get one with: fedlite data fetch NAME")


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="A name from `fedlite data list`.")],
    as_json: Json = False,
) -> None:
    """Bring a data source into the cache and verify it."""
    with _told():
        from fedlite import data

        path = data.fetch(name)
        if as_json:
            _print_json({"name": name, "path": str(path)})
        else:
            typer.echo(f"{name}: {path}")


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True))


def main() -> None:
    """Run the command line; the entry point of the `fedlite` script."""
    # Flower's log lines and torch's warnings are not for the person at the terminal.
    os.environ.setdefault("FLWR_LOG_LEVEL", "ERROR")
    app()
