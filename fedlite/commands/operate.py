"""`fedlite operate`: who may ask a server of bundles, how it goes, and what only a person does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlite.commands.output import Json, print_json, told

operate_app = typer.Typer(
    help="Say who may ask a server of bundles, see how it goes, and reset or withdraw.",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(metavar="FILE.toml", help="What --tokens of a server names.")]
Name = Annotated[str, typer.Argument(help="Who: letters, digits, '_', '-' and '.'.")]
Address = Annotated[str, typer.Argument(metavar="HOST:PORT", help="Of the server.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A file that holds the token. Default: the variable FEDLITE_TOKEN."
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(metavar="FILE.pem", help="Who has signed its certificate; without: no TLS."),
]
Why = Annotated[str, typer.Option(help="For the journal.")]


@operate_app.command()
def token(
    file: File,
    name: Name,
    role: Annotated[str, typer.Option(help="client, operator or auditor.")] = "client",
    days: Annotated[int, typer.Option(help="Until it expires.")] = 90,
    again: Annotated[
        bool, typer.Option("--again", help="Another token for a name that has one.")
    ] = False,
) -> None:
    """Add a name to a file, and print its token, which is kept nowhere."""
    with told():
        from fedlite.inference.serving.tokens import add

        typer.echo(add(file, name, role, days, again=again))


@operate_app.command()
def tokens(file: File, as_json: Json = False) -> None:
    """List the names in a file, their roles, and until when."""
    with told():
        from fedlite.inference.serving.tokens import read

        found = read(file)
        if as_json:
            rows = {name: {"role": one.role, "expires": one.expires} for name, one in found.items()}
            print_json({"tokens": rows})
            return
        for name, one in sorted(found.items()):
            over = "  over" if one.expired else ""
            typer.echo(f"{name:<24} {one.role:<9} until {one.expires}{over}")


@operate_app.command()
def revoke(file: File, name: Name) -> None:
    """Take a name out of a file; its token is refused from the next call on."""
    with told():
        from fedlite.inference.serving.tokens import revoke as take_out

        take_out(file, name)
        typer.echo(f"{name} has no token any more")


@operate_app.command()
def status(address: Address, token_file: TokenFile = None, tls_ca: Ca = None) -> None:
    """Print how a server goes, as one JSON object: versions, watches, queue, codes."""
    _say("Status", address, token_file, tls_ca)


@operate_app.command()
def reset(address: Address, why: Why, token_file: TokenFile = None, tls_ca: Ca = None) -> None:
    """Let inputs leave early again after an alarm; the watch begins anew."""
    _say("Reset", address, token_file, tls_ca, why=why)


@operate_app.command()
def withdraw(address: Address, why: Why, token_file: TokenFile = None, tls_ca: Ca = None) -> None:
    """End a candidate's part."""
    _say("Withdraw", address, token_file, tls_ca, why=why)


@operate_app.command()
def log(
    address: Address,
    last: Annotated[int, typer.Option(help="How many lines, at most 1000.")] = 100,
    token_file: TokenFile = None,
    tls_ca: Ca = None,
) -> None:
    """Print the last lines of a server's log of requests, the oldest first."""
    with told():
        if not 1 <= last <= 1000:
            raise ValueError(f"--last: must be from 1 to 1000, got {last}")
        for line in _ask("Log", address, token_file, tls_ca, last=last).lines:
            typer.echo(line)


def _say(method: str, address: str, file: Path | None, ca: Path | None, **fields: Any) -> None:
    with told():
        print_json(json.loads(_ask(method, address, file, ca, **fields).json))


def _ask(method: str, address: str, file: Path | None, ca: Path | None, **fields: Any) -> Any:
    from fedlite.inference.serving.calling import call

    secret = os.environ.get("FEDLITE_TOKEN", "") if file is None else file.read_text("utf-8")
    return call(address, method, token=secret.strip(), ca=ca, **fields)
