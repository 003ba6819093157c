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
from fedlite.commands.main import app
from fedlite.scenario import from_dict, load, with_values
from fedlite.scenario.links import TABLES, for_size
from simulations.run import check, scenario_path

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


def test_a_run_that_diverged_is_not_sent_to_go_on_as_it_is(tmp_path: Path) -> None:
    """`--resume` takes no other learning rate, so that it could only diverge again."""
    result, out = simulate(tmp_path, 3, "training.learning_rate=1e9")
    assert result.exit_code == 1
    assert "3 rounds in a row had fewer (last: site-01 data, site-02 data)" in result.output
    last = result.output.strip().splitlines()[-1]
    assert "see the sites' messages, and begin anew in another directory" in last
    assert "resume" not in last and str(out) not in last


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({"partition": "natural"}, "training.logit_adjustment"),
        ({"partition": "dirichlet", "alpha": 0.01}, ", or a larger data.alpha"),
        ({"partition": "shards", "shards": 1}, ", or larger data.shards"),
    ],
)
def test_sites_of_one_class_are_mended_by_what_their_division_reads(
    tmp_path: Path, settings: dict[str, Any], mend: str
) -> None:
    table = tmp_path / "own.csv"
    rows = [f"{n},{n % 2},{'ab'[n % 2]}" for n in range(200)]
    table.write_text("\n".join(["x,label,site", *rows]) + "\n")
    read = {"name": "csv", "path": str(table), "target": "label", **settings}
    scenario = check(from_dict({"federation": {"sites": 2}, "data": read}))
    (told,) = (note for note in scenario.notes if "of one class only" in note)
    assert told.endswith(mend)
    assert ("alpha" in told, "shards" in told) == ("alpha" in mend, "shards" in mend)


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
        assert entry.table == (entry.name in TABLES)
        # A text is no row of columns, whatever it is read with.
        if not entry.own and "texts" not in entry.takes and data.available(entry.name):
            assert (len(data.load(entry.name).shape) == 1) == entry.table


@pytest.mark.parametrize(
    ("shape", "name"), [("", "linear"), ("12", "linear"), ("3x4", "cosine"), ("1x3x4", "cosine")]
)
def test_a_csv_that_is_no_table_keeps_the_default_model(shape: str, name: str) -> None:
    table = {"name": "csv", "path": "a.csv", "target": "y", "shape": shape}
    assert from_dict({"data": table}).model.name == name
    named = from_dict({"data": table, "model": {"name": "mlp"}})
    assert named.model.name == "mlp" and not [n for n in named.notes if n.startswith("model")]


def links(out: Path) -> list[str]:
    scenario = load(out / "scenario.toml")
    return [scenario.uplink.compressor, scenario.downlink.compressor]


def test_a_small_model_is_sent_dense_both_ways_and_that_is_said(tmp_path: Path) -> None:
    """52 parameters got `rotated-topk` at 10 %, whose losses no few kB are worth."""
    result, out = simulate(tmp_path, 16)
    assert summary(out)["parameters"] == 52
    assert links(out) == ["dense", "dense"]
    for link in ("uplink", "downlink"):
        said = f"{link}: dense, as the scenario names none (all 52 parameters are 208 bytes)"
        assert said in result.output
    assert "rotated-topk" not in result.output
    # Nothing is left out: sent are the float32 and the headers.
    assert summary(out)["bytes"]["up"] > summary(out)["bytes"]["dense_up"]


def test_a_small_model_keeps_the_link_that_its_scenario_names(tmp_path: Path) -> None:
    result, out = simulate(tmp_path, 16, "uplink.density=0.5")
    assert links(out) == ["topk", "dense"]
    assert "uplink:" not in result.output and "downlink: dense" in result.output


@pytest.mark.parametrize(("parameters", "small"), [(1, True), (4095, True), (4096, False)])
@pytest.mark.parametrize("noise_at", ["", "site", "server"])
def test_the_size_decides_and_every_other_key_of_a_link_is_kept(
    parameters: int, small: bool, noise_at: str
) -> None:
    privacy = {"unit": "client", "noise_at": noise_at} if noise_at else {}
    scenario = from_dict({"uplink": {"aggregate_feedback": 0.4}, "privacy": privacy})
    settled = for_size(scenario, parameters)
    assert [note.split(":")[0] for note in settled.notes] == ["uplink", "downlink"]
    if not small:
        assert settled == scenario and settled.notes == scenario.notes
        return
    assert (settled.uplink.compressor, settled.downlink.compressor) == ("dense", "dense")
    assert settled.uplink.aggregate_feedback == 0.4
    # It breaks no rule, and says the same at both ends.
    assert from_dict(settled.to_dict()) == settled
    assert for_size(from_dict(settled.to_dict()), parameters) == settled


def test_a_link_is_open_until_somebody_names_its_compressor() -> None:
    scenario = with_values(from_dict({}), "training", steps=3)
    assert scenario.open_links == ("uplink", "downlink") and len(scenario.notes) == 2
    named = with_values(scenario, "uplink", density=0.2)
    assert named.open_links == ("downlink",) and len(named.notes) == 1
    assert for_size(named, 9).uplink == named.uplink


@pytest.mark.parametrize(
    "name",
    [
        "quickstart",
        "quickstart-distributed",
        "quickstart-clients",
        "heart",
        "fashion",
        "fashion-private",
        "fashion-distributed",
    ],
)
def test_the_named_scenarios_keep_their_own_links(name: str) -> None:
    assert load(scenario_path(name)).open_links == ()
