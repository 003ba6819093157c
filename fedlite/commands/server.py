"""`fedlite server init | start | submit | bundle | status | stop`: a coordinator's operator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlite.commands.output import (
    FAILED,
    HERE,
    SCENARIO_HELP,
    WRONG_USE,
    CoordinatorFolder,
    Json,
    Quiet,
    fail,
    print_json,
    tell,
    tell_wrong,
    told,
)
from fedlite.commands.submission import settled
from fedlite.rooms import app_root

if TYPE_CHECKING:
    from server.coordinator.folder import Coordinator

server_app = typer.Typer(help="What a coordinator's operator does.", no_args_is_help=True)

Positional = Annotated[
    Path | None, typer.Argument(metavar="[COORD]", help="The same as --coordinator.")
]
Scenarios = Annotated[str, typer.Argument(help=SCENARIO_HELP)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace one key; repeatable."),
]
Rounds = Annotated[int | None, typer.Option(help="Replace federation.rounds.")]
RunOwn = Annotated[
    bool,
    typer.Option("--run-own-code", help="Run the files that the scenario names, without asking."),
]


@server_app.command()
def init(
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where sites reach the coordinator.")
    ],
    name: Annotated[str, typer.Option(help="What the coordinator is called.")] = "coordinator",
    federation: Annotated[str, typer.Option(help="What the federation is called.")] = "default",
    bind: Annotated[
        str, typer.Option(metavar="IP", help="The address of this machine to listen on; ::, all.")
    ] = "::",
    port: Annotated[int, typer.Option(help="The port to listen on; 0: that of the address.")] = 0,
    superlink_port: Annotated[
        int, typer.Option(help="Of Flower's SuperLink, on 127.0.0.1 only.")
    ] = 9091,
    given: Positional = None,
    folder: CoordinatorFolder = HERE,
    as_json: Json = False,
) -> None:
    """Make a coordinator's folder: settings, keys, certificates, invitation."""
    with told():
        from fedlite.deployment.invitation import Invitation
        from server.coordinator.setup import init as make

        made = make(
            given or folder,
            name,
            address,
            federation=federation,
            bind=bind,
            port=port,
            superlink_port=superlink_port,
        )
        invitation = Invitation.decode(made.invitation.read_bytes())
        value = {
            "coordinator": str(made.path),
            "address": address,
            "invitation": str(made.invitation),
            "fingerprint": invitation.fingerprint,
            "unit": str(made.unit),
            "compose": str(made.compose),
        }
        text = (
            f"{made.path}: coordinator {name!r} at {address}\n"
            f"Start it:      fedlite server start {given or folder}\n"
            f"               (or by systemd: {made.unit}, or in a container: {made.compose})\n"
            f"Invite sites:  send them {made.invitation}, and tell them by another way its "
            f"fingerprint\n               {invitation.fingerprint}\n"
            f"Keep a copy of {made.path}: its keys cannot be made again"
        )
        tell(value, text, as_json)


@server_app.command()
def start(
    given: Positional = None,
    folder: CoordinatorFolder = HERE,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in the foreground, as systemd wants it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the coordinator: Flower's SuperLink, the gateway, and the runs that were going on."""
    with told():
        from server.coordinator import superlink

        coordinator = _open(given or folder)
        if foreground:
            superlink.supervise(coordinator)
            return
        pid = superlink.start(coordinator)
        settings = coordinator.settings
        value = {
            "pid": pid,
            "address": settings.address,
            "listens": f"{settings.listens} port {settings.gateway_port}",
            "logs": str(coordinator.logs),
        }
        text = (
            f"the coordinator runs (process {pid}): it listens on {value['listens']}, sites reach "
            f"it at {settings.address}; logs in {coordinator.logs}"
        )
        tell(value, text, as_json)


@server_app.command()
def stop(
    given: Positional = None,
    folder: CoordinatorFolder = HERE,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Stop this run only, for good.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Stop the coordinator, whose runs go on at the next start; or stop one run."""
    with told():
        from server.coordinator import submit as runs, superlink

        coordinator = _open(given or folder)
        if run is not None:
            job = runs.stop_run(coordinator, run)
            text = f"{run}: stopped; go on with fedlite server submit --resume {run}"
            tell({"run": run, "state": job.state}, text, as_json)
        else:
            ran = superlink.stop(coordinator)
            text = "the coordinator has stopped" if ran else "the coordinator was not running"
            tell({"stopped": ran}, text, as_json)


@server_app.command()
def submit(
    scenario: Annotated[str | None, typer.Argument(help=SCENARIO_HELP)] = None,
    settings: Settings = None,
    rounds: Rounds = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="For which the first round waits for all sites; 0: a round's deadline.",
        ),
    ] = None,
    follow: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only show a run that was submitted.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Let a run that failed or was stopped go on."),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also when it was submitted before: it spends budget anew."),
    ] = False,
    run_own: RunOwn = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait for the end of the run.")
    ] = False,
    folder: CoordinatorFolder = HERE,
    as_json: Json = False,
) -> None:
    """Run a scenario with the approved sites, and follow it to its end."""
    with told():
        if sum(one is not None for one in (scenario, follow, resume)) != 1:
            fail("submit: name a scenario, or --follow NAME, or --resume NAME", WRONG_USE)
        if scenario is None and (settings or rounds is not None or again):
            fail("--set, --rounds, --again: a run goes on as it began; leave them out", WRONG_USE)
        if follow is not None and wait is not None:
            fail("--wait: is for a run that starts or goes on, not for --follow", WRONG_USE)
        from server.coordinator import jobs, submit as runs

        coordinator = _open(folder)
        if scenario is not None:
            runs.require_running(coordinator)
            chosen, own = settled(scenario, settings, rounds, run_own, quiet=as_json)
            name = runs.submit(
                coordinator, chosen, app_root(), own, wait=wait or 0.0, again=again
            ).name
        elif resume is not None:
            name = jobs.resume(coordinator, resume, wait).name
        else:
            name = str(follow)
        command = f"fedlite server submit --follow {name}"
        if detach:
            tell(_job(coordinator, name), f"{name}: submitted; see it with {command}", as_json)
            return
        try:
            job = runs.follow(coordinator, name, quiet=as_json)
        except KeyboardInterrupt:
            fail(f"{name}: goes on; see it with fedlite server status, or {command}", 130)
        if job.state != jobs.FINISHED:
            fail(f"{name}: {job.state}: {job.reason}", FAILED)
        _show(coordinator.path / job.directory, as_json)


@server_app.command()
def bundle(
    scenario: Scenarios,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write it.")],
    settings: Settings = None,
    rounds: Rounds = None,
    run_own: RunOwn = False,
    folder: CoordinatorFolder = HERE,
    as_json: Json = False,
) -> None:
    """Build the bundle of a scenario only, to be sent to the sites for their approval."""
    with told():
        from fedlite.deployment.bundle import digest
        from fedlite.storage import write_atomic
        from server.coordinator import groups, submit as runs

        coordinator = _open(folder)
        chosen, own = settled(scenario, settings, rounds, run_own, quiet=as_json)
        chosen = groups.settle(coordinator.path, chosen)
        content = runs.build(chosen, app_root(), own)
        write_atomic(out, content)
        value = {"bundle": str(out), "sha256": digest(content), "bytes": len(content)}
        tell(value, f"{out}\nSHA-256 {value['sha256']}", as_json)


@server_app.command()
def status(
    given: Positional = None,
    folder: CoordinatorFolder = HERE,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show whether the coordinator runs, its sites, and its runs."""
    with told():
        from server.coordinator import submit as runs
        from server.coordinator.attention import attention

        coordinator = _open(given or folder)
        seen = runs.overview(coordinator)
        if quiet:
            tell_wrong(attention(coordinator, seen), as_json)
        elif as_json:
            print_json(seen)
        else:
            _print_status(seen)


def _open(folder: Path) -> Coordinator:
    from server.coordinator.folder import Coordinator

    return Coordinator.open(folder)


def _job(coordinator: Coordinator, name: str) -> dict[str, Any]:
    from dataclasses import asdict

    from server.coordinator import jobs

    return asdict(jobs.load(coordinator, name))


def _show(directory: Path, as_json: bool) -> None:
    from fedlite.reporting import table
    from fedlite.reporting.record import read_summary

    summary = read_summary(directory)
    if as_json:
        typer.echo(table.as_json(summary))
    else:
        table.print_summary(summary, directory, next_command=f"fedlite report {directory}")


def _print_status(seen: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedlite.reporting import terminal, wording

    if seen["pid"] is None:
        state = "not running; start it with fedlite server start"
    elif seen["answers"]:
        state = f"running (process {seen['pid']})"
    else:
        state = f"running (process {seen['pid']}), but does not answer; see its logs"
    sites = seen["sites"]
    online = "unknown" if sites["online"] is None else sites["online"]
    typer.echo(f"coordinator   {seen['name']} at {seen['address']}: {state}")
    typer.echo(
        f"certificate   {seen['certificate_days']} days left, its authority's "
        f"{seen['authority_days']}"
    )
    typer.echo(f"sites         {sites['approved']} approved, {online} online")
    for name, counts in seen["refused"].items():
        told = ", ".join(f"{times} x {what}" for what, times in counts.items())
        typer.echo(f"refused       {wording.plain(name)}, in 24 hours: {told}")
    for run in seen["unknown_runs"]:
        typer.echo(
            f"unknown run   {run['flower_run']} of Flower, ended at {run['time']}: nobody has "
            "submitted it here; whoever started it reads this folder"
        )
    if not seen["runs"]:
        typer.echo("runs          none yet: fedlite server submit SCENARIO")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("run", "state", "round", "up", "down"):
        table.add_column(column)
    for run in seen["runs"]:
        table.add_row(
            Text(wording.plain(run["name"])),
            run["state"],
            f"{run['round']}/{run['rounds']}",
            wording.megabytes(run["bytes_up"]),
            wording.megabytes(run["bytes_down"]),
        )
    terminal.print_whole(table)
    for run in seen["runs"]:
        if run["reason"]:
            typer.echo(wording.plain(f"{run['name']}: {run['reason']}"))


# Who takes part (invite, approve, revoke, sites) is in `cli_enrolment`, which adds its commands.
