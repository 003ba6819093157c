"""`fedlite serve`: a bundle that answers over the network, and a candidate beside it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from fedlite.commands.output import told

Seconds = Annotated[float, typer.Option(metavar="SECONDS")]


def add_to(app: typer.Typer) -> None:
    """Add the command to `fedlite`."""
    app.command()(serve)


def serve(
    bundle: Annotated[Path, typer.Argument(help="A folder that `fedlite export` has written.")],
    host: Annotated[str, typer.Option(metavar="IP", help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8001,
    http: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Answer JSON over HTTP there, too; 0: any free port."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="The certificate, and its chain.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Its key, without a password.")
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Who may ask for what; see `fedlite operate`."),
    ] = None,
    anywhere: Annotated[
        bool,
        typer.Option(
            "--anywhere",
            help="Listen for others without TLS or tokens, where something before it has both.",
        ),
    ] = False,
    signed_by: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="The public key that must have signed the bundles."),
    ] = None,
    name: Annotated[str, typer.Option(help="The model's. Default: its scenario's.")] = "",
    batch_rows: Annotated[int, typer.Option(help="Rows that are computed together.")] = 256,
    request_rows: Annotated[int, typer.Option(help="Rows of a request, at most.")] = 4096,
    queue_rows: Annotated[int, typer.Option(help="Rows that wait, at most.")] = 16_384,
    wait_ms: Annotated[
        float, typer.Option(help="How long a request waits for others to go with it.")
    ] = 2.0,
    rate: Annotated[
        float, typer.Option(help="Calls a second for each name in --tokens; 0: any number.")
    ] = 0.0,
    cache: Annotated[
        int, typer.Option(help="Requests whose answers are kept, should they come again.")
    ] = 0,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where requests and events are written down."),
    ] = None,
    metrics: Annotated[
        str, typer.Option(metavar="IP:PORT", help="Figures for Prometheus, on this machine.")
    ] = "",
    drain: Annotated[
        float, typer.Option(help="Seconds that calls have left when it is stopped.")
    ] = 10.0,
    watch: Annotated[
        float,
        typer.Option(help="The share of inputs of which it is looked whether they left rightly."),
    ] = 0.01,
    drift: Annotated[
        float | None,
        typer.Option(help="The share that may be answered otherwise. Default: the bundle's alpha."),
    ] = None,
    candidate: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="A bundle to be tried beside it.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of requests that the candidate answers.")] = 0.0,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="The candidate answers all, and nobody hears it.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(help="The share of inputs that the candidate may answer otherwise."),
    ] = None,
) -> None:
    """Answer requests of the Open Inference Protocol (KServe, Triton) over gRPC, and HTTP.

    Ends in order on SIGTERM and SIGINT, with exit code 0.
    """
    with told():
        from fedlite.inference.bundle import load

        try:
            from fedlite.inference.serving.batcher import Limits
            from fedlite.inference.serving.doors import Door
            from fedlite.inference.serving.server import Options, serve as run
            from fedlite.inference.serving.versions import Mix
        except ImportError as error:
            raise ValueError(
                f"{error.name}: must be installed for a server, and is not; "
                "pip install 'fedlite[serve]'"
            ) from None
        if candidate is None and (share or shadow or tolerance is not None):
            raise ValueError(
                "--candidate: must be given with --share, --shadow and --tolerance; name a bundle"
            )
        if candidate is not None and not (share or shadow):
            raise ValueError(
                "--share: must be above 0 with --candidate, or --shadow given; else it does nothing"
            )
        options = Options(
            door=Door(host, port, tls_cert, tls_key, tokens, anywhere),
            limits=Limits(batch_rows, request_rows, queue_rows, wait_ms / 1000),
            mix=Mix(share=share, shadow=shadow, tolerance=tolerance, watch=watch),
            name=name,
            rate=rate,
            cache=cache,
            keep=keep,
            metrics=metrics,
            http=http,
            drain=drain,
            drift=drift,
        )
        logging.basicConfig(format="fedlite: %(message)s", level=logging.WARNING)
        first = load(bundle, signed_by=signed_by)
        second = None if candidate is None else load(candidate, signed_by=signed_by)
        for one in filter(None, (first, second)):
            if one.of_programs:
                raise ValueError(
                    f"{one.directory}: must be of ONNX graphs to be served (rule: programs answer "
                    "one record after the other), is of ExecuTorch's; export the run without "
                    "--target executorch"
                )
        run(first, second, options, _tell)


def _tell(line: str) -> None:
    from fedlite.reporting import wording

    typer.echo(wording.plain(line))
