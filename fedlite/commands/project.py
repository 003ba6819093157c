"""`fedlite new` and `fedlite schema`: what a project of one's own starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlite.commands.output import Json, print_json, told


def add_to(app: typer.Typer) -> None:
    """Add the commands to `fedlite`."""
    app.command("new")(new)
    app.command("schema")(schema)


def new(
    directory: Annotated[Path, typer.Argument(help="A folder that is not there yet, or empty.")],
    template: Annotated[str, typer.Option(help="table or images.")] = "table",
    as_json: Json = False,
) -> None:
    """Write a small project: a model, data, a scenario and a test, which run as they are."""
    with told():
        from fedlite.project import write

        files = [str(path) for path in write(directory, template)]
        if as_json:
            print_json({"directory": str(directory), "template": template, "files": files})
            return
        for name in files:
            typer.echo(name)
        typer.echo(f"\nNext: cd {directory}, then fedlite simulate scenario.toml, then pytest")


def schema(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there instead of printing it.")
    ] = None,
) -> None:
    """Print the JSON Schema of a scenario, for editors of TOML files."""
    with told():
        from fedlite.project import schema_text
        from fedlite.storage import write_atomic

        text = schema_text()
        if out is None:
            typer.echo(text, nl=False)
        else:
            write_atomic(out, text.encode())
            typer.echo(f"{out}")
