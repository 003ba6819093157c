"""A scenario made ready for real sites, and the question whether its own code may run here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import typer

from fedlite.commands.output import FAILED, WRONG_USE, fail

if TYPE_CHECKING:
    from fedlite.scenario import Scenario


def settled(
    name: str, settings: list[str] | None, rounds: int | None, run_own: bool, *, quiet: bool
) -> tuple[Scenario, dict[str, bytes]]:
    """Return a scenario that is settled: sites and server compute the same plan from it.

    And the user's own files that it names, by their names in a bundle; he has let them run here.
    """
    from fedlite import data
    from fedlite.deployment import own
    from fedlite.scenario import ScenarioError, load
    from simulations.run import check, scenario_path

    overrides = list(settings or [])
    if rounds is not None:
        overrides.append(f"federation.rounds={rounds}")
    path = scenario_path(name)
    chosen, files = own.pack(load(path, overrides), path.parent)
    if files and not run_own:
        _ask_to_run(files, quiet)
    data.fetch_missing(chosen.data, quiet=quiet)
    try:
        # What was shown is what is run, and what is sent.
        with _unpacked(files):
            found = check(chosen, deployed=True)
    except ValueError as error:
        raise ScenarioError(str(error)) from error
    if not quiet:
        for note in found.notes:
            typer.echo(note, err=True)
    return found, files


def _ask_to_run(files: Mapping[str, bytes], quiet: bool) -> None:
    """Let the user say that these files may run on this machine, or end the command."""
    lines = [f"{sha256(data).hexdigest()}  {name}" for name, data in files.items()]
    told = "\n".join(lines)
    if quiet or not _can_ask():
        fail(
            f"the scenario names code of its own, which runs here and at the sites:\n{told}\n"
            "nobody can be asked; read it, and add --run-own-code",
            WRONG_USE,
        )
    typer.echo(f"The scenario names code of its own, which runs here and at the sites:\n{told}")
    if not typer.confirm("Run it on this machine, with all that you may do?", default=False):
        fail("not submitted: you said no", FAILED)


def _can_ask() -> bool:
    return sys.stdin.isatty()


@contextmanager
def _unpacked(files: Mapping[str, bytes]) -> Iterator[None]:
    """Let names of the bundle's own files mean these, in this process, meanwhile."""
    from fedlite.registry import begin_at

    with TemporaryDirectory(prefix="fedlite-own-") as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        before = begin_at(Path(folder))
        try:
            yield
        finally:
            begin_at(before)
