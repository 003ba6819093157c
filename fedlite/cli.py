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
audit_app = typer.Typer(help="Check from files alone what was spent.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")

site_app = typer.Typer(help="What a partner site's operator does.", no_args_is_help=True)
app.add_typer(site_app, name="site")

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
        step = _next(chosen.federation.name, directory)
        if chosen.claims_privacy:
            step = f"fedlite audit ledgers {directory}, then {step}"
        _show(directory, as_json, step)


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
        _tell({"name": name, "path": str(path)}, f"{name}: {path}", as_json)


@audit_app.command("ledgers")
def audit_ledgers(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Ledgers, run directories, site directories, witness files, or folders of these.",
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the page there. Default: audit.html in the run directory."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify privacy ledgers, recompute every epsilon, and compare with what servers saw.

    Exits with 1 when there is any finding, or anything that could not be checked.
    """
    with _told():
        from fedlite.privacy.audit import audit
        from fedlite.privacy.audit import page as audit_page

        if html is not None and not audit_page.may_write(html):
            _fail(f"--html {html}: is no audit page, and is not overwritten", WRONG_USE)
        found = audit(paths)
        page = html
        if html is not None:
            audit_page.write(found, html)
        elif len(found.run_directories) == 1:
            page = _page_beside(found, found.run_directories[0] / audit_page.PAGE)
        if as_json:
            _print_json(found.as_dict() | {"page": str(page) if page else None})
        else:
            from fedlite.privacy.audit.table import print_audit

            print_audit(found, str(page) if page else "")
        if not found.clean:
            raise typer.Exit(FAILED)


def _page_beside(found: Any, path: Path) -> Path | None:
    """Write the page into the run that was audited, which may well be a read-only copy."""
    from fedlite.privacy.audit import page as audit_page

    try:
        audit_page.write(found, path)
    except (ValueError, OSError) as error:
        typer.echo(f"fedlite: no page was written: {error}", err=True)
        return None
    return path


OwnerKey = Annotated[Path, typer.Option("--key", help="The data owner's private key, PEM.")]


@site_app.command("owner")
def site_owner(key: OwnerKey, as_json: Json = False) -> None:
    """Make the data owner's key, or read it, and print the public half for site.toml."""
    with _told():
        from clients import commands

        public = commands.owner_key(key)
        _tell({"key": str(key), "owner": public}, f'owner = "{public}"', as_json)


@site_app.command("grant")
def site_grant(
    ledger: Annotated[Path, typer.Argument(help="The ledger whose ceiling is to be raised.")],
    key: OwnerKey,
    out: Annotated[Path, typer.Option(help="Where to write the grant.")] = Path("grant.json"),
    epsilon: Annotated[float | None, typer.Option(help="New ceiling of the data set.")] = None,
    person: Annotated[float | None, typer.Option(help="New ceiling of a person.")] = None,
    per_run: Annotated[float | None, typer.Option(help="New ceiling of one run.")] = None,
    as_json: Json = False,
) -> None:
    """Sign, as the data owner, a higher ceiling for one ledger; the site then applies it."""
    with _told():
        from clients import commands

        wanted = {"epsilon": epsilon, "person": person, "per_run": per_run}
        changes = {name: value for name, value in wanted.items() if value is not None}
        grant = commands.make_grant(ledger, key, changes, out)
        _tell(grant, f"{out}: at the site, run: fedlite site raise HOME {out}", as_json)


@site_app.command("raise")
def site_raise(
    home: Annotated[Path, typer.Argument(help="The site's folder.")],
    grant: Annotated[Path, typer.Argument(help="The data owner's grant.")],
    as_json: Json = False,
) -> None:
    """Put a data owner's grant in force."""
    with _told():
        from clients import commands

        policy = commands.apply_grant(home, grant)
        _tell(
            policy,
            f"epsilon {policy['epsilon']:g} at delta {policy['delta']:g} is in force",
            as_json,
        )


@site_app.command("rotate")
def site_rotate(
    home: Annotated[Path, typer.Argument(help="The site's folder.")], as_json: Json = False
) -> None:
    """Replace the key that signs the site's ledgers; each of them records it."""
    with _told():
        from clients import commands

        public, ledgers = commands.rotate_key(home)
        _tell(
            {"home": str(home), "key": public, "ledgers": ledgers},
            f"ledgers signed by {public} from here on: {ledgers}",
            as_json,
        )


@site_app.command("recover")
def site_recover(
    home: Annotated[Path, typer.Argument(help="The site's folder.")],
    dataset: Annotated[str, typer.Argument(help="The data set whose ledger refuses.")],
    drop_damaged_tail: Annotated[
        bool, typer.Option(help="Give up an end that was never flushed and does not verify.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify a ledger after its disk has failed, and write it anew, so that it works again."""
    with _told():
        from clients import commands

        rows = commands.recover_ledger(home, dataset, drop_damaged_tail=drop_damaged_tail)
        _tell(
            {"home": str(home), "dataset": dataset, "rows": rows},
            f"{dataset}: {rows} rows verified and written anew",
            as_json,
        )


def _tell(value: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result: one JSON object for scripts, one line for people."""
    if as_json:
        _print_json(value)
    else:
        typer.echo(text)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True))


def main() -> None:
    """Run the command line; the entry point of the `fedlite` script."""
    # Flower's log lines and torch's warnings are not for the person at the terminal.
    os.environ.setdefault("FLWR_LOG_LEVEL", "ERROR")
    app()
