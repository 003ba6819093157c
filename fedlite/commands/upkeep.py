"""`fedlite site` and `fedlite server`: what sets a machine up and keeps it in order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlite.commands.output import (
    HERE,
    WRONG_USE,
    CoordinatorFolder,
    Json,
    SiteFolder,
    fail,
    tell,
    told,
)

if TYPE_CHECKING:
    from fedlite.deployment.container import Role
    from fedlite.deployment.prometheus import Metric

KeepDays = Annotated[int, typer.Option(metavar="N", help="Keep what was used in the last N days.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]
Positional = Annotated[
    Path | None, typer.Argument(metavar="[COORD]", help="The same as --coordinator.")
]


Out = Annotated[Path, typer.Argument(help="The kit's folder: a new one, or an earlier kit.")]
Wheels = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Take the wheels of what fedlite needs from there."),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch them by pip, as it is set up.")]


Textfile = Annotated[
    Path | None,
    typer.Option(metavar="FILE.prom", help="Write them there, for node_exporter to read."),
]
Listen = Annotated[
    str,
    typer.Option(metavar="IP:PORT", help="Serve them at /metrics, on an address of this machine."),
]
Anywhere = Annotated[
    bool, typer.Option("--anywhere", help="Let --listen be an address that others reach.")
]


def add_to(site_app: typer.Typer, server_app: typer.Typer) -> None:
    """Add the commands of a site's operator and of a coordinator's."""
    site_app.command("kit")(site_kit)
    server_app.command("kit")(server_kit)
    site_app.command("metrics")(site_metrics)
    server_app.command("metrics")(server_metrics)
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


def site_kit(
    out: Out, wheels: Wheels = None, download: Download = False, as_json: Json = False
) -> None:
    """Make a folder from which a site is installed without a network, by hand or as a container."""
    with told():
        from clients.runtime.setup import systemd_unit
        from fedlite.deployment.container import SITE

        _kit(out, SITE, systemd_unit, wheels, download, as_json)


def server_kit(
    out: Out, wheels: Wheels = None, download: Download = False, as_json: Json = False
) -> None:
    """Make a folder from which a coordinator is installed without a network, or as a container."""
    with told():
        from fedlite.deployment.container import COORDINATOR
        from server.coordinator.gateway import systemd_unit

        made = partial(systemd_unit, port=COORDINATOR.port or 0)
        _kit(out, COORDINATOR, made, wheels, download, as_json)


def _kit(
    out: Path,
    role: Role,
    unit: Callable[..., bytes],
    wheels: Path | None,
    download: bool,
    as_json: bool,
) -> None:
    from fedlite.deployment import kit, kit_text

    if wheels is not None and download:
        fail("--wheels, --download: the wheels come from one place; give one of them", WRONG_USE)
    there = Path("/etc/systemd/system") / kit.unit_name(role)
    text = unit(there, kit_text.PROGRAM, Path(kit_text.home(role)), kit_text.USER)
    made = kit.make(out, role, text, wheels=wheels, download=download)
    value = {
        "kit": str(made.path),
        "complete": made.complete,
        "wheels": made.wheels,
        "sha256": made.sums,
        "get": made.get,
    }
    if made.complete:
        said = (
            f"{out}: a kit of {made.wheels} wheels; how to use it is in {out / 'README.txt'}\n"
            f"Tell its user by another way the SHA-256 of {out / kit.SUMS}\n{made.sums}"
        )
    else:
        said = (
            f"{out}: not complete yet; where there is a network run\n  {made.get}\n"
            f"then make the kit again with --wheels WHEELS; or, with a network here, --download"
        )
    tell(value, said, as_json)


def site_metrics(
    home: SiteFolder, textfile: Textfile = None, listen: Listen = "", anywhere: Anywhere = False
) -> None:
    """Print the site's figures as Prometheus reads them, or write or serve them."""
    with told(home):
        from clients.runtime.metrics import collect

        _metrics(lambda: collect(home), textfile, listen, anywhere)


def server_metrics(
    given: Positional = None,
    folder: CoordinatorFolder = HERE,
    textfile: Textfile = None,
    listen: Listen = "",
    anywhere: Anywhere = False,
) -> None:
    """Print the coordinator's figures as Prometheus reads them, or write or serve them."""
    with told():
        from server.coordinator.folder import Coordinator
        from server.coordinator.metrics import collect
        from server.coordinator.submit import overview

        coordinator = Coordinator.open(given or folder)
        _metrics(lambda: collect(coordinator, overview(coordinator)), textfile, listen, anywhere)


def _metrics(
    collect: Callable[[], list[Metric]], textfile: Path | None, listen: str, anywhere: bool
) -> None:
    from fedlite.deployment import prometheus
    from fedlite.deployment.signals import signals

    if textfile is not None and listen:
        fail("--textfile, --listen: written once, or served; give one of them", WRONG_USE)
    if textfile is not None:
        prometheus.write_textfile(textfile, collect())
    elif listen:
        server = prometheus.listen(listen, anywhere=anywhere)
        # What is wrong with the folder is said now, not to the first who asks.
        collect()
        with signals() as stop:
            prometheus.serve(server, collect, stop)
    else:
        typer.echo(prometheus.text(collect()), nl=False)
