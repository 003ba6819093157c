"""What every `fedlite` command shares: where the rooms are, what is printed, how it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from fedlite.rooms import app_root

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
    "A scenario's name (quickstart, heart, fashion-private, fashion), or a path to a TOML file."
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


@contextmanager
def told() -> Iterator[None]:
    """Turn the errors that a person can mend into one message and an exit code."""
    root = str(app_root())
    if root not in sys.path:
        sys.path.insert(0, root)
    from fedlite.scenario import ScenarioError

    try:
        yield
    except typer.Exit:
        raise  # a RuntimeError to Python, and already told
    except ScenarioError as error:
        fail(str(error), WRONG_USE)
    except (ValueError, ConnectionError, RuntimeError) as error:
        fail(str(error), FAILED)
    except OSError as error:
        fail(_disk(error), FAILED)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def _disk(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror.lower()}; what was written before is whole"


def fail(text: str, code: int) -> None:
    """Say on standard error why the command ends, and end it with `code`."""
    typer.echo(f"fedlite: {text}", err=True)
    raise typer.Exit(code)


def tell(value: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result: one JSON object for scripts, one line for people."""
    if as_json:
        print_json(value)
    else:
        typer.echo(text)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object and nothing else."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True))
