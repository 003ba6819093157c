"""`fedlite data`: which sources there are, how they are fetched, and how records are spread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlite.commands.output import SCENARIO_HELP, Json, print_json, tell, told

if TYPE_CHECKING:
    from fedlite.data import Base

data_app = typer.Typer(help="The data sources that scenarios can name.", no_args_is_help=True)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the data sources and base models, and whether they are on this machine."""
    with told():
        from fedlite import data
        from fedlite.data.bases import shelf, shelved

        rows = [
            {
                "name": entry.name,
                "what": entry.what,
                "records": entry.records,
                "licence": entry.licence,
                "bytes": entry.size,
                "how": entry.how,
                "available": entry.available(),
            }
            for entry in data.entries()
        ]
        rows += [
            {
                "name": base.name,
                "what": base.what,
                "records": 0,
                "licence": base.licence,
                "bytes": base.size,
                "how": base.how,
                "available": base.available(),
            }
            for base in (*data.BASES.values(), *filter(None, map(shelved, shelf())))
        ]
        if as_json:
            print_json({"sources": rows})
            return
        from rich.table import Table

        from fedlite.reporting import terminal

        listing = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("name", "records", "here", "what", "licence"):
            listing.add_column(column, justify="right" if column == "records" else "left")
        for row in rows:
            listing.add_row(
                str(row["name"]),
                f"{row['records']:,}" if row["records"] else "",
                "yes" if row["available"] else "no",
                str(row["what"]),
                str(row["licence"]),
            )
        terminal.console().print(listing)
        typer.echo("Get one with: fedlite data fetch NAME")


@data_app.command("fetch")
def data_fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="A name from `fedlite data list`, or ORG/NAME[@REVISION] of the Hugging Face hub."
        ),
    ],
    called: Annotated[
        str, typer.Option("--as", metavar="NAME", help="What a hub's model is called here.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Bring a data source or a base model into the cache and verify it."""
    with told():
        from fedlite import data
        from fedlite.data import shelf

        if shelf.is_hub(name):
            _tell_base(shelf.fetch(name, called), as_json)
            return
        if called:
            raise ValueError(f"--as: is for a model of the hub, got {name!r}; leave it out")
        path = data.fetch(name)
        tell({"name": name, "path": str(path)}, f"{name}: {path}", as_json)


@data_app.command("add")
def data_add(
    name: Annotated[str, typer.Argument(help="What it is called here and in scenarios.")],
    folder: Annotated[
        Path, typer.Argument(help="With config.json, model.safetensors and tokenizer.json.")
    ],
    as_json: Json = False,
) -> None:
    """Copy a base model of your own into the cache, so that scenarios and sites can name it."""
    with told():
        from fedlite.data import shelf

        _tell_base(shelf.put(name, folder), as_json)


def _tell_base(base: Base, as_json: bool) -> None:
    told = {"name": base.name, "path": str(base.folder()), "base_sha256": base.identity}
    text = f"{base.name}: {told['path']}\ndata.base_sha256 {base.identity}  {base.what}"
    tell(told | {"what": base.what, "licence": base.licence}, text, as_json)


@data_app.command("show")
def data_show(
    scenario: Annotated[str, typer.Argument(help=SCENARIO_HELP)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace one key; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Default: NAME-records.png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how a scenario spreads its records over sites and classes, and draw it.

    These are exact counts, of private records too: they are for whoever may see the records.
    """
    with told():
        from fedlite import plan
        from fedlite.data.overview import division
        from fedlite.reporting import spread, terminal, wording
        from fedlite.scenario import ScenarioError, load
        from simulations.run import scenario_path

        if out is not None and out.suffix.lower() != ".png":
            raise ScenarioError(f"--out: must name a .png file, got {str(out)!r}; call it so")
        chosen = load(scenario_path(scenario), settings or [])
        if chosen.data.at_sites:
            raise ScenarioError(
                "data.path: must be set to show records, got nothing; they are at the sites only"
            )
        _, source, sites = plan.simulated(chosen)
        made = division(source, sites)
        path = out or Path(f"{chosen.federation.name}-records.png")
        spread.draw(made, path)
        if as_json:
            print_json(made | {"picture": str(path), "notes": list(source.notes)})
            return
        console = terminal.console()
        listing = spread.table(made, console.width)
        if listing is not None:
            console.print(listing)
        for line in (*spread.lines(made), *source.notes):
            typer.echo(wording.plain(line))
        typer.echo(f"{path}: the same as a picture")
