"""`fedlite server release`, `fedlite site released`: bundles of models, on their way to sites."""

from __future__ import annotations

import time
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlite.commands.output import (
    FAILED,
    HERE,
    WRONG_USE,
    CoordinatorFolder,
    Json,
    SiteFolder,
    fail,
    print_folded,
    print_json,
    tell,
    told,
    user,
)

if TYPE_CHECKING:
    from clients.runtime.released import Review


def add_to(site_app: typer.Typer, server_app: typer.Typer) -> None:
    """Add the commands to `fedlite site` and `fedlite server`."""
    site_app.command("released")(released)
    server_app.command("release")(release)


def release(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="What fedlite export wrote. Default: say what is released."),
    ] = None,
    note: Annotated[str, typer.Option(help="One line for the sites' operators: what is new.")] = "",
    coordinator: CoordinatorFolder = HERE,
    as_json: Json = False,
) -> None:
    """Offer a bundle, signed by the coordinator, to all approved sites; they decide themselves."""
    with told():
        from server.coordinator import released
        from server.coordinator.folder import Coordinator

        opened = Coordinator.open(coordinator)
        made = (
            released.current(opened) if bundle is None else released.release(opened, bundle, note)
        )
        if made is None:
            tell({"released": None}, "nothing is released", as_json)
            return
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made.number))
        value = {
            "released": made.sha256,
            "name": made.name,
            "number": made.number,
            "bytes": made.size,
            "note": made.note,
        }
        text = (
            f"released {made.name!r} {made.sha256} ({made.size:,} bytes, {when})\n"
            "Sites that run hear of it within a minute or so. One that fetches releases does so by "
            "itself, and\nuses it when its operator says so: fedlite site released HOME"
        )
        tell(value, text, as_json)


def released(
    home: SiteFolder,
    release: Annotated[
        str, typer.Argument(help="The first digits of its SHA-256. Default: list them.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    back: Annotated[
        bool, typer.Option("--back", help="Put the bundle before in use again.")
    ] = False,
    coordinator: Annotated[
        str, typer.Option(help="Which one, by its name, where the site has joined several.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Look at a bundle of a model that a coordinator released, and put it in use here, or not."""
    with told(home):
        from clients.runtime import released as releases, seats

        if back and release:
            fail("--back: is for the bundle before; leave the SHA-256 out", WRONG_USE)
        if back:
            sha256 = releases.back(home, seats.of(home, coordinator), user())
            tell({"in_use": sha256}, f"{sha256[:16]} is in use again", as_json)
        elif release:
            _decide(home, releases.review(home, release, coordinator), yes, as_json)
        else:
            _list(home, releases.known(home), as_json)


def _decide(home: Path, seen: Review, yes: bool, as_json: bool) -> None:
    from clients.runtime import released as releases

    if not as_json:
        _show(seen)
    why = list(seen.refused)
    if not why and not yes:
        if as_json:
            fail("--json: nobody can be asked; add --yes", WRONG_USE)
        if not typer.confirm("May this model be used here?", default=False):
            why.append("the operator said no")
    if not why:
        try:
            folder = releases.approve(home, seen, user())
        except (ValueError, OSError) as error:
            why.append(str(error))
    if why:
        releases.refuse(home, seen, "; ".join(why)[:500])
        if as_json:
            print_json(seen.to_dict() | {"in_use": False, "refused": why})
        fail("not in use: " + "; ".join(why), FAILED)
    text = (
        f"{seen.announced.sha256} is in use: {folder}\n"
        f"for example: fedlite serve {folder} --signed-by {seen.signer}\n"
        f"a server that runs goes on with the one before until it is started again; back: fedlite "
        f"site released {home} --back"
    )
    tell(seen.to_dict() | {"in_use": True, "folder": str(folder)}, text, as_json)


def _list(home: Path, rows: list[dict[str, Any]], as_json: bool) -> None:
    from fedlite.reporting.wording import plain

    if as_json:
        print_json({"releases": rows})
        return
    for row in rows:
        if "problem" in row:
            typer.echo(plain(f"{row['seat']}: {row['problem']}"))
            continue
        if "sha256" in row:
            typer.echo(
                plain(
                    f"{row['sha256']}  {row['state']}  {row['bytes']:,} B  {row['name']}"
                ).rstrip()
            )
        typer.echo(plain(f"in use of {row['coordinator']}: {row['in_use'] or 'none'}"))
        if row.get("state") == "to decide on":
            typer.echo(f"Look at it with: fedlite site released {home} {row['sha256'][:12]}")
    if not rows:
        typer.echo("No coordinator has released a bundle.")


def _show(seen: Review) -> None:
    """Print the page. What the bundle says of itself may not steer the terminal."""
    from fedlite.reporting.wording import plain

    width = max(20, get_terminal_size().columns - 2)
    for title, text in seen.facts:
        print_folded(f"{title:<12} {plain(text)}", width)
    typer.echo("\n--- its card, as whoever made it wrote it")
    for line in seen.card.split("\n"):
        print_folded(plain(line), width, "| ")
    typer.echo("--- end of the card\n")
    if seen.since:
        typer.echo("what differs from the one in use:")
    for key, old, new in seen.since:
        print_folded(plain(f"  {key}: {old} -> {new}"), width)
    for text in seen.refused:
        print_folded(plain(f"refused      {text}"), width)
