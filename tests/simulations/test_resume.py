"""A run goes on from anywhere, with the same scenario and the same records only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data.spread import spread
from fedlite.privacy.ledger import read
from fedlite.scenario import from_dict, load
from server import checkpoint
from simulations import run
from simulations.run import simulate
from tests.simulations.running import CSV, Killed, Outcome, Plan, Trap, cut


def test_a_changed_scenario_is_not_resumed(plan: Plan, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "scenario.toml").write_text(plan(federation={"seed": 9}).to_toml())
    with pytest.raises(RuntimeError, match=r"scenario.toml: differs"):
        simulate(plan(), directory, engine="serial", quiet=True)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("unit", ["none", "record", "client"])
@pytest.mark.parametrize("change", ["a label", "a test record", "a record more"])
def test_a_run_does_not_go_on_with_other_records(
    killed: Killed, trap: Trap, tmp_path: Path, unit: str, change: str
) -> None:
    table, directory = tmp_path / "own.csv", tmp_path / "run"
    table.write_text(CSV)
    scenario = from_dict(
        {
            "federation": {"rounds": 3, "sites": 2},
            "data": {
                "name": "csv",
                "path": str(table),
                "target": "label",
                "labels": "0,1",
                "partition": "natural",
                "scaling": "none",
                "test_fraction": 0.5,
            },
            "model": {"name": "mlp"},
            "training": {"steps": 1},
            "privacy": {"unit": unit} | ({"expected_batch": 5} if unit == "record" else {}),
        }
    )
    arm = trap(checkpoint, "save", 2, "before")
    assert killed(lambda: simulate(scenario, directory, engine="serial", quiet=True), arm)
    kept = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    _, sites = spread(scenario)
    part = sites[0].test if change == "a test record" else sites[0].train
    row = next(r for r in CSV.splitlines() if r.startswith(f"h0,{part.x[0, 0]:.3f},"))
    other = row + "\n" + row if change == "a record more" else row[:-1] + str(1 - int(row[-1]))
    table.write_text(cut(CSV, row, other))
    command = ["simulate", "--resume", str(directory), "--engine", "serial"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1, result.output
    assert "the records are not those that the run began with" in result.output
    assert "put them back" in result.output and "Traceback" not in result.output
    kept_now = {p: p.read_bytes() for p in kept}
    assert {p for p in kept if kept[p] != kept_now[p]} <= {directory / "failure.json"}
    table.write_text(CSV)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("private", [False, True])
def test_what_was_found_in_a_table_is_told_before_the_run(tmp_path: Path, private: bool) -> None:
    table = tmp_path / "own.csv"
    table.write_text(",a,b,y\n" + "".join(f"{n},{n % 7},{n % 5},{n % 2}\n" for n in range(60)))
    data = {"name": "csv", "path": str(table), "target": "y", "labels": "0,1"}
    tables = {
        "federation": {"sites": 2},
        "data": data | {"ranges": "a 0:6, b 0:3"},
        "training": {"steps": 1},
        "privacy": {"unit": "record", "expected_batch": 20} if private else {},
    }
    notes = [note for note in run.check(from_dict(tables)).notes if note.startswith("data: ")]
    assert notes == [
        "data: the first column has no name, as row numbers have none, and is left out",
        "data: column 'b': 12 of 60 values lie beyond its range 0:3 and are cut to it; "
        "widen it in data.ranges",
    ]


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("unit", ["none", "record"])
def test_a_run_goes_on_from_any_directory_and_with_records_that_have_moved(
    killed: Killed,
    trap: Trap,
    tmp_path: Path,
    unit: str,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All paths were relative to where the run began, so that only from there it could go on."""
    study, other = tmp_path / "study", tmp_path / "other"
    for folder in (study, other):
        folder.mkdir()
    (study / "own.csv").write_text(CSV)
    tables: dict[str, Any] = {
        "federation": {"rounds": 3, "sites": 2, "name": "moved"},
        "data": {
            "name": "csv",
            "path": "own.csv",
            "target": "label",
            "labels": "0,1",
            "partition": "natural",
            "scaling": "none",
            "test_fraction": 0.5,
        },
        "model": {"name": "mlp"},
        "training": {"steps": 1},
        "privacy": {"unit": unit},
    }
    if unit == "record":
        tables["privacy"]["expected_batch"] = 5
        tables["simulation"] = {"sites": "homes", "witness": "seen.jsonl"}
    (study / "s.toml").write_text(tomli_w.dumps(tables))
    monkeypatch.chdir(other)
    arm = trap(checkpoint, "save", 2, "before")
    scenario = load(Path("../study/s.toml"))
    assert killed(lambda: simulate(scenario, Path("run"), engine="serial", quiet=True), arm)
    kept = load(other / "run" / "scenario.toml")
    assert kept.data.path == str(study / "own.csv")

    monkeypatch.chdir(tmp_path)
    command = ["simulate", "--resume", "other/run", "--engine", "serial", "--json"]
    (study / "own.csv").rename(tmp_path / "elsewhere.csv")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "--set data.path=FILE" in result.output
    (tmp_path / "wrong.csv").write_text(CSV.replace("h0,0.000", "h0,0.001"))
    result = CliRunner().invoke(app, [*command, "--set", "data.path=wrong.csv"])
    assert result.exit_code == 1 and "records are not those" in result.output
    assert load(other / "run" / "scenario.toml").data.path == str(study / "own.csv")
    result = CliRunner().invoke(
        app, [*command, "--set", "data.path=elsewhere.csv", "--set", "data.target=a"]
    )
    assert result.exit_code == 2 and "a run goes on as it began" in result.output
    result = CliRunner().invoke(app, [*command, "--set", "data.path=elsewhere.csv"])
    assert result.exit_code == 0, result.output
    kept = load(other / "run" / "scenario.toml")
    assert kept.data.path == str(tmp_path / "elsewhere.csv")
    rows = outcome(other / "run")[1]
    assert [row["accepted"] for row in rows] == [2, 2, 2]
    if unit == "none":
        simulate(kept, tmp_path / "whole", engine="serial", quiet=True)
        assert outcome(other / "run") == outcome(tmp_path / "whole")
    else:
        assert sorted(path.name for path in (study / "homes").iterdir()) == ["h0", "h1"]
        assert (study / "seen.jsonl").stat().st_size and (study / "seen.pem").exists()
        for site in ("h0", "h1"):
            kinds = [row.kind for row in read(other / "run" / "ledgers" / f"{site}.jsonl")]
            assert kinds.count("release") == 3
    assert sorted(path.name for path in other.iterdir()) == ["run"]


@pytest.mark.long
def test_a_changed_file_of_own_code_is_not_resumed(
    killed: Killed, trap: Trap, plan: Plan, tmp_path: Path
) -> None:
    """It went on, with another model of as many parameters, and told nobody."""
    directory, file = tmp_path / "run", tmp_path / "mine.py"
    text = "from fedlite.models import tinyml\n\ndef make(shape, classes):\n"
    text += "    return tinyml.mlp(shape, classes)\n"
    file.write_text(text)
    scenario = plan(model={"name": f"{file}:make"})
    arm = trap(checkpoint, "save", 2, "before")
    assert killed(lambda: simulate(scenario, directory, engine="serial", quiet=True), arm)
    command = ["simulate", "--resume", str(directory), "--engine", "serial"]
    file.write_text(text + "# changed\n")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "files of own code are not those" in result.output
    file.write_text(text)
    assert CliRunner().invoke(app, command).exit_code == 0
