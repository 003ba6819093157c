"""What a simulation says before it starts, and what of it enters the record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.scenario import Scenario, from_dict
from server.app import Task, run_scenario
from simulations.run import simulate


@pytest.mark.usefixtures("undrawn")
def test_the_first_lines_say_what_was_read(
    plan: Callable[..., Scenario], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(plan(), tmp_path / "run", engine="serial")
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "data: digits, 1,437 records of 1 x 8 x 8 values"
    assert others[0] == "test set: 360 records more, held by no site"
    assert others[1].startswith("classes: ")
    assert others[1].endswith("always answering 3 would be right for 10.2 %")
    assert others[2].startswith("sites: site-01 ") and others[2].count(" held out") == 3
    assert others[-2].startswith("round 3/3")
    simulate(plan(), tmp_path / "quiet", engine="serial", quiet=True)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("undrawn")
def test_spellings_of_one_answer_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = ("yes", "NO", "Yes", "no")
    rows = [f"{n % 7},{n % 5},{answers[n % 4]}" for n in range(80)]
    (tmp_path / "t.csv").write_text("a,b,label\n" + "\n".join(rows) + "\n")
    table = {"name": "csv", "path": str(tmp_path / "t.csv"), "target": "label"}
    scenario = from_dict({"federation": {"rounds": 1, "sites": 2}, "data": table})
    simulate(scenario, tmp_path / "run", engine="serial")
    told = capsys.readouterr().err
    assert "beware: The labels 'NO' and 'no' differ in case only and are 2 classes." in told
    assert "The labels 'Yes' and 'yes' differ in case only and are 2 classes." in told
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert len(summary["data"]["read"]["warnings"]) == 2


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("claimed", [False, True])
def test_exact_counts_are_in_no_record_that_claims_privacy(
    plan: Callable[..., Scenario], tmp_path: Path, claimed: bool
) -> None:
    simulate(plan(claimed, -1), tmp_path / "run", engine="serial", quiet=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["privacy"].get("claimed", False) == claimed
    assert ("read" in summary["data"]) != claimed
    assert summary["accuracy"]["of"] == "global test set"
    assert summary["accuracy"]["records"] == 360
    assert summary["settings"]["uplink.density"] == 0.05


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("epochs", "told"), [(1, 1), (20, 0)])
def test_one_step_a_round_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], epochs: int, told: int
) -> None:
    rows = [f"{n % 7},{n % 5},{('no', 'yes')[n % 7 > n % 5]}" for n in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    data = {"name": "csv", "path": str(tmp_path / "t.csv"), "target": "y"}
    tables = {
        "federation": {"rounds": 1, "sites": 2},
        "data": data,
        "training": {"epochs": epochs},
    }
    simulate(from_dict(tables), tmp_path / "run", engine="serial")
    assert capsys.readouterr().err.count("training: one step a round") == told


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("private", [False, True])
def test_columns_from_which_nothing_can_be_learnt_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], private: bool
) -> None:
    """Of private records it is not told: one record more and the column is another."""
    rows = [f",7,{n % 7},{n % 5},{('no', 'yes')[n % 2]}" for n in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["none,one,a,b,y", *rows]) + "\n")
    data = {"name": "csv", "path": str(tmp_path / "t.csv"), "target": "y"}
    tables: dict[str, Any] = {"federation": {"rounds": 1, "sites": 2}, "data": data}
    if private:
        data |= {"labels": "no, yes", "ranges": "0:10"}
        tables["privacy"] = {"unit": "record", "expected_batch": 8, "simulate_seed": 1}
        tables["training"] = {"steps": 1}
    simulate(from_dict(tables), tmp_path / "run", engine="serial")
    told = [one for one in capsys.readouterr().err.splitlines() if one.startswith("columns: ")]
    assert told == [] if private else len(told) == 1
    for words in [] if private else ["empty in all", "'none'; of one value", "'one'; no model"]:
        assert words in told[0]


@pytest.mark.usefixtures("undrawn")
def test_a_simulation_says_that_it_has_no_members(
    plan: Callable[..., Scenario], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = plan(federation={"members": "@cardio"})
    simulate(scenario, tmp_path / "run", engine="serial")
    sites = scenario.federation.sites
    note = f"federation.members: ignored in a simulation, {sites} sites take part"
    assert note in capsys.readouterr().err.splitlines()
    assert 'members = ""' in (tmp_path / "run" / "scenario.toml").read_text()
    grid: Any = None
    with pytest.raises(ValueError, match="must be empty without a coordinator"):
        run_scenario(grid, scenario, Task(tmp_path / "other", b"run-0001", "ray"))
    assert not (tmp_path / "other").exists()
