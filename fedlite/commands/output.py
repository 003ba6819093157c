"""What every `fedlite` command shares: where the rooms are, what is printed, how it fails."""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from fedlite.rooms import open_rooms
from fedlite.storage import is_full

FAILED, WRONG_USE = 1, 2


class _Argument(typer.core.TyperArgument):
    """A positional argument that keeps its help text.

    typer below 0.21, which Flower 1.41 needs, sets it before it calls click's own `Argument`; that
    of click 8.5 has a help text itself, and sets it to None.
    """

    def __init__(self, *, help: str | None = None, **attributes: Any) -> None:
        super().__init__(help=help, **attributes)
        self.help = help


typer.main.TyperArgument = _Argument  # type: ignore[attr-defined]

# A test holds the names against the folder; reading it here would slow every command.
SCENARIO_HELP = (
    "A scenario's name (quickstart, quickstart-distributed, quickstart-clients, heart, "
    "fashion-private, fashion-distributed, fashion, cross-device, sentiment-lora, "
    "sentiment-lora-private, smollm-smoke), or a path to a TOML file."
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
CoordinatorFolder = Annotated[
    Path,
    typer.Option(
        "--coordinator",
        envvar="FEDLITE_COORDINATOR_DIR",
        metavar="COORD",
        help="The coordinator's folder.",
    ),
]
HERE = Path("coordinator")


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", help="Print only what needs a person, and exit with 1 if anything does."
    ),
]
Watts = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=1000.0,
        metavar="W",
        help="What a busy core draws, where no counter can be read; 10 if not given.",
    ),
]
Grid = Annotated[
    float,
    typer.Option(
        min=0.0, max=5000.0, metavar="G", help="Grams of CO2 for a kWh; 0: CO2 is not told."
    ),
]
SiteFolder = Annotated[Path, typer.Argument(help="The site's folder.")]


@contextmanager
def told(site: Path | None = None) -> Iterator[None]:
    """Turn the errors that a person can mend into one message and an exit code.

    `WRONG_USE` where the call, or a file or setting that it names, has to be another one. `FAILED`
    where it may well be repeated as it is: a network, a disk, a ledger in use. `site` is the
    folder of a site, which has to be there.
    """
    open_rooms()
    try:
        if site is not None and not site.is_dir():
            raise ValueError(f"{site}: no such folder; make it with `fedlite site init {site}`")
        yield
    except typer.Exit:
        raise  # a RuntimeError to Python, and already told
    except ValueError as error:
        from fedlite.privacy.ledger.rules import LedgerBusy, LedgerPoisoned

        again = isinstance(error, LedgerBusy | LedgerPoisoned)
        fail(str(error), FAILED if again else WRONG_USE)
    except RuntimeError as error:
        fail(str(error), FAILED)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise  # as of `| head`: click ends the command without a word
        fail(explain(error), WRONG_USE if isinstance(error, _WRONG_PLACE) else FAILED)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def _nobody_reads() -> bool:
    """Whether what reads this command's output has gone, and not what else it talks to."""
    asked = select.poll()
    try:
        asked.register(sys.stdout.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # no file, or one that is closed
        return False
    return any(event & select.POLLERR for _, event in asked.poll(0))


@contextmanager
def begun() -> Iterator[None]:
    """Make whatever goes wrong a failure, as the call was right; but for a ScenarioError."""
    from fedlite.scenario import ScenarioError

    try:
        yield
    except ScenarioError:
        raise
    except ValueError as error:
        fail(str(error), FAILED)
    except OSError as error:
        fail(explain(error), FAILED)


_WRONG_PLACE = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


def explain(error: OSError) -> str:
    """Return what went wrong with a file, a disk or a network, in a line."""
    if error.strerror is None:
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    full = "make room; what was written before is whole"
    mend = full if is_full(error) else "check the path"
    return f"{where}{error.strerror.lower()}; {mend}"


def fail(text: str, code: int) -> None:
    """Say on standard error why the command ends, and end it with `code`."""
    from fedlite.reporting import wording

    # It may quote what others have written, such as a bundle's settings.
    lines = [wording.plain(line) for line in text.split("\n")]
    typer.echo("fedlite: " + "\n".join(lines), err=True)
    raise typer.Exit(code)


def tell_wrong(lines: Iterable[str], as_json: bool) -> None:
    """Print what needs a person, for cron: nothing and exit code 0, or each line and 1."""
    from fedlite.reporting import wording

    found = [wording.plain(line) for line in lines]
    if as_json:
        print_json({"wrong": found})
    else:
        for line in found:
            typer.echo(line)
    if found:
        raise typer.Exit(FAILED)


def tell(value: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result: one JSON object for scripts, one line for people."""
    if as_json:
        print_json(value)
    else:
        typer.echo(text)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object and nothing else."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True))


def left_out(of: str, **options: object) -> None:
    """Raise ValueError for an option that is given and does nothing."""
    for name, value in options.items():
        if value:
            raise ValueError(
                f"--{name.replace('_', '-')}: must be left out for {of}, got {value}; leave it out"
            )


def print_folded(text: str, width: int, first: str = "", rest: str = "> ") -> None:
    """Print a line of somebody else's in pieces that no screen shows wider, the marks not counted.

    first, rest: what stands before the first piece and before those below it, so that none of them
    begins at the left edge as a line of this program's own would.
    """
    mark = first
    for piece in _folded(text, width):
        typer.echo(f"{mark}{piece}")
        mark = rest


def _folded(line: str, width: int) -> Iterator[str]:
    """Yield a line in pieces that no screen shows wider; a letter beyond ASCII may take two."""
    piece, taken = "", 0
    for one in line:
        wide = 1 if one.isascii() else 2
        if taken + wide > width:
            yield piece
            piece, taken = "", 0
        piece, taken = piece + one, taken + wide
    yield piece


def user() -> str:
    """Return who runs the command, for the journal."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
