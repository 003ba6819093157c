"""`fedlite export`: a released model in the form that devices and others' tools load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedlite.commands.output import Grid, Json, Watts, left_out, print_json, told


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
    site: Annotated[
        str,
        typer.Option(metavar="NAME", help="Whose threshold, where sites have their own."),
    ] = "",
    scale_by: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Records of the place where the bundle is used, by whose mean and spread inputs "
            "are scaled, where sites of the run scaled by their own.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pem",
            help="The key that signs the bundle; made where there is none. Default: the run's own.",
        ),
    ] = None,
    calibrate_with: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Records of the place with what the model should answer, which it has not seen: "
            "they choose the threshold. Nothing is sent.",
        ),
    ] = None,
    router: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --calibrate-with: confidence, margin, entropy or complexity. Default: "
            "confidence.",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --calibrate-with: how much accuracy may be lost. Default: 0.01.",
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --calibrate-with: how sure that is to be. Default: 0.95.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="onnx; onnx-int8: 8-bit integers, smaller and faster; or executorch: programs for "
            "phones and small devices (experimental). Default: onnx; of a pretrained transformer "
            "adapters, and a bundle where one is named.",
        ),
    ] = "",
    max_loss: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --target onnx-int8: make the deep branch as small as loses no more of its "
            "accuracy, as 0.01, by records that calibrate.",
        ),
    ] = None,
    energy: Annotated[
        bool, typer.Option("--energy", help="Say on the card what energy answers take here.")
    ] = False,
    watts: Watts = None,
    grid: Grid = 0.0,
    as_json: Json = False,
) -> None:
    """Write a run's model as a signed bundle that answers easy inputs early, without PyTorch.

    Of a pretrained transformer without --target: its adapters and heads, as a folder that peft
    loads.
    """
    with told():
        from fedlite.evaluation import open_model
        from fedlite.inference import manifest
        from fedlite.models.pretrained import Classifier

        trained = open_model(run)
        wishes = {"router": router, "alpha": alpha, "confidence": confidence}
        given: dict[str, Any] = {k: v for k, v in wishes.items() if v is not None}
        # As text: a 0 that is given is given.
        asked = {name: str(value) for name, value in given.items()}
        if isinstance(trained.model, Classifier) and not target:
            from fedlite.inference.adapter_folder import write_adapters

            bundled = {"site": site, "scale_by": scale_by, "key": key}
            bundled["max_loss"] = "" if max_loss is None else str(max_loss)
            left_out(
                "a pretrained transformer without --target",
                calibrate_with=calibrate_with,
                energy=energy,
                watts=watts,
                grid=grid,
                **bundled,
                **asked,
            )
            files = write_adapters(trained, to, merged=merged)
        else:
            from fedlite.inference.release import write_bundle
            from fedlite.inference.rule import Own
            from fedlite.reporting.energy import WATTS_PER_CORE

            left_out("a bundle", merged=merged)
            if not energy:
                left_out("a bundle without --energy", grid=grid, watts=watts)
            if calibrate_with is None:
                left_out("a bundle without --calibrate-with", **asked)
            own = None if calibrate_with is None else Own(calibrate_with, **given)
            files = write_bundle(
                trained,
                to,
                site=site,
                scale_by=scale_by,
                key=key,
                own=own,
                target=target or "onnx",
                max_loss=max_loss,
                energy={"watts": watts or WATTS_PER_CORE, "grid": grid} if energy else None,
            )
        signer = manifest.signer(to)
    sizes = {str(path): path.stat().st_size for path in files}
    if as_json:
        told_files = [{"path": path, "bytes": size} for path, size in sizes.items()]
        print_json({"files": told_files, "signed_by": signer})
        return
    width = max(map(len, sizes))
    for path, size in sizes.items():
        typer.echo(f"{path:<{width}}  {size:,} bytes")
    if signer:
        typer.echo(f"signed by {signer}")
    typer.echo(f"How they are used is in {to / 'README.md'}")
