"""What `--help` says: something about every argument and option, and the scenarios by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from fedlite.commands.main import app

ROOT = Path(__file__).resolve().parents[2]


def commands(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands(below, (*words, name))
    else:
        yield words, command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_argument_and_option_of_every_command_has_its_help_text(
    words: tuple[str, ...],
) -> None:
    """click 8.5 emptied that of every positional argument."""
    shown = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [*words, "--help"])
    assert shown.exit_code == 0
    page = " ".join(shown.output.replace("│", " ").split())
    for parameter in COMMANDS[words].params:
        text = getattr(parameter, "help", None)
        assert text, f"{' '.join(words)}: {parameter.name}"
        assert " ".join(text.split()[:6]) in page, parameter.name


@pytest.mark.parametrize(
    "words", [("simulate",), ("server", "submit"), ("server", "bundle"), ("audit", "mechanism")]
)
def test_the_help_of_a_scenario_names_all_of_them(words: tuple[str, ...]) -> None:
    (argument,) = [p for p in COMMANDS[words].params if p.name == "scenario"]
    text = getattr(argument, "help", None) or ""
    known = {path.stem for path in (ROOT / "simulations" / "scenarios").glob("*.toml")}
    assert {name.strip() for name in text.split("(")[1].split(")")[0].split(",")} == known
