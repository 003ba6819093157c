"""What a table gets when its scenario names little: a model and links that fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedlite import data
from fedlite.cli import app
from fedlite.config import from_dict
from fedlite.recommend import TABLES

pytestmark = pytest.mark.usefixtures("undrawn")


def own_table(folder: Path, columns: int) -> Path:
    """Write 400 records whose label is whether their columns' sum is above 0."""
    x = np.random.default_rng(3).normal(size=(400, columns)).round(4)
    names = ",".join(f"c{n}" for n in range(columns))
    rows = [",".join(map(str, row)) + f",{int(row.sum() > 0)}" for row in x]
    path = folder / "own.csv"
    path.write_text("\n".join([names + ",label", *rows]) + "\n")
    return path


def simulate(folder: Path, columns: int, *settings: str) -> tuple[Result, Path]:
    table, file, out = own_table(folder, columns), folder / "mine.toml", folder / "run"
    file.write_text(
        "[federation]\nrounds = 5\nsites = 2\n[training]\nlearning_rate = 1.0\n"
        f"[data]\nname = 'csv'\npath = '{table}'\ntarget = 'label'\n"
    )
    command = ["simulate", str(file), "--engine", "serial", "--out", str(out)]
    for setting in settings:
        command += ["--set", setting]
    return CliRunner().invoke(app, command), out


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_narrow_table_is_learnt_without_naming_a_model(tmp_path: Path, columns: int) -> None:
    """`cosine` was the default: AUC 0.53 with two columns, exactly 0.5 with one, exit 0."""
    result, out = simulate(tmp_path, columns)
    assert result.exit_code == 0, result.output
    assert "model: linear, as the scenario names none (the data is a table)" in result.output
    assert summary(out)["model"]["name"] == "linear"
    assert summary(out)["auc"]["deep"] > 0.98


@pytest.mark.parametrize("columns", [1, 2])
def test_cosine_is_refused_where_it_can_see_nothing(tmp_path: Path, columns: int) -> None:
    result, out = simulate(tmp_path, columns, "model.name=cosine")
    assert result.exit_code == 2
    assert "'cosine' needs at least 3 values" in result.output
    assert "take 'linear' or 'mlp'" in result.output
    assert not out.exists()
    assert simulate(tmp_path, 3, "model.name=cosine")[0].exit_code == 0


def test_which_sources_are_tables_is_what_their_records_are() -> None:
    for entry in data.entries():
        if entry.name != "csv" and data.available(entry.name):
            assert (len(data.load(entry.name).shape) == 1) == (entry.name in TABLES)


@pytest.mark.parametrize(
    ("shape", "name"), [("", "linear"), ("12", "linear"), ("3x4", "cosine"), ("1x3x4", "cosine")]
)
def test_a_csv_that_is_no_table_keeps_the_default_model(shape: str, name: str) -> None:
    table = {"name": "csv", "path": "a.csv", "target": "y", "shape": shape}
    assert from_dict({"data": table}).model.name == name
    named = from_dict({"data": table, "model": {"name": "mlp"}})
    assert named.model.name == "mlp" and not [n for n in named.notes if n.startswith("model")]
