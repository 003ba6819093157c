"""What every `fedlite` command shares: where the rooms are, what is printed, how it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlite.rooms import app_root

FAILED, WRONG_USE = 1, 2

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
