"""`fedlite export`: a released model in the form that others' tools load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlite.commands.output import Json, print_json, told


def add_to(app: typer.Typer) -> None:
    """Add the command to `fedlite`."""
    app.command()(export)


def export(
    run: Annotated[
        Path,
        typer.Argument(
            help="The directory of a finished run, or a folder of `fedlite site model`."
        ),
    ],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder for the files.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Write the base with the adapters added to it, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a run's adapters as a folder that peft loads, with the heads and a model card."""
    with told():
        from fedlite.evaluation import open_model
        from fedlite.inference.adapter_folder import write_adapters

        files = write_adapters(open_model(run), to, merged=merged)
    sizes = {str(path): path.stat().st_size for path in files}
    if as_json:
        print_json({"files": [{"path": path, "bytes": size} for path, size in sizes.items()]})
        return
    width = max(map(len, sizes))
    for path, size in sizes.items():
        typer.echo(f"{path:<{width}}  {size:,} bytes")
    typer.echo(f"How they are used is in {to / 'README.md'}")
