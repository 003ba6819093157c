"""`fedlite site backup | restore | record | model`: what a site keeps, did, and was given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlite.commands.output import FAILED, Json, SiteFolder, fail, print_json, tell, told


def add_to(site_app: typer.Typer) -> None:
    """Add the commands to `fedlite site`."""
    site_app.command("backup")(backup)
    site_app.command("restore")(restore)
    site_app.command("record")(record)
    site_app.command("model")(model)


def backup(
    home: SiteFolder,
    out: Annotated[Path, typer.Argument(help="The file to write, outside of the site's folder.")],
    as_json: Json = False,
) -> None:
    """Write policy, keys, ledgers, journal and approvals into one file, also while it runs.

    It holds private keys: keep it as you keep the site's folder. No record is in it.
    """
    with told(home):
        from clients.runtime import backup as backups

        saved = backups.backup(home, out)
        value = {**vars(saved), "path": str(saved.path)}
        text = f"{out}: {saved.files} files of {saved.site!r}, SHA-256 {saved.sha256}"
        tell(value, text, as_json)


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="BACKUP", help="What `fedlite site backup` wrote.")
    ],
    home: Annotated[Path, typer.Argument(help="A new folder, or that of the same site.")],
    as_json: Json = False,
) -> None:
    """Make a site's folder again from a backup, or put back what it has lost.

    Nothing that is there is replaced. A ledger that is older than one that this machine has seen is
    refused; what a new machine cannot know, the coordinators do: they refuse the first round.
    """
    with told():
        from clients.runtime import backup as backups
        from clients.runtime.lock import Held

        try:
            done = backups.restore(source, home)
        except Held as error:
            fail(str(error), FAILED)
        for warning in done.warnings:
            typer.echo(f"fedlite: warning: {warning}", err=True)
        text = (
            f"{home}: site {done.site!r}, {len(done.written)} files restored, {len(done.kept)} "
            "were there and stay\n"
            "Whether a ledger had gone on since, this machine knows if it ran the site, and else "
            "its\ncoordinators: an old one is refused at the first round, with `ledger`, before "
            f"anything is\nspent. Next: fedlite site doctor {home}"
        )
        value = {**vars(done), "home": str(home)}
        tell(value, text, as_json)


def record(
    home: SiteFolder,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page there, HTML.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one page for data protection: runs, purposes, what left when, epsilon, approvals.

    Default: record.html in the site's folder. With --json it prints one object, and writes the page
    only where --out says so.
    """
    with told(home):
        from clients.runtime import record as records, record_page

        found = records.record(home)
        if as_json:
            print_json(found)
        if out is not None or not as_json:
            page = out or home / "record.html"
            record_page.write(found, page)
            if not as_json:
                typer.echo(f"{page}: {len(found['runs'])} runs of {found['site']!r}")


def model(
    home: SiteFolder,
    run: Annotated[str, typer.Argument(help="The run's id, or its scenario's name.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write the model.")],
    as_json: Json = False,
) -> None:
    """Write the released model of a run, where its scenario lets the coordinator deliver it.

    model.safetensors holds its tensors by name, model.json how to build and use it.
    """
    with told(home):
        from clients.runtime import model as models

        done = models.write(home, run, out)
        value = {**vars(done), "folder": str(done.folder)}
        text = f"{out}: {done.parameters:,} parameters of {done.scenario!r}, run {done.run}"
        if done.unit == "none":
            text += (
                "\nIt was trained without privacy: what single records say may be read from it, so "
                "keep it as you keep records"
            )
        tell(value, text, as_json)
