"""The `fedlite` command. Each command imports its room only when it is called."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlite.commands import (
    after,
    enrolment,
    export,
    mechanism,
    project,
    releases,
    serve,
    stats,
    sweep,
    upkeep,
)
from fedlite.commands.data import data_app
from fedlite.commands.operate import operate_app
from fedlite.commands.output import (
    FAILED,
    SCENARIO_HELP,
    WRONG_USE,
    Json,
    begun,
    fail,
    print_json,
    told,
)
from fedlite.commands.server import server_app
from fedlite.commands.site import site_app

app = typer.Typer(
    help="Federated learning with small messages, valid privacy and budgets kept at the site.",
    epilog="Exit codes: 0 done; 1 failed, refused or not clean; 2 the call, or a file or setting "
    "that it names, is wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
audit_app = typer.Typer(
    help="Check what was spent from files alone, and attack the mechanism.", no_args_is_help=True
)
mechanism.add_to(audit_app)
app.add_typer(audit_app, name="audit")

stats.add_to(app, server_app)
sweep.add_to(app)
app.add_typer(site_app, name="site")
enrolment.add_to(server_app)
upkeep.add_to(site_app, server_app)
releases.add_to(site_app, server_app)
app.add_typer(server_app, name="server")


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
        typer.Argument(help=f"{SCENARIO_HELP} Default: quickstart."),
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
        Path | None, typer.Option(help="Run directory; new, or empty. Default: runs/NAME.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the interrupted run in this directory.")
    ] = None,
    track: Annotated[
        str, typer.Option(help="csv, tensorboard, mlflow: the same as --set report.trackers=.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Simulate a federation on this machine and write its record, model and report."""
    with told():
        from fedlite.scenario import ScenarioError, load
        from server.directories import after_a_stop, free_directory, hold
        from simulations import run as simulation

        simulation.check_engine(engine)
        overrides = [*(settings or []), *([f"report.trackers={track}"] if track else [])]
        if resume is not None:
            changed = [text for text in overrides if not text.startswith("data.path=")]
            if scenario is not None or out is not None or changed or rounds is not None:
                raise ScenarioError(
                    "--resume: a run goes on as it began; leave out the scenario, --out, --rounds "
                    "and --set, but for --set data.path=FILE where its records have moved"
                )
            # What is wrong with it is said before anything there is touched.
            chosen, directory = simulation.resume_scenario(resume, overrides), resume
        else:
            if rounds is not None:
                overrides.append(f"federation.rounds={rounds}")
            try:
                chosen = load(simulation.scenario_path(scenario or "quickstart"), overrides)
            except ScenarioError as error:
                if scenario is not None or not overrides:
                    raise
                raise ScenarioError(
                    f"{error}\nno scenario was named, so --set changes quickstart, which is "
                    "private by record; a file of your own starts from the defaults"
                ) from None
            directory = out or free_directory(Path("runs"), chosen.federation.name)
        try:
            with hold(directory, fresh=resume is None):
                if resume is not None:
                    # Whoever had it until now may just have finished it.
                    chosen = simulation.resume_scenario(resume, overrides)
                with begun():
                    simulation.simulate(chosen, directory, engine=engine, quiet=as_json)
        except KeyboardInterrupt:
            fail(f"interrupted; {after_a_stop(directory)}", 130)
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
    with told():
        from fedlite.reporting.report import report as draw

        made = draw(run)
        if as_json:
            print_json(made)
        else:
            _show(run, False, f"open {made['page']}")


after.add_to(app)
export.add_to(app)
serve.add_to(app)
app.add_typer(operate_app, name="operate")
project.add_to(app)


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
    witness_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEX",
            help="A server's public key, from its operator; may be given more than once. What was "
            "signed with another is a finding, and what it has not signed was not checked.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify privacy ledgers, recompute every epsilon, and compare with what servers saw.

    Exits with 1 when there is any finding, or anything that could not be checked, and with 2 for a
    path that is not there.
    """
    with told():
        for path in paths:
            if not os.path.lexists(path):
                fail(f"{path}: no such file or folder; check the path", WRONG_USE)
        for key in witness_key or ():
            if not re.fullmatch(r"[0-9a-f]{64}", key):
                text = (
                    f"must be 64 lower-case hex digits, got {key[:80]!r}; ask the operator for it"
                )
                fail(f"--witness-key: {text}", WRONG_USE)
        from fedlite.audit import audit, page as audit_page
        from fedlite.audit.sources import PAGE

        if html is not None and not audit_page.may_write(html):
            fail(f"--html {html}: is no audit page, and is not overwritten", WRONG_USE)
        found = audit(paths, witness_key or ())
        page = html
        if html is not None:
            audit_page.write(found, html)
        elif len(found.run_directories) == 1:
            page = _page_beside(found, found.run_directories[0] / PAGE)
        if as_json:
            print_json(found.as_dict() | {"page": str(page) if page else None})
        else:
            from fedlite.audit.table import print_audit

            print_audit(found, str(page) if page else "")
        if not found.clean:
            raise typer.Exit(FAILED)


def _page_beside(found: Any, path: Path) -> Path | None:
    """Write the page into the run that was audited, which may well be a read-only copy."""
    from fedlite.audit import page as audit_page

    try:
        audit_page.write(found, path)
    except (ValueError, OSError) as error:
        typer.echo(f"fedlite: no page was written: {error}", err=True)
        return None
    return path


def main() -> None:
    """Run the command line; the entry point of the `fedlite` script."""
    # Flower's log lines and torch's warnings are not for the person at the terminal.
    os.environ.setdefault("FLWR_LOG_LEVEL", "ERROR")
    app()
