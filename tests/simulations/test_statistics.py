"""Figures of a federation's tables: pandas's where noise is next to nothing, charged, asked once.

Covers fedlite/commands/stats.py, fedlite/reporting/columns.py, fedlite/secure/party.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fedlite.audit import audit
from fedlite.commands.main import app
from fedlite.privacy.ledger import read
from fedlite.protection import plan_mechanism
from fedlite.scenario import Scenario, ScenarioError, from_dict
from simulations.run import simulate
from simulations.statistics import Asked, statistics

RANGES = {"age": (0.0, 100.0), "dose": (0.0, 5.0)}
# Nothing is claimed for it: what rounding costs at such an epsilon would not be small.
LOUD = Asked(epsilon=60.0, bins=20, most_records=1000)

OPEN = {
    "privacy": {"unit": "record", "simulate_seed": 1, "expected_batch": 50},
    "training": {"steps": 1},
}


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    found = pd.DataFrame(
        {
            "site": rng.choice(["north", "south", "west"], 600),
            "age": rng.normal(55, 15, 600).round(1),
            "dose": rng.exponential(1.0, 600),
            "sex": rng.choice(["f", "m"], 600),
            "ill": rng.choice(["yes", "no"], 600),
        }
    )
    found.loc[rng.random(600) < 0.2, "dose"] = np.nan
    found.to_csv(tmp_path / "table.csv", index=False)
    return found


def scenario(folder: Path, **tables: dict[str, object]) -> Scenario:
    base: dict[str, dict[str, object]] = {
        "federation": {"sites": 3},
        "data": {
            "name": "csv",
            "path": str(folder / "table.csv"),
            "target": "ill",
            "labels": "yes, no",
            "columns": "age, dose, sex",
            "categories": "sex: f, m",
            "ranges": "age 0:100, dose 0:5",
            "partition": "natural",
            "test_fraction": 0.0,
        },
        "model": {"name": "linear"},
    }
    return from_dict({name: base.get(name, {}) | tables.get(name, {}) for name in {*base, *tables}})


def test_a_table_without_keys_is_told_what_it_lacks_before_a_record_is_read(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    """No row fits where text is read as numbers: to ask for more rows would be no mend."""
    table = {"name": "csv", "path": str(tmp_path / "table.csv"), "target": "ill"}
    bare = from_dict({"federation": {"sites": 3}, "data": table})
    with pytest.raises(ScenarioError, match=r"data\.ranges: must be set"):
        statistics(bare, LOUD, tmp_path / "sites")
    ranged = replace(bare, data=replace(bare.data, ranges="0:100"))
    with pytest.raises(ValueError, match=r"read as numbers.*: age, dose, sex; name columns of"):
        statistics(ranged, LOUD, tmp_path / "sites")


@pytest.mark.long
def test_with_next_to_no_noise_it_is_what_pandas_finds_in_the_pooled_table(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    found = statistics(scenario(tmp_path, **OPEN), LOUD, tmp_path / "sites")
    assert found.error < 1.0
    columns = {one.name: one for one in found.columns}
    assert set(columns) == {"age", "dose", "sex=f", "sex=m"}
    for name, (low, high) in RANGES.items():
        one, pooled = columns[name], frame[name].clip(low, high)
        for figure, true in (
            (one.records, len(frame)),
            (one.missing, pooled.isna().sum()),
            (one.present, pooled.notna().sum()),
            (one.share, pooled.isna().mean()),
            (one.mean, pooled.mean()),
        ):
            assert abs(figure.value - true) < 5 * figure.error + 1e-6
        counts = np.histogram(pooled.dropna(), 20, (low, high))[0]
        assert np.abs(one.histogram - counts).max() < 5 * found.error
        for q, (value, start, end) in one.quantiles.items():
            true = pooled.quantile(q, interpolation="lower")
            assert start <= value <= end
            assert start - (high - low) / 20 <= true <= end + (high - low) / 20
    assert columns["sex=f"].mean.value == pytest.approx((frame["sex"] == "f").mean(), abs=0.01)


@pytest.mark.long
def test_it_is_charged_once_and_the_same_is_not_asked_twice(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    homes = tmp_path / "homes"
    told = scenario(tmp_path, simulation={"sites": str(homes), "ceiling": 4.0})
    found = statistics(told, Asked(), tmp_path / "unused")
    assert not (tmp_path / "unused").exists()
    assert 0.98 < found.epsilon <= 1.0 < found.alone
    ledgers = sorted(homes.glob("*/ledgers/csv.jsonl"))
    assert len(ledgers) == 3
    rows = read(ledgers[0])
    plan = rows[0].body["plan"]
    assert [row.kind for row in rows] == ["genesis", "reserve", "settle", "release"]
    assert (plan["unit"], plan["steps"], plan["members"], plan["honest"]) == (
        "record-shared",
        1,
        3,
        2,
    )
    assert plan["epsilon_asked"] == 1.0
    checked = audit([homes])
    assert checked.clean
    assert all("1 release cost at most epsilon" in s.sentence for s in checked.statements)
    with pytest.raises(RuntimeError, match=r"north takes no part: round-twice"):
        statistics(told, Asked(), tmp_path / "unused")
    # Other bins are another question, with a plan of its own.
    statistics(told, Asked(bins=5), tmp_path / "unused")
    assert sum(row.kind in ("genesis", "plan") for row in read(ledgers[0])) == 2
    with pytest.raises(RuntimeError, match="takes no part: ceiling"):
        statistics(told, Asked(epsilon=3.9), tmp_path / "unused")


@pytest.mark.parametrize(
    "tables",
    [
        {"training": {"learning_rate": 0.3}},
        {"simulation": {"ceiling": 5.0}},
        {"federation": {"rounds": 7}},
        {"privacy": {"unit": "record", "expected_batch": 9}, "training": {"steps": 1}},
    ],
    ids=["another rate", "another ceiling", "more rounds", "private training"],
)
def test_a_question_stays_the_same_where_only_the_training_is_another(
    tmp_path: Path, frame: pd.DataFrame, tables: dict[str, dict[str, object]]
) -> None:
    """Another answer of it, with other noise, would halve the first one's noise."""
    kept: dict[str, object] = {"sites": str(tmp_path / "homes"), "ceiling": 4.0}
    statistics(scenario(tmp_path, simulation=kept), Asked(), tmp_path)
    ledgers = {path: path.read_bytes() for path in (tmp_path / "homes").glob("*/ledgers/*.jsonl")}
    assert len(ledgers) == 3
    again = scenario(tmp_path, **tables | {"simulation": kept | tables.get("simulation", {})})
    with pytest.raises(RuntimeError, match=r"north takes no part: round-twice"):
        statistics(again, Asked(), tmp_path)
    assert {path: path.read_bytes() for path in ledgers} == ledgers


def test_sites_that_share_noise_keep_their_quorum_for_figures(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    shared = {"unit": "record", "noise_at": "shared", "expected_batch": 20, "honest": 3}
    kept = scenario(
        tmp_path,
        privacy=shared,
        federation={"sites": 4, "quorum": 3},
        data={"partition": "iid"},
        training={"steps": 1},
    )
    found = statistics(kept, Asked(), tmp_path / "sites")
    assert (found.mechanism.sites, found.mechanism.least, found.mechanism.honest) == (4, 3, 3)
    assert (found.there, found.scenario, found.asked) == (4, kept.federation.name, Asked())


@pytest.mark.long
def test_what_trains_keeps_to_what_rounding_may_cost_also_where_nothing_is_claimed(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    """A question of which nothing is claimed does not; see `LOUD`."""
    privacy = {"unit": "record", "noise_at": "shared", "expected_batch": 20, "coordinates": 20}
    loud = scenario(
        tmp_path,
        privacy=privacy | {"simulate_seed": 1, "epsilon": 60.0},
        federation={"sites": 3, "quorum": 3},
        training={"steps": 1},
    )
    with pytest.raises(ValueError, match=r"^privacy\.delta: rounding at the sites must cost"):
        plan_mechanism(loud)


def test_a_site_that_does_not_allow_it_stops_all_before_anything_is_spent(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    told = scenario(tmp_path, simulation={"sites": str(tmp_path / "homes")})
    statistics(told, Asked(), tmp_path)
    policy = tmp_path / "homes" / "west" / "site.toml"
    policy.write_text(policy.read_text().replace('"record-shared"', '"record"'))
    before = {path: path.read_bytes() for path in (tmp_path / "homes").glob("*/ledgers/csv.jsonl")}
    with pytest.raises(RuntimeError, match=r"west takes no part: .*record-shared"):
        statistics(told, Asked(bins=4), tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_a_site_that_cannot_spend_it_stops_all_before_anything_is_spent(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    homes = tmp_path / "homes"
    told = scenario(tmp_path, simulation={"sites": str(homes), "ceiling": 2.0})
    statistics(told, Asked(epsilon=0.5), tmp_path)
    policy = homes / "west" / "site.toml"
    policy.write_text(re.sub(r"(?m)^epsilon = .*$", "epsilon = 0.6", policy.read_text()))
    before = {path: path.read_bytes() for path in homes.rglob("*") if path.is_file()}
    with pytest.raises(RuntimeError, match=r"west takes no part: ceiling"):
        statistics(told, Asked(epsilon=0.7), tmp_path)
    assert {path: path.read_bytes() for path in homes.rglob("*") if path.is_file()} == before


def test_the_same_table_in_another_format_has_the_same_ceiling(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    frame.to_json(tmp_path / "table.jsonl", orient="records", lines=True)
    kept = {"sites": str(tmp_path / "homes"), "ceiling": 1.0}
    statistics(scenario(tmp_path, simulation=kept), Asked(), tmp_path)
    other = {"name": "jsonl", "path": str(tmp_path / "table.jsonl")}
    with pytest.raises(RuntimeError, match=r"takes no part: ceiling"):
        statistics(scenario(tmp_path, simulation=kept, data=other), Asked(), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("privacy", [{}, {"unit": "record", "expected_batch": 20, "epsilon": 2.0}])
@pytest.mark.parametrize("first", ["figures", "training"])
def test_figures_and_training_share_homes_whichever_comes_first(
    tmp_path: Path, frame: pd.DataFrame, privacy: dict[str, object], first: str
) -> None:
    told = scenario(
        tmp_path,
        simulation={"sites": str(tmp_path / "homes"), "ceiling": 9.0},
        federation={"rounds": 1, "evaluate_every": 0},
        training={"steps": 1},
        privacy=privacy,
        data={"test_fraction": 0.2},
    )

    def train() -> None:
        simulate(told, tmp_path / "run", engine="serial", quiet=True)
        row = json.loads((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()[-1])
        assert row["accepted"] == 3, row

    def count() -> None:
        statistics(told, Asked(), tmp_path)

    for step in (count, train) if first == "figures" else (train, count):
        step()


def test_rows_that_do_not_fit_are_passed_over_without_a_word(
    tmp_path: Path, frame: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    odd = frame.astype({"age": object})
    odd.loc[5, "age"] = "secret-77"
    odd.to_csv(tmp_path / "table.csv", index=False)
    found = statistics(scenario(tmp_path, **OPEN), LOUD, tmp_path / "sites")
    records = found.columns[0].records
    assert abs(records.value - 599) < 5 * records.error
    assert caplog.text == ""


def test_repeatable_noise_claims_nothing_and_keeps_no_ledger(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    told = scenario(tmp_path, **OPEN)
    one, two = (statistics(told, Asked(), tmp_path / "sites") for _ in range(2))
    assert one.as_dict() == two.as_dict()
    assert one.as_dict()["epsilon"] is None and not one.claimed
    assert not (tmp_path / "sites").exists()


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"data": {"ranges": ""}}, r"data\.ranges: must be set, .*rule: bins are public"),
        ({"federation": {"sites": 2}}, r"federation\.sites: must be from 3 to 100"),
    ],
)
def test_what_no_sum_can_be_made_of_is_refused(
    tmp_path: Path, frame: pd.DataFrame, tables: dict[str, dict[str, object]], words: str
) -> None:
    with pytest.raises(ScenarioError, match=words):
        statistics(scenario(tmp_path, **tables), Asked(), tmp_path)


def test_what_is_no_table_is_refused_with_the_mend(tmp_path: Path) -> None:
    pictures = from_dict({"data": {"name": "digits"}})
    with pytest.raises(ScenarioError, match=r"data\.name: must be a table .*; take csv, parquet"):
        statistics(pictures, Asked(), tmp_path)
    with pytest.raises(ScenarioError, match=r"data\.name: must be a table .*; texts, pictures"):
        statistics(
            replace(pictures, data=replace(pictures.data, name="images", path="x")),
            Asked(),
            tmp_path,
        )


@pytest.mark.long
def test_more_than_the_modulus_has_room_for_is_refused(tmp_path: Path, frame: object) -> None:
    with pytest.raises(ScenarioError, match=r"--most-records: must be so few .* 32 bits"):
        statistics(scenario(tmp_path, **OPEN), replace(LOUD, most_records=10**9), tmp_path)
    with pytest.raises(ScenarioError, match=r"^--epsilon: .*rounding at the sites .* 10 or less"):
        statistics(scenario(tmp_path), Asked(epsilon=30.0), tmp_path)
    with pytest.raises(ScenarioError, match=r"^--epsilon: .*, got -1\.0$"):
        statistics(scenario(tmp_path), Asked(epsilon=-1.0), tmp_path)


@pytest.mark.long
def test_the_command_tells_figures_errors_and_what_they_cost(
    tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    turned = {"columns": "sex, dose, age"}
    (tmp_path / "own.toml").write_text(scenario(tmp_path, data=turned).to_toml())
    run = CliRunner().invoke(app, ["stats", "own.toml", "--out", "out", "--epsilon", "2"])
    assert run.exit_code == 0, run.output
    assert "costs every record epsilon 2.0" in " ".join(run.output.split())
    assert "dose" in run.output and "±" in run.output
    assert "another call begins new ones" in " ".join(run.output.split())
    saved = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert saved["columns"]["dose"]["missing"]["error"] > 0
    # As in the table, and as a run of the question writes them.
    assert list(saved["columns"]) == ["sex=f", "sex=m", "dose", "age"]
    assert len(list((tmp_path / "out" / "ledgers").glob("*.jsonl"))) == 3
    told = CliRunner().invoke(app, ["stats", "own.toml", "--out", "two", "--json"])
    assert json.loads(told.output)["columns"].keys() == saved["columns"].keys()
    wrong = CliRunner().invoke(app, ["stats", "own.toml", "--out", "three", "--epsilon", "0"])
    assert wrong.exit_code == 2 and "--epsilon" in wrong.output
    assert not (tmp_path / "three").exists()


def test_columns_of_dates_are_shown_as_dates(
    tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days since 1970 to three digits lose months; what is beyond the calendar stays a number."""
    monkeypatch.chdir(tmp_path)
    # The table is wider than a terminal that nobody has.
    monkeypatch.setenv("COLUMNS", "200")
    frame.assign(seen="2021-07-01", far="1970-02-01").to_csv("table.csv", index=False)
    columns = {
        "columns": "seen, far",
        "categories": "",
        "dates": "seen, far",
        "ranges": "seen 2020-01-01:2023-01-01, far 0:1e7",
    }
    (tmp_path / "own.toml").write_text(scenario(tmp_path, data=columns).to_toml())
    run = CliRunner().invoke(app, ["stats", "own.toml", "--out", "out", "--epsilon", "8"])
    assert run.exit_code == 0, run.output
    saved = json.loads((tmp_path / "out" / "statistics.json").read_text())["columns"]["seen"]
    days = [saved["mean"]["value"], *saved["mean"]["interval"], saved["quantiles"]["0.5"]["value"]]
    mean, low, high, median = (str(np.datetime64(round(day), "D")) for day in days)
    seen, far = (
        next(x for x in run.output.splitlines() if x.startswith(n)) for n in ("seen", "far")
    )
    assert f"{mean} ({low} to {high})" in seen and f" {median} " in seen
    assert seen.rstrip().endswith("2020-01-01 .. 2023-01-01")
    assert far.rstrip().endswith("1970-01-01 .. 1e+07")
