"""Questions for figures at sites: the run that asks them, what it may be, and what comes out.

Covers fedlite/questions.py, fedlite/scenario/question.py, fedlite/scenario/figure_rules.py,
clients/runtime/figures.py, fedlite/audit/figures.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clients.runtime.planned import plan_facts
from fedlite.audit import audit
from fedlite.guard.guardian import Decline
from fedlite.privacy import SharedMechanism
from fedlite.privacy.ledger import read
from fedlite.privacy.shared.tables import Question
from fedlite.protection import plan_mechanism, question_run
from fedlite.questions import (
    Asked,
    as_run,
    check_columns,
    columns_in,
    columns_said,
    question_of,
    table_of,
)
from fedlite.scenario import Scenario, ScenarioError, from_dict, with_values
from fedlite.scenario.question import columns_of, text_of
from server.app import Task, run_scenario
from simulations.engines import Serial
from simulations.grid import SimulationGrid
from simulations.node import Node
from tests.clients.runtime.hospitals import Hospitals, Site
from tests.simulations.test_statistics import RANGES, frame, scenario  # noqa: F401 - a fixture

ASKED = Asked(epsilon=8.0, bins=20, most_records=1000)


def question(folder: Path, asked: Asked = ASKED, **tables: dict[str, object]) -> Scenario:
    given = scenario(folder, **tables)
    return as_run(given, asked, columns_in(table_of(given), "csv"))


def play(directory: Path, asks: Scenario) -> dict[str, Any]:
    run, sites = int(question_run(asks), 16) >> 1, asks.federation.sites
    node = Node(run, sites, asks.to_run_config(), directory / "checkpoint" / "sites")
    grid = SimulationGrid(run, sites, Serial(node))
    run_scenario(grid, asks, Task(directory, run.to_bytes(8, "little"), "serial", quiet=True))
    found: dict[str, Any] = json.loads((directory / "statistics.json").read_text())
    return found


@pytest.mark.long
def test_a_question_by_real_messages_finds_what_pandas_finds(
    tmp_path: Path,
    frame: pd.DataFrame,  # noqa: F811
) -> None:
    asks = question(tmp_path)
    found = play(tmp_path / "run", asks)
    error = found["error_of_counts"]
    assert 0 < error < 6 and found["summed"] == found["sites"] == 3
    assert list(found["columns"]) == ["age", "dose", "sex=f", "sex=m"]
    for name, (low, high) in RANGES.items():
        one, pooled = found["columns"][name], frame[name].clip(low, high)
        for figure, true in (
            ("records", len(frame)),
            ("missing", pooled.isna().sum()),
            ("present", pooled.notna().sum()),
            ("share", pooled.isna().mean()),
            ("mean", pooled.mean()),
        ):
            assert abs(one[figure]["value"] - true) < 5 * one[figure]["error"] + 1e-6, figure
        counts = np.histogram(pooled.dropna(), 20, (low, high))[0]
        assert np.abs(np.array(one["histogram"]) - counts).max() < 5 * error
    # Charged as one sum, by what the columns alone say; and the record is whole.
    ledger = next(tmp_path.glob("run/checkpoint/sites/homes/north/ledgers/*.jsonl"))
    rows = read(ledger)
    assert [row.kind for row in rows] == ["genesis", "reserve", "settle", "release"]
    plan = rows[0].body["plan"]
    assert (plan["unit"], plan["steps"], plan["coordinates"]) == ("record-shared", 1, 4 * 22)
    assert plan["clip"] == pytest.approx(8**0.5) and plan["epsilon_asked"] == 8.0
    ledgers = tmp_path.glob("run/checkpoint/sites/homes/*/ledgers")
    checked = audit([tmp_path / "run", *ledgers])
    assert checked.clean, [issue.text for issue in checked.findings]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["statistics"] == found and summary["accuracy"] == {"by_site": {}}
    sources = [tmp_path / "run", *tmp_path.glob("run/checkpoint/sites/homes/*/ledgers")]
    wider = found["columns"] | {"age": found["columns"]["age"] | {"range": [0.0, 1e9]}}
    for forged, rule, words in (
        ({"epsilon": 1.0}, "summary-understates", "statistics.epsilon 1.0, and it is"),
        ({"alone": 2.0}, "summary-understates", "statistics.alone 2.0"),
        ({"columns": {}}, "summary-mismatch", "figures of other columns than its question"),
        ({"columns": wider}, "summary-mismatch", "figures by other ranges than its question"),
    ):
        changed = {**summary, "statistics": {**found, **forged}}
        (tmp_path / "run" / "summary.json").write_text(json.dumps(changed))
        issues = [one for one in audit(sources).findings if one.rule == rule]
        assert any(words in one.text for one in issues), (forged, issues)
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    path = tmp_path / "run" / "scenario.toml"
    settled = path.read_text()
    for before, after, words in (
        ("most_records = 1000", f"most_records = {10**400}", "bound on records that no question"),
        ("most_records = 1000", f"most_records = {10**308}", "bound on records that no question"),
        ("bins = 20", "bins = 19", "in 19 bins"),
        ("bins = 20", "bins = 0", "figures of tables, and its scenario asks for none"),
    ):
        assert settled.count(before) == 1
        path.write_text(settled.replace(before, after))
        issues = [one for one in audit(sources).findings if one.rule == "summary-mismatch"]
        assert any(words in one.text for one in issues), (after, issues)


def test_a_run_of_a_question_has_one_name_and_every_other_question_another(
    tmp_path: Path,
    frame: pd.DataFrame,  # noqa: F811
) -> None:
    asks = question(tmp_path)
    name = question_run(asks)
    others = [
        question(tmp_path, replace(ASKED, bins=19)),
        question(tmp_path, replace(ASKED, epsilon=7.0)),
        question(tmp_path, replace(ASKED, most_records=999)),
        question(tmp_path, data={"ranges": "age 0:101, dose 0:5"}),
        with_values(asks, "federation", seed=2),
    ]
    assert len({name, *map(question_run, others)}) == 1 + len(others)
    # What no bundle holds changes nothing.
    assert question_run(with_values(asks, "simulation", ceiling=3.0)) == name
    assert question_run(with_values(asks, "federation", members="north, south, west")) == name
    assert question_run(from_dict(asks.to_dict())) == name
    # Nor does what no figure depends on, or is written otherwise.
    for same in (
        {"federation": {"name": "another", "deadline_seconds": 7.0}},
        {"data": {"ranges": "age 0:100.0,  dose 0:5"}},
        {"data": {"path": str(tmp_path / "copy.csv"), "labels": "no, yes", "scaling": "none"}},
    ):
        changed = asks
        for table, values in same.items():
            changed = with_values(changed, table, **values)
        assert question_run(changed) == name, same


def test_a_site_answers_a_question_in_its_one_run_only(tmp_path: Path) -> None:
    four = Hospitals(tmp_path)
    given = with_values(four.plan, "privacy", members="", coordinates=0)
    asks = as_run(given, Asked(bins=4), {"age": (0.0, 100.0)})
    asks = with_values(asks, "privacy", members=four.plan.privacy.members)
    home = four.sites["hungary"].home
    for run in (b"\0" * 8, b"otherrun"):
        with pytest.raises(Decline, match=r"^asked-again: a question is asked in one run"):
            Site.of(home, asks, run)
    site = Site.of(home, asks, bytes.fromhex(question_run(asks)))
    assert site.masking.sums.shared == plan_mechanism(asks)
    assert site.rows == []


def test_what_is_charged_follows_from_the_columns_that_are_approved(
    tmp_path: Path,
    frame: pd.DataFrame,  # noqa: F811
) -> None:
    asks = question(tmp_path)
    mechanism = plan_mechanism(asks)
    assert isinstance(mechanism, SharedMechanism)
    assert mechanism.clip == question_of(asks).length == pytest.approx(8**0.5)
    assert mechanism.coordinates == question_of(asks).coordinates == 4 * 22
    assert mechanism.most_cells > 0 and mechanism.steps == 1
    for change in ({"clip": 1.0}, {"coordinates": 87}):
        with pytest.raises(ValueError, match=r"^privacy\.clip: must be 2\.8"):
            plan_mechanism(with_values(asks, "privacy", **change))
    few = with_values(asks, "statistics", most_records=10**9)
    with pytest.raises(ValueError, match=r"statistics\.most_records: must be so few"):
        plan_mechanism(few)


@pytest.mark.parametrize(
    "change",
    [
        {"age": (0.0, 99.0)},
        {"dose": (-1.0, 5.0)},
        {"weight": (0.0, 1.0)},
    ],
    ids=["another grid", "another low end", "a column more"],
)
def test_a_site_whose_table_is_another_refuses(
    tmp_path: Path,
    frame: pd.DataFrame,  # noqa: F811
    change: dict[str, tuple[float, float]],
) -> None:
    asks = question(tmp_path)
    source = table_of(asks)
    check_columns(asks, source)
    columns = columns_of(asks.statistics.columns)
    for wrong in (columns | change, dict(reversed(columns.items()))):
        other = with_values(asks, "statistics", columns=text_of(wrong))
        with pytest.raises(ScenarioError, match=r"^statistics\.columns: must be those of the"):
            check_columns(other, source)


def test_the_operator_sees_every_column_with_its_range(
    tmp_path: Path,
    frame: pd.DataFrame,  # noqa: F811
) -> None:
    facts = plan_facts(question(tmp_path), {}, "north")
    told = dict(facts)
    assert "nothing is trained" in told["asks for"] and "20 bins" in told["asks for"]
    text = [value for _, value in facts]
    for line in ('"age" from 0 to 100', '"dose" from 0 to 5', '"sex=f" from 0 to 1'):
        assert line in text
    assert "epsilon 8 at delta 1e-05" in told["privacy"]


@pytest.mark.parametrize(
    ("columns", "given"),
    [
        ("age, dose, sex", "age 0:100, dose 0:5"),
        ("sex, age, dose", "0:100, 0:5"),
        ("age, sex, dose", "0:100, 0:5"),
        ("sex, dose, age", "0:100"),
    ],
    ids=["by name", "in turn after text", "in turn around text", "one for all"],
)
def test_columns_follow_from_settings_where_only_sites_hold_the_records(
    tmp_path: Path,
    frame: pd.DataFrame,  # noqa: F811
    columns: str,
    given: str,
) -> None:
    asks = scenario(tmp_path, data={"columns": columns, "ranges": given})
    said = columns_said(asks.data)
    assert [*said.items()] == [*columns_in(table_of(asks), "csv").items()]
    assert said["age"] == (0.0, 100.0)
    for wrong in ("age 0:100", "0:100, 0:5, 0:1", ""):
        with pytest.raises(ScenarioError, match=r"data\.ranges: must be set"):
            columns_said(replace(asks.data, ranges=wrong))
    text = replace(asks.data, columns="sex", ranges="")
    for refused in (
        lambda: columns_said(text),
        lambda: columns_in(table_of(replace(asks, data=text)), "csv"),
    ):
        with pytest.raises(ScenarioError, match=r"data\.ranges: must be set"):
            refused()
    with pytest.raises(ScenarioError, match=r"data\.columns: must name the columns"):
        columns_said(replace(asks.data, columns="", categories=""))


@pytest.mark.parametrize("bins", [1, 0, -3, 1001])
def test_one_bin_is_no_histogram(tmp_path: Path, bins: int) -> None:
    with pytest.raises(ValueError, match=r"bins: must be from 2 to 1,000 .*; 10 suit"):
        Question(("age",), np.array([0.0]), np.array([1.0]), bins)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"federation": {"rounds": 2}}, r"federation\.rounds: must be 1 where statistics\.bins"),
        ({"privacy": {"noise_at": "site"}}, r"privacy\.noise_at: must be 'shared' where"),
        ({"privacy": {"groups": 3}}, r"privacy\.groups: "),
        ({"model": {"name": "cosine"}}, r"model\.name: must be 'linear' where"),
        ({"statistics": {"columns": ""}}, r"statistics\.columns: must name the columns"),
        ({"statistics": {"bins": 0}}, r"statistics\.columns: must be empty where"),
        ({"statistics": {"bins": 1}}, r"statistics\.bins: must be 0, or from 2 to 1000"),
        ({"statistics": {"columns": "[]"}}, r"statistics\.columns: must be empty, or a JSON"),
    ],
)
def test_a_run_that_would_be_more_than_a_question_is_refused(
    tmp_path: Path,
    frame: pd.DataFrame,  # noqa: F811
    tables: dict[str, dict[str, object]],
    words: str,
) -> None:
    good = question(tmp_path).to_dict()
    given = {name: good[name] | tables.get(name, {}) for name in good}
    with pytest.raises(ScenarioError, match=words):
        from_dict(given)


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"a": 1}', '{"a": [1]}', '{"a": [1, 1]}', '{"a": [2, 1]}', '{"": [0, 1]}',
     '{"a": [0, 1], "a": [0, 2]}', '{"a": [0, NaN]}', '{"a": [0, 1e999]}', '{"a": [true, 2]}',
     '{"a\\u202e": [0, 1]}'],
)  # fmt: skip
def test_columns_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        columns_of(text)
    assert columns_of("") == {}
    assert columns_of(text_of({"b": (0, 1), "a": (-1, 2)})) == {"b": (0.0, 1.0), "a": (-1.0, 2.0)}
