"""`fedlite new` and `fedlite schema`, as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from fedlite.commands.main import app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_project_is_written_and_told(tmp_path: Path) -> None:
    done = call("new", tmp_path / "mine", "--template", "images")
    assert done.exit_code == 0 and "fedlite simulate scenario.toml" in done.output
    told = json.loads(call("new", tmp_path / "other", "--json").stdout)
    assert str(tmp_path / "other" / "people.csv") in told["files"]
    again = call("new", tmp_path / "mine")
    assert again.exit_code == 2 and "nothing is overwritten" in again.output


def test_the_schema_is_printed_or_written(tmp_path: Path) -> None:
    printed = call("schema")
    assert "federation" in json.loads(printed.stdout)["properties"]
    assert call("schema", "--out", tmp_path / "s.json").exit_code == 0
    assert (tmp_path / "s.json").read_text() == printed.stdout
