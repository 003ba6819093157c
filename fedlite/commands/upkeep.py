"""`fedlite site` and `fedlite server`: what keeps a machine in order (clean)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlite.commands.output import HERE, CoordinatorFolder, Json, SiteFolder, tell, told

KeepDays = Annotated[int, typer.Option(metavar="N", help="Keep what was used in the last N days.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]
Positional = Annotated[
    Path | None, typer.Argument(metavar="[COORD]", help="The same as --coordinator.")
]


def add_to(site_app: typer.Typer, server_app: typer.Typer) -> None:
    """Add the commands of a site's operator and of a coordinator's."""
    site_app.command("clean")(site_clean)
    server_app.command("clean")(server_clean)


def site_clean(
    home: SiteFolder, keep_days: KeepDays = 30, dry_run: DryRun = False, as_json: Json = False
) -> None:
    """Remove states of runs that are over, unused bundles and old logs; never a ledger or a key."""
    with told(home):
        from clients.runtime.cleaning import clean
        from fedlite.deployment.retention import report

        found, kept = clean(home, keep_days, dry_run=dry_run)
        tell(*report(found, kept, home, dry_run=dry_run), as_json)


def server_clean(
    given: Positional = None,
    folder: CoordinatorFolder = HERE,
    keep_days: KeepDays = 30,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove bundles, unpacked apps and checkpoints of runs that are over; never their records."""
    with told():
        from fedlite.deployment.retention import report
        from server.coordinator.cleaning import clean
        from server.coordinator.folder import Coordinator

        coordinator = Coordinator.open(given or folder)
        found, kept = clean(coordinator, keep_days, dry_run=dry_run)
        tell(*report(found, kept, coordinator.path, dry_run=dry_run), as_json)
