"""`fedlite audit mechanism`: attack a scenario's mechanism, and measure its epsilon from below."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlite.commands.output import FAILED, SCENARIO_HELP, Json, print_json, told

if TYPE_CHECKING:
    from fedlite.attacks.verdict import Finding, Report
    from fedlite.scenario import Scenario

RESULT = "mechanism.json"


def add_to(audit_app: typer.Typer) -> None:
    """Add the command to `fedlite audit`."""
    audit_app.command("mechanism")(_mechanism)


def _mechanism(
    scenario: Annotated[str, typer.Argument(help=SCENARIO_HELP)] = "quickstart",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace one key; repeatable."),
    ] = None,
    canaries: Annotated[
        int, typer.Option(min=0, help="Canaries at a time. Default: as many as the model carries.")
    ] = 0,
    confidence: Annotated[float, typer.Option(help="Of each bound.")] = 0.95,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes, with looser bounds.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write mechanism.json and mechanism.png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Attack a scenario's privacy mechanism, and measure its epsilon from below.

    Exits with 1 when a lower bound is above the claim, or a test of the mechanism fails.
    """
    with told():
        from fedlite.scenario import ScenarioError, load
        from simulations.run import check, scenario_path

        chosen = load(scenario_path(scenario), list(settings or []))
        try:
            chosen = check(chosen)
        except ValueError as error:
            # Whatever is wrong here is wrong in what was asked for, and nothing has started yet.
            raise ScenarioError(str(error)) from error
        if out is not None:
            # Minutes later is too late to find that it cannot be.
            out.mkdir(parents=True, exist_ok=True)
        report = _watched(chosen, canaries, confidence, quick=quick, quiet=as_json)
        if out is not None:
            _write(report, out)
        if as_json:
            print_json(report.as_dict())
        else:
            from fedlite.attacks.table import print_report

            print_report(report)
        if report.failed:
            raise typer.Exit(FAILED)


def _watched(
    scenario: Scenario, canaries: int, confidence: float, *, quick: bool, quiet: bool
) -> Report:
    """Return the audit's report; while it runs, a bar on standard error says how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from fedlite.attacks.audit import audit, checks
    from fedlite.training.share import settle_process

    settle_process()
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    shown = console.is_terminal and not quiet

    def done(finding: Finding) -> None:
        bar.advance(task)
        if not quiet and not console.is_terminal:
            typer.echo(f"{finding.check}: {finding.outcome}", err=True)

    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("getting ready", total=checks(scenario, quick=quick))
        return audit(
            scenario,
            canaries=canaries,
            confidence=confidence,
            quick=quick,
            tick=lambda text: bar.update(task, description=text),
            done=done,
        )


def _write(report: Report, directory: Path) -> None:
    from fedlite.attacks.table import draw
    from fedlite.storage import write_atomic

    draw(report, directory)
    text = json.dumps(report.as_dict(), indent=2, sort_keys=True) + "\n"
    write_atomic(directory / RESULT, text.encode())
