"""`fedlite site`: what a partner site's operator does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlite.commands import safekeeping
from fedlite.commands.approval import approve
from fedlite.commands.output import (
    FAILED,
    WRONG_USE,
    Json,
    Quiet,
    SiteFolder,
    fail,
    print_json,
    tell,
    tell_wrong,
    told,
)

if TYPE_CHECKING:
    from fedlite.deployment.invitation import Invitation

site_app = typer.Typer(help="What a partner site's operator does.", no_args_is_help=True)
site_app.command("approve")(approve)
safekeeping.add_to(site_app)
Coordinator = Annotated[
    str, typer.Option(help="Which one, by its name, where the site has joined several.")
]


@site_app.command("init")
def site_init(
    home: Annotated[Path, typer.Argument(help="The site's folder, to be made.")],
    name: Annotated[str, typer.Option(help="The site's name, which it keeps.")],
    data: Annotated[
        str, typer.Option(help="The data set: the data.name of the scenarios it answers.")
    ] = "",
    part: Annotated[str, typer.Option(help="Which site of a source that holds several.")] = "",
    path: Annotated[str, typer.Option(help="Your own file, or folder of pictures.")] = "",
    target: Annotated[str, typer.Option(help="Its label column, where it is a table.")] = "",
    epsilon: Annotated[
        float | None, typer.Option(min=0.0, max=100.0, help="The ceiling of the budget.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the site's folder: keys, policy and a systemd unit. Called again, complete it."""
    with told():
        from clients.runtime import parts, setup
        from fedlite.guard.policy import DataSet

        given = [f"--{k}" for k, v in {"part": part, "path": path, "target": target}.items() if v]
        if given and not data:
            fail(f"{given[0]}: is of a data set, which --data names; give both", WRONG_USE)
        source = parts.source_of(path) if path else data
        if target and not path:
            fail("--target: is a column of your own file, which --path names; give both", WRONG_USE)
        chosen = None
        if data:
            chosen = DataSet(data, source, part, _absolute(path), target)
            for warning in parts.check(chosen):
                typer.echo(f"fedlite: warning: {warning}", err=True)
        made = setup.init(home, name, data=chosen, epsilon=epsilon)
        text = f"{home}: site {name!r} is ready. Read {home / setup.POLICY}, then join: "
        tell(made, f"{text}fedlite site join {home} INVITATION", as_json)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else ""


@site_app.command("join")
def site_join(
    home: SiteFolder,
    invitation: Annotated[Path, typer.Argument(help="What the coordinator's operator sent.")],
    fingerprint: Annotated[
        str, typer.Option(metavar="AA:BB:..", help="The CA's, told by another way.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Take a coordinator's invitation, and write the request that it is to approve."""
    with told(home):
        from clients.runtime import setup
        from fedlite.identity import nodekey

        ask = _confirm if sys.stdin.isatty() else None
        try:
            done = setup.join(home, invitation, fingerprint=fingerprint, confirm=ask)
        except setup.Unconfirmed as error:
            fail(str(error), WRONG_USE)
        for warning in done.warnings:
            typer.echo(f"fedlite: warning: {warning}", err=True)
        key = nodekey.fingerprint(nodekey.public(nodekey.load(done.seat / setup.NODE)))
        value = {
            "home": str(home),
            "coordinator": done.invitation.name,
            "address": done.invitation.address,
            "fingerprint": done.invitation.fingerprint,
            "request": str(done.request),
            "node_key": key,
            "warnings": list(done.warnings),
        }
        text = (
            f"{home}: joined {done.invitation.name!r}. Next:\n"
            f"  1. send {done.request} to its operator; there is no secret in it\n"
            f"  2. tell by another way, such as telephone, the node key {key}\n"
            f"  3. when it is approved: fedlite site doctor {home}, then fedlite site start {home}"
        )
        tell(value, text, as_json)


def _confirm(invitation: Invitation) -> bool:
    typer.echo(
        f"Coordinator  {invitation.name}\nAddress      {invitation.address}\n"
        f"Fingerprint  {invitation.fingerprint}",
        err=True,
    )
    asked = "Is this the fingerprint that its operator told you by another way?"
    return typer.confirm(asked, err=True)


@site_app.command("rotate-key")
def site_rotate_key(
    home: SiteFolder,
    finish: Annotated[
        bool, typer.Option("--finish", help="The coordinator has approved the new key: use it.")
    ] = False,
    coordinator: Coordinator = "",
    as_json: Json = False,
) -> None:
    """Change the node key: write a request that the old key signs, or finish the change."""
    with told(home):
        from clients.runtime import seats, setup
        from fedlite.identity import nodekey

        seat = seats.of(home, coordinator)
        if finish:
            key = nodekey.fingerprint(setup.finish_rotation(home, seat))
            tell({"home": str(home), "node_key": key}, f"{home}: uses node key {key}", as_json)
            return
        request = setup.rotate_key(home, seat)
        key = nodekey.fingerprint(nodekey.public(nodekey.load(seat / setup.NEXT)))
        text = (
            f"send {request} to the coordinator's operator, and tell by another way the new node "
            f"key {key}.\nWhen it is approved, a site that runs goes over to it by itself; for "
            f"one that does not: fedlite site rotate-key {home} --finish"
        )
        tell({"home": str(home), "request": str(request), "node_key": key}, text, as_json)


@site_app.command("doctor")
def site_doctor(home: SiteFolder, quiet: Quiet = False, as_json: Json = False) -> None:
    """Check everything that a site needs, with the mend for each. Exits with 1 if any fails.

    With --quiet a warning counts, too.
    """
    with told():
        from clients.runtime import doctor

        if quiet:
            wrong = [check for check in doctor.examine(home) if check.state != doctor.OK]
            tell_wrong((f"{c.state} {c.name}: {c.what} -> {c.mend}" for c in wrong), as_json)
            return
        checks = []
        for check in doctor.examine(home):
            checks.append(check)
            if not as_json:
                typer.echo(_line(check.state, check.name, check.what, check.mend))
        if as_json:
            print_json({"home": str(home), "checks": [vars(check) for check in checks]})
        if any(check.state == doctor.FAIL for check in checks):
            raise typer.Exit(FAILED)


def _line(state: str, name: str, what: str, mend: str) -> str:
    colour = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW}.get(state, typer.colors.RED)
    mended = f" -> {mend}" if mend else ""
    return f"{typer.style(f'{state:<7}', fg=colour)}  {name}: {what}{mended}"


@site_app.command("status")
def site_status(home: SiteFolder, quiet: Quiet = False, as_json: Json = False) -> None:
    """Show what the site is doing, what it has spent, and what waits for the operator."""
    with told(home):
        from clients.runtime import status
        from clients.runtime.attention import attention

        found = status.status(home)
        if quiet:
            tell_wrong(attention(home, found), as_json)
        elif as_json:
            print_json(found)
        else:
            status.print_status(home, found)


OwnerKey = Annotated[Path, typer.Option("--key", help="The data owner's private key, PEM.")]


@site_app.command("start")
def site_start(home: SiteFolder, coordinator: Coordinator = "") -> None:
    """Take part in the coordinators' runs, in the foreground, until it is told to stop.

    Only bundles that were approved run, each shut in; what is cut off is finished after a restart.
    """
    with told(home):
        import logging

        from clients.runtime import several
        from clients.runtime.fleet import Refused
        from clients.runtime.node import Runtime
        from clients.runtime.seats import every, of
        from fedlite.deployment.signals import signals

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        with signals() as stop:
            try:
                if not coordinator and len(every(home)) > 1:
                    several.serve(home, stop)
                else:
                    Runtime(home, of(home, coordinator)).serve(stop)
            except Refused as error:
                fail(str(error), FAILED)


@site_app.command("owner")
def site_owner(key: OwnerKey, as_json: Json = False) -> None:
    """Make the data owner's key, or read it, and print the public half for site.toml."""
    with told():
        from fedlite.guard import keeping as commands

        public = commands.owner_key(key)
        tell({"key": str(key), "owner": public}, f'owner = "{public}"', as_json)


@site_app.command("grant")
def site_grant(
    ledger: Annotated[Path, typer.Argument(help="The ledger whose ceiling is to be raised.")],
    key: OwnerKey,
    out: Annotated[Path, typer.Option(help="Where to write the grant.")] = Path("grant.json"),
    epsilon: Annotated[float | None, typer.Option(help="New ceiling of the data set.")] = None,
    person: Annotated[float | None, typer.Option(help="New ceiling of a person.")] = None,
    per_run: Annotated[float | None, typer.Option(help="New ceiling of one run.")] = None,
    honest: Annotated[
        int | None, typer.Option(help="How many others are trusted where noise is shared.")
    ] = None,
    alone: Annotated[
        float | None, typer.Option(help="New ceiling if all others collude with the server.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign, as the data owner, a higher ceiling for one ledger; the site then applies it."""
    with told():
        from fedlite.guard import keeping as commands

        if not ledger.is_file():
            raise ValueError(f"{ledger}: no such file; name one such as HOME/ledgers/DATASET.jsonl")
        wanted = {
            "epsilon": epsilon,
            "person": person,
            "per_run": per_run,
            "honest": honest,
            "alone": alone,
        }
        changes = {name: value for name, value in wanted.items() if value is not None}
        grant = commands.make_grant(ledger, key, changes, out)
        tell(grant, f"{out}: at the site, run: fedlite site raise HOME {out}", as_json)


@site_app.command("raise")
def site_raise(
    home: SiteFolder,
    grant: Annotated[Path, typer.Argument(help="The data owner's grant.")],
    as_json: Json = False,
) -> None:
    """Put a data owner's grant in force."""
    with told(home):
        from fedlite.guard import keeping as commands

        policy = commands.apply_grant(home, grant)
        tell(
            policy,
            f"epsilon {policy['epsilon']:g} at delta {policy['delta']:g} is in force",
            as_json,
        )


@site_app.command("adopt")
def site_adopt(
    home: SiteFolder,
    dataset: Annotated[str, typer.Argument(help="The data set: the NAME of its [data.NAME].")],
    key: Annotated[Path | None, typer.Option(help="The data owner's private key, PEM.")] = None,
    as_json: Json = False,
) -> None:
    """Say, as the data's owner, that this site may spend on records that another has spent on.

    Also where the site's own ledger is lost for good: what it had spent is then forgotten.
    """
    with told(home):
        from fedlite.guard import keeping as commands

        lost = commands.adopt(home, dataset, key)
        text = f"{dataset}: is {home}'s from here on, with a budget that begins anew"
        value = {"home": str(home), "dataset": dataset, "taken_from": lost}
        tell(value, text + "".join(f"; not {one}'s" for one in lost), as_json)


@site_app.command("rotate")
def site_rotate(home: SiteFolder, as_json: Json = False) -> None:
    """Replace the key that signs the site's ledgers; each of them records it."""
    with told(home):
        from fedlite.guard import keeping as commands

        public, ledgers = commands.rotate_key(home)
        tell(
            {"home": str(home), "key": public, "ledgers": ledgers},
            f"ledgers signed by {public} from here on: {ledgers}",
            as_json,
        )


@site_app.command("recover")
def site_recover(
    home: SiteFolder,
    dataset: Annotated[str, typer.Argument(help="The data set whose ledger refuses.")],
    drop_damaged_tail: Annotated[
        bool, typer.Option(help="Give up an end that was never flushed and does not verify.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify a ledger after its disk has failed, and write it anew, so that it works again."""
    with told(home):
        from fedlite.guard import keeping as commands

        rows = commands.recover_ledger(home, dataset, drop_damaged_tail=drop_damaged_tail)
        tell(
            {"home": str(home), "dataset": dataset, "rows": rows},
            f"{dataset}: {rows} rows verified and written anew",
            as_json,
        )
