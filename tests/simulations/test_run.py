"""A run: the same on every engine, told in true bytes, and never over another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data.spread import spread
from fedlite.scenario import from_dict
from simulations.run import simulate
from tests.simulations.running import CSV, Outcome, Plan

Wire = dict[str, dict[Any, Any]]


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("private", [False, True])
def test_a_pool_of_workers_equals_one_process_bit_for_bit(
    plan: Plan, tmp_path: Path, wire: Wire, outcome: Outcome, private: bool
) -> None:
    found = []
    for engine in ("serial", "pool"):
        for part in wire.values():
            part.clear()
        simulate(plan(private), tmp_path / engine, engine=engine, quiet=True)
        found.append((outcome(tmp_path / engine), dict(wire["hashes"])))
    assert len(found[0][1]) == 9
    assert found[0] == found[1]
    assert json.loads((tmp_path / "pool" / "summary.json").read_text())["engine"] == "pool"


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_private_noise_is_new_in_every_run_unless_it_is_only_simulated(
    plan: Plan, tmp_path: Path, wire: Wire, outcome: Outcome
) -> None:
    def payloads(name: str, seed: int) -> dict[Any, str]:
        wire["hashes"].clear()
        simulate(plan(True, seed), tmp_path / name, engine="serial", quiet=True)
        return dict(wire["hashes"])

    real, again = payloads("a", -1), payloads("b", -1)
    assert real.keys() == again.keys()
    assert not set(real.values()) & set(again.values())
    assert payloads("c", 4) == payloads("d", 4)
    assert outcome(tmp_path / "c") == outcome(tmp_path / "d")
    summaries = {n: json.loads((tmp_path / n / "summary.json").read_text()) for n in "abcd"}
    assert [summaries[n]["privacy"]["claimed"] for n in "abcd"] == [True, True, False, False]
    for site in summaries["a"]["privacy"]["sites"].values():
        assert 0.99 < site["epsilon"]["pld"] <= 1.0 and site["accountants_agree"]
    rows = outcome(tmp_path / "a")[1]
    assert rows[0]["epsilon"] < rows[1]["epsilon"] < rows[2]["epsilon"] <= 1.0
    assert all(row["epsilon"] is None for row in outcome(tmp_path / "c")[1])


@pytest.mark.usefixtures("undrawn")
def test_bytes_in_the_record_are_the_bytes_on_the_grid(
    plan: Plan, tmp_path: Path, wire: Wire, outcome: Outcome
) -> None:
    small = plan(federation={"sites": 3, "participation": 0.6, "rounds": 5})
    simulate(small, tmp_path / "run", engine="serial", quiet=True)
    rows = outcome(tmp_path / "run")[1]
    assert {r["round"]: r["bytes_up"] for r in rows} == wire["up"]
    assert {r["round"]: r["bytes_down"] for r in rows} == wire["down"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["bytes"]["up"] == sum(wire["up"].values())
    assert summary["bytes"]["down"] == sum(wire["down"].values())
    dense = sum(r["dense_up"] for r in rows)
    assert dense == 4 * summary["parameters"] * len(wire["hashes"])


# What is wrong is told before anything runs ------------------------------------------------------


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_is_not_resumed_and_no_run_is_overwritten(
    plan: Plan, tmp_path: Path
) -> None:
    file, directory = tmp_path / "small.toml", tmp_path / "run"
    file.write_text(plan(federation={"rounds": 1}).to_toml())
    runner = CliRunner()
    arguments = ["simulate", str(file), "--engine", "serial", "--json"]
    assert runner.invoke(app, [*arguments, "--out", str(directory)]).exit_code == 0
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    result = runner.invoke(app, ["simulate", "--resume", str(directory)])
    assert result.exit_code == 2 and "the run has finished" in result.output
    result = runner.invoke(app, [*arguments, "--out", str(directory)])
    assert result.exit_code == 2 and "already exists" in result.output
    # It used to advise --resume, which the line above refuses.
    assert "--resume" not in result.output
    (directory / "summary.json").rename(directory / "kept")
    result = runner.invoke(app, [*arguments, "--out", str(directory)])
    assert result.exit_code == 2 and f"--resume {directory}" in result.output
    (directory / "kept").rename(directory / "summary.json")
    result = runner.invoke(app, ["simulate", "--resume", str(directory), "--rounds", "9"])
    assert result.exit_code == 2 and "a run goes on as it began" in result.output
    result = runner.invoke(app, ["simulate", "--resume", str(tmp_path / "nothing")])
    assert result.exit_code == 2 and "no scenario.toml there" in result.output
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == before


def test_a_run_in_which_nothing_was_accepted_presents_no_model(plan: Plan, tmp_path: Path) -> None:
    """It ended with exit code 0, a table, a report and the initial model."""
    file, directory = tmp_path / "small.toml", tmp_path / "run"
    diverging = {"steps": 1, "learning_rate": 1e30}
    file.write_text(plan(federation={"rounds": 2}, training=diverging).to_toml())
    arguments = ["simulate", str(file), "--engine", "serial", "--out", str(directory)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.output.count("fedlite: ") == 1 and "Traceback" not in result.output
    assert "no update was ever accepted" in result.output and "site-01 data" in result.output
    assert "Next:" not in result.output
    for name in ("model.safetensors", "model.json", "summary.json", "report.html"):
        assert not (directory / name).exists()
    assert CliRunner().invoke(app, ["report", str(directory)]).exit_code != 0


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("unit", ["none", "record"])
def test_no_file_that_is_shown_to_others_confirms_a_guess_of_the_table(
    tmp_path: Path, unit: str
) -> None:
    """summary.json used to have the path and the SHA-256 of the file."""
    table, directory = tmp_path / "secret-clinic.csv", tmp_path / "run"
    table.write_text(CSV)
    data = {"name": "csv", "path": str(table), "target": "label", "partition": "natural"}
    private = {"unit": unit} | ({"expected_batch": 5} if unit == "record" else {})
    scenario = from_dict(
        {
            "federation": {"rounds": 1, "sites": 2},
            "data": data | {"labels": "0,1", "scaling": "none", "test_fraction": 0.5},
            "model": {"name": "mlp"},
            "training": {"steps": 1},
            "privacy": private,
        }
    )
    simulate(scenario, directory, engine="serial", quiet=True)
    source, sites = spread(scenario)
    parts = [source.train, *(part for site in sites for part in (site.train, site.test))]
    digests = [hashlib.sha256(table.read_bytes()).digest(), source.digest()]
    digests += [part.digest() for part in parts]
    shown = [
        p
        for p in directory.rglob("*")
        if p.is_file() and "checkpoint" not in p.relative_to(directory).parts
    ]
    assert {"summary.json", "rounds.jsonl", "scenario.toml"} <= {p.name for p in shown}
    for path in shown:
        content = path.read_bytes()
        for digest in digests:
            assert digest not in content and digest.hex()[:12].encode() not in content, path
        # The scenario says what was asked for, as a resumed run needs it.
        assert b"secret-clinic" not in content or path.name == "scenario.toml", path
