"""`fedlite server invite | approve | revoke | group | sites`: who takes part."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlite.commands.output import (
    HERE,
    WRONG_USE,
    CoordinatorFolder,
    Json,
    fail,
    print_json,
    tell,
    told,
)

if TYPE_CHECKING:
    from server.coordinator.enrolment import Question


def add_to(server_app: typer.Typer) -> None:
    """Add the commands to `fedlite server`."""
    server_app.command("invite")(invite)
    server_app.command("approve")(approve)
    server_app.command("revoke")(revoke)
    server_app.command("group")(group)
    server_app.command("sites")(sites)


def invite(
    out: Annotated[Path | None, typer.Option(help="Copy the invitation there, to be sent.")] = None,
    coordinator: CoordinatorFolder = HERE,
    as_json: Json = False,
) -> None:
    """Show the invitation to send to partner sites, and the fingerprint to tell them."""
    with told():
        from server.coordinator.folder import Coordinator
        from server.coordinator.setup import renew_invitation

        opened = Coordinator.open(coordinator)
        path, invitation = opened.invitation, renew_invitation(opened)
        if out is not None:
            out.write_bytes(path.read_bytes())
        value = {
            "invitation": str(out or path),
            "address": invitation.address,
            "fingerprint": invitation.fingerprint,
        }
        text = (
            f"send {out or path} to the site; there is no secret in it.\n"
            f"Tell by another way, such as telephone: {invitation.fingerprint}\n"
            "The site runs: fedlite site join HOME INVITATION, and sends its request.json back"
        )
        tell(value, text, as_json)


def approve(
    request: Annotated[Path, typer.Argument(help="The request.json that the site sent.")],
    fingerprint: Annotated[
        str, typer.Option(metavar="SHA256:..", help="The node key's, told by another way.")
    ] = "",
    again: Annotated[bool, typer.Option("--again", help="Also when it was revoked.")] = False,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Put it into this group, for @NAME; repeatable."),
    ] = None,
    coordinator: CoordinatorFolder = HERE,
    as_json: Json = False,
) -> None:
    """Let a site take part, or change its key. Called again, complete what was interrupted."""
    with told(), _control(coordinator) as (opened, control):
        from server.coordinator import enrolment, groups

        chosen = groups.check(tuple(group)) if group else None
        name, site = enrolment.approve(
            opened, request, control, _question(fingerprint), again=again, groups=chosen
        )
        value = {"name": name, "node_id": site.node_id, "approved": site.approved}
        text = f"{name}: approved, node {site.node_id}"
        if site.groups:
            text += f", in {', '.join(site.groups)}"
        tell(value | {"groups": list(site.groups)}, text, as_json)


def _question(fingerprint: str) -> Callable[[Question], bool]:
    def confirm(question: Question) -> bool:
        if fingerprint:
            if fingerprint.strip().removeprefix("SHA256:") != question.node_key[7:]:
                raise ValueError(
                    f"--fingerprint: must be that of the request, {question.node_key}, got "
                    f"{fingerprint[:100]!r}; somebody may have changed the request"
                )
            return True
        if not sys.stdin.isatty():
            fail(
                "--fingerprint: must be given where nobody can be asked; the site's operator tells "
                "it by telephone, for example",
                WRONG_USE,
            )
        lines = [
            f"Site        {question.site}",
            f"Node key    {question.node_key}",
            f"Ledger key  {question.ledger_key}",
            *(f"Note        {note}" for note in question.notes),
        ]
        typer.echo("\n".join(lines), err=True)
        asked = "Is this the node key that the site's operator told you by another way?"
        return typer.confirm(asked, err=True)

    return confirm


def revoke(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    coordinator: CoordinatorFolder = HERE,
    as_json: Json = False,
) -> None:
    """Take a site out: no run uses it, and its key never connects again."""
    with told(), _control(coordinator) as (opened, control):
        from server.coordinator import enrolment

        site = enrolment.revoke(opened, name, control)
        value = {"name": name, "node_id": site.node_id, "revoked": site.revoked}
        tell(value, f"{name}: revoked; it can only come back with a new key, by --again", as_json)


def group(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    groups: Annotated[
        list[str] | None, typer.Argument(help="The groups that it is in from now on; none: none.")
    ] = None,
    coordinator: CoordinatorFolder = HERE,
    as_json: Json = False,
) -> None:
    """Put a site into groups, which federation.members names as @GROUP; runs keep their members."""
    with told():
        from server.coordinator.folder import Coordinator
        from server.coordinator.groups import set_groups

        site = set_groups(Coordinator.open(coordinator), name, tuple(groups or ()))
        said = ", ".join(site.groups)
        text = f"{name}: in {said}" if said else f"{name}: in no group"
        tell({"name": name, "groups": list(site.groups)}, text, as_json)


def sites(coordinator: CoordinatorFolder = HERE, as_json: Json = False) -> None:
    """List the sites: approved, revoked, online."""
    with told():
        from server.coordinator import enrolment
        from server.coordinator.folder import Coordinator

        try:
            with _control(coordinator) as (opened, control):
                rows = enrolment.sites(opened, control)
        except ConnectionError as error:
            typer.echo(f"fedlite: warning: who is online is unknown: {error}", err=True)
            rows = enrolment.sites(Coordinator.open(coordinator), None)
        if as_json:
            print_json({"sites": rows})
        else:
            _table(rows)


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedlite.reporting import terminal, wording

    if not rows:
        typer.echo("no sites yet: fedlite server invite")
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    columns = ["name", "state", "release", "approved", "node_key"]
    if any(row["groups"] for row in rows):
        columns.insert(2, "groups")
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        # The day alone, so that a key, which people compare, fits beside it. A name
        # may hold brackets, which rich would take for markup in a plain string.
        told = row | {"groups": ", ".join(row["groups"]), "approved": row["approved"][:10]}
        table.add_row(*(Text(wording.plain(told[column])) for column in columns))
    terminal.print_whole(table)


@contextmanager
def _control(folder: Path) -> Iterator[tuple[Any, Any]]:
    """Open the coordinator's folder and its connection to Flower."""
    from server.coordinator.control import Control
    from server.coordinator.folder import Coordinator

    coordinator = Coordinator.open(folder)
    control = Control(coordinator)
    try:
        yield coordinator, control
    finally:
        control.close()
