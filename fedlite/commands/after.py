"""`fedlite predict` and `fedlite evaluate`: a run's model used and judged where it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlite.commands.output import Grid, Json, Watts, left_out, print_json, told

if TYPE_CHECKING:
    from fedlite.reporting.markup import Table

# What goes before the answers in JSON, a row an answer, and what there is to say of them.
Answered = tuple[dict[str, Any], list[dict[str, Any]], list[str]]

# Records that a terminal shows; the file has all.
_SHOWN = 10
_FILE = (
    "A CSV, .parquet or .jsonl file, a .npz of arrays, a folder of pictures, or one that "
    "save_to_disk has written."
)

Run = Annotated[
    Path,
    typer.Argument(help="The directory of a finished run, or a folder of `fedlite site model`."),
]
Branch = Annotated[
    str, typer.Option(metavar="NAME", help="deep or shallow. Default: the deepest there is.")
]
ScaleBy = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Records of the same place, by whose mean and spread features are scaled, where sites "
        "of the run scaled by their own. Default: by the file's own.",
    ),
]


TextColumn = Annotated[
    str,
    typer.Option(metavar="COLUMN", help="The column of the texts, where its name is another."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `fedlite`."""
    app.command()(predict)
    app.command()(evaluate)


def predict(
    run: Run,
    file: Annotated[Path, typer.Argument(help=_FILE)],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write all answers there.")
    ] = None,
    branch: Branch = "",
    text: TextColumn = "",
    scale_by: ScaleBy = None,
    signed_by: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="Of a bundle: the public key that must have signed it."),
    ] = None,
    energy: Annotated[
        bool, typer.Option("--energy", help="Say what energy the answers took.")
    ] = False,
    watts: Watts = None,
    grid: Grid = 0.0,
    as_json: Json = False,
) -> None:
    """Let a run's model, or a bundle, answer the records of a file, which needs no labels.

    Nothing is sent.
    """
    with told():
        from fedlite.inference.bundle import is_bundle
        from fedlite.reporting import energy as joules, wording
        from fedlite.storage import write_rows

        if out is not None and out.resolve() == file.resolve():
            raise ValueError(f"--out: must not be the file that is read, got {out}; name another")
        if not energy:
            left_out("an answer without --energy", grid=grid, watts=watts)
        meter, started = joules.EnergyMeter.started(), time.process_time()
        if is_bundle(run):
            head, rows, notes = _of_bundle(
                run, file, signed_by, text, branch=branch, scale_by=scale_by
            )
        else:
            left_out("a run", signed_by=signed_by)
            head, rows, notes = _of_run(run, file, branch, text, scale_by)
        if energy:
            found = meter.since(time.process_time() - started, watts or joules.WATTS_PER_CORE, grid)
            head |= {"energy": found}
            what = "starting, reading the file and the model included"
            notes.append(f"{len(rows):,} answers took {joules.told(found)}; {what}")
        if out is not None:
            write_rows(out, rows)
        if as_json:
            print_json(head | {"rows": rows, "notes": notes, "out": str(out) if out else None})
            return
        for note in notes:
            typer.echo(wording.plain(note), err=True)
        _show(rows[:_SHOWN])
        if out is not None:
            typer.echo(f"{out}  {len(rows):,} answers")
        elif len(rows) > _SHOWN:
            typer.echo(f"the first {_SHOWN} of {len(rows):,}; --out FILE.csv writes all")


def _of_run(run: Path, file: Path, branch: str, text: str, scale_by: Path | None) -> Answered:
    from fedlite import evaluation

    trained = evaluation.open_model(run)
    records = evaluation.read(trained, file, answered=False, text=text, scale_by=scale_by)
    found = evaluation.predict(trained, records, branch)
    head = {"branch": found.branch, "labels": list(found.names)}
    return head, found.rows(), list(records.notes)


def _of_bundle(
    folder: Path, file: Path, signed_by: str | None, text: str, **not_here: object
) -> Answered:
    from fedlite.inference.bundle import load
    from fedlite.inference.inputs import read_inputs

    left_out("a bundle, which decides and scales by itself", **not_here)
    bundle = load(folder, signed_by=signed_by)
    found = bundle.predict(read_inputs(bundle.told, file, text), missing=True)
    early = int(found.early.sum())
    notes = [f"{early:,} of {len(found):,} are answered early. {bundle.promise}"]
    if signed_by is None:
        notes.append(
            f"signed by {bundle.signed_by}; --signed-by HEX holds it against the key that you know"
        )
    return {"labels": list(found.names)}, found.rows(), notes


def evaluate(
    run: Run,
    file: Annotated[
        Path | None,
        typer.Argument(
            help=f"{_FILE} With what the model should answer. Default: the records that the run "
            "held out, where they are on this machine."
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Compare the groups of this column; repeatable."),
    ] = None,
    corrupt: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="all, or of a table noise, missing, shift, swap; of images noise, blur, contrast, "
            "brightness, rotation.",
        ),
    ] = "",
    target: Annotated[
        str, typer.Option(metavar="COLUMN", help="The label column, where its name is another.")
    ] = "",
    text: TextColumn = "",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the page goes. Default: RUN/evaluation."),
    ] = None,
    branch: Branch = "",
    scale_by: ScaleBy = None,
    as_json: Json = False,
) -> None:
    """Judge a run's model on answered records: by class, site, group, confidence and corruption.

    Writes evaluation.html, evaluation.json and figures. Nothing is sent.
    """
    with told():
        from fedlite import evaluation
        from fedlite.evaluation import corruptions, page

        trained = evaluation.open_model(run)
        spoilt = corruptions.chosen(
            corrupt, tuple(trained.model.shape), texts=trained.texts is not None
        )
        if file is not None:
            records = evaluation.read(
                trained, file, columns=group or (), target=target, text=text, scale_by=scale_by
            )
        else:
            records = evaluation.held_out(trained, group or ())
        found = evaluation.evaluate(
            trained, records, branch=branch, group=group or (), corrupt=spoilt
        )
        written = page.write(found, out or run / "evaluation")
        if as_json:
            print_json(found.told | {"written": written})
            return
        _tell(found.told, written)


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from fedlite.reporting import terminal, wording

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0]:
        table.add_column(
            wording.plain(name), justify="left" if name in ("site", "label", "branch") else "right"
        )
    for row in rows:
        shown = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*map(wording.plain, shown))
    terminal.print_whole(table)


def _tell(told: dict[str, Any], written: dict[str, Any]) -> None:
    from fedlite.evaluation import page
    from fedlite.reporting import wording

    for note in told["notes"]:
        typer.echo(wording.plain(note), err=True)
    typer.echo(wording.plain(page.verdict(told)))
    tables = [page.scores(told), page.classes(told)]
    tables += [page.gaps(rows) for rows in told.get("groups", {}).values() if rows]
    if told.get("corruptions"):
        tables.append(page.corrupted(told))
    for table in tables:
        if table is not None:
            typer.echo("")
            _print(table)
    typer.echo(f"\n{written['page']}        the page, for a browser")
    typer.echo(f"{written['json']}        every figure")


def _print(of: Table) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedlite.reporting import terminal, wording

    table = Table(box=None, header_style="bold", pad_edge=False)
    for at, name in enumerate(of.head):
        table.add_column(Text(wording.plain(name)), justify="left" if at == 0 else "right")
    for row in of.rows:
        table.add_row(*(Text(wording.plain(cell)) for cell in row))
    terminal.print_whole(table)
