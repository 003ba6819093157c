"""What is wrong is told before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data import catalog
from fedlite.scenario import ScenarioError, from_dict, with_values
from simulations import run
from simulations.run import simulate
from tests.simulations.running import CSV, Plan, cut


@pytest.mark.long
@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        (None, [], ["path", "readable CSV file", "missing.csv", "correct the path"]),
        ("", [], ["line 1", "header", "another file"]),
        ("\x00\xff", [], ["UTF-8"]),
        (cut(CSV, "0.143", "nan"), [], ["line 3", "'a'", "finite number", "nan", "correct"]),
        (cut(CSV, "0.143", "high"), [], ["line 3", "'a'", "finite number", "high", "correct"]),
        (cut(CSV, "0.143", "inf"), [], ["line 3", "'a'", "finite number", "inf", "correct"]),
        (cut(CSV, "h0,0.000,0.0,0\n", "h0,0.000\n"), [], ["line 2", "4 cells", "2", "commas"]),
        (CSV.replace(",1\n", ",0\n"), [], ["classes", "0"]),
        (CSV, ["federation.sites=3"], ["sites", "2 groups", "3", "set sites = 2"]),
        (CSV, ["data.target=outcome"], ["outcome", "target", "header"]),
        (CSV, ["data.shape=3x9"], ["shape", "2 feature columns", "27", "correct it"]),
        (CSV, ["data.test_fraction=0.0"], ["data.test_fraction", "greater than 0", "0.0", "0.2"]),
        (
            "site,a,b,label\nh0,1,2,0\nh0,1,3,1\nh1,1,2,0\nh1,1,3,1\n",
            ["data.test_fraction=0.1", "federation.seed=4"],
            ["data.test_fraction", "of 4 records none is held out", "larger", "federation.seed"],
        ),
        (CSV, ["model.name=cnn"], ["cnn", "images", "2"]),
        (CSV, ["model.name=resnet"], ["resnet", "must be one of", "mlp"]),
        (CSV, ["uplink.compressor=zip"], ["uplink", "compressor", "topk", "zip"]),
        (CSV, ["downlink.values=int3"], ["downlink", "values", "sign", "int3"]),
        (CSV, ["federation.strategy=best"], ["federation.strategy", "fedavg", "best"]),
        (CSV, ["federation.quorum=3"], ["federation.quorum", "at most", "3", "lower it"]),
        (CSV, ["uplink.density=2"], ["uplink.density", "from 0.0 to 1.0", "2", "0.0"]),
        (CSV, ["privacy.epsilon=-1"], ["privacy.epsilon", "greater than 0", "-1", "3.0"]),
        (
            CSV,
            [
                "privacy.unit=record",
                "training.steps=1",
                "data.scaling=none",
                "data.labels=0,1",
                "privacy.delta=0.1",
                "privacy.expected_batch=10",
            ],
            ["privacy.delta", "less than 1 / records", "0.1", "use 1e-5"],
        ),
        (
            CSV,
            [
                "privacy.unit=record",
                "training.steps=1",
                "data.scaling=none",
                "data.labels=0,1",
                "privacy.expected_batch=9",
                "privacy.sampling_rate=0.5",
                "privacy.max_batch=17",
                "privacy.max_records=17",
            ],
            ["privacy.max_records", "at least", "expected_batch / sampling_rate = 18", "got 17"],
        ),
        (CSV, ["training.device=cuda"], ["training.device", "auto or cpu", "GPU", "got 'cuda'"]),
        (CSV, ["trainig.steps=1"], ["trainig", "did you mean training?"]),
    ],
)
def test_a_bad_input_is_one_message_before_any_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    settings: list[str],
    expected: list[str],
) -> None:
    table = tmp_path / ("missing.csv" if content is None else "table.csv")
    if content is not None:
        table.write_bytes(content.encode("latin-1"))
    file, directory = tmp_path / "mine.toml", tmp_path / "run"
    file.write_text(
        "[federation]\nsites = 2\nrounds = 1\n[model]\nname = 'mlp'\n"
        f"[data]\nname = 'csv'\npath = '{table}'\ntarget = 'label'\npartition = 'natural'\n"
    )

    def trained(*arguments: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(run, "_run_here", trained)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["simulate", str(file), "--out", str(directory), "--engine", "serial"]
    for setting in settings:
        command += ["--set", setting]
    result = CliRunner().invoke(app, command)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    assert result.output.startswith("fedlite: ")
    assert result.output.strip().count("\n") == 0
    for part in expected:
        assert part in result.output
    assert not directory.exists()


def test_scenarios_are_found_by_name_or_path() -> None:
    assert run.scenario_path("quickstart").is_file()
    assert run.scenario_path("mine.toml") == Path("mine.toml")
    with pytest.raises(ScenarioError, match=r"scenario: must be one of .*quickstart.* got 'quick'"):
        run.scenario_path("quick")


def test_an_engine_is_chosen_by_the_work(plan: Plan) -> None:
    assert run.choose_engine("pool", plan()) == "pool"
    assert run.choose_engine("auto", plan()) == "serial"
    with pytest.raises(ScenarioError, match=r"--engine: must be one of .* got 'gpu'"):
        run.check_engine("gpu")


AT_SITES = {
    "federation": {"sites": 2, "rounds": 1},
    "data": {"name": "csv", "shape": "3", "labels": "no,yes", "scaling": "none"},
    "model": {"name": "mlp"},
    "training": {"steps": 1},
}


def test_a_simulation_needs_the_records_and_a_deployment_does_not(tmp_path: Path) -> None:
    scenario = from_dict(AT_SITES)
    with pytest.raises(ScenarioError, match=r"data\.path: must be set in a simulation.*set data"):
        simulate(scenario, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    settled = run.check(scenario, deployed=True)
    # Whether the coordinator has a GPU is not what its sites have.
    assert run.check(with_values(scenario, "training", device="cuda"), deployed=True)
    # Nothing but the links, which it leaves open, depends on how large the model is.
    assert replace(settled, uplink=scenario.uplink, downlink=scenario.downlink) == scenario
    assert settled.uplink.compressor == settled.downlink.compressor == "dense"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"model": {"name": "cnn"}}, "cnn"),
        ({"model": {"name": "none-such"}}, "none-such"),
        ({"federation": {"strategy": "none-such"}}, "none-such"),
        ({"uplink": {"compressor": "none-such"}}, r"uplink\."),
        (
            {"privacy": {"unit": "record", "expected_batch": 5, "epsilon": 1e-6, "delta": 1e-9}},
            r"privacy\.epsilon: ",
        ),
    ],
)
def test_everything_else_is_checked_for_a_deployment_too(
    tables: dict[str, Any], message: str
) -> None:
    scenario = from_dict(AT_SITES | tables)
    with pytest.raises(ValueError, match=message):
        run.check(scenario, deployed=True)


def test_a_private_division_into_too_small_sites_is_refused_by_its_public_size(
    plan: Plan, tmp_path: Path
) -> None:
    many = plan(True, federation={"sites": 150})
    with pytest.raises(ScenarioError, match=r"site-001: must expect at least 10 records.*got 9\.6"):
        simulate(many, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    assert run.check(plan(federation={"sites": 60}))


def test_records_of_ones_own_from_a_package_keep_the_rules_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They may not decide their own classes, under whatever name a package offers them."""
    mine = replace(catalog.find("csv"), name="mine")
    monkeypatch.setitem(catalog._ENTRIES, "mine", mine)
    table = {"name": "mine", "path": "records.csv", "target": "ill"}
    scenario = from_dict({"data": table, "privacy": {"unit": "client"}})
    with pytest.raises(ScenarioError, match=r"data\.labels: must be set when privacy\.unit"):
        run.check(scenario)
