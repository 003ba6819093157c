"""The page says what evaluation.json holds, stands alone, and runs nothing.

Covers fedlite/evaluation/drawing.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedlite.evaluation import Trained, evaluate, held_out, page, read
from tests.reporting.reader import read as read_page


@pytest.mark.long
def test_every_part_is_there(each: Trained, tmp_path: Path) -> None:
    path = Path(each.scenario.data.path)
    records = read(each, path, columns=("sex", "ward"))
    found = evaluate(each, records, group=("sex", "ward"), corrupt=("noise", "swap"))
    written = page.write(found, tmp_path)
    names = {Path(name).name for name in written["figures"]}
    text, reader = read_page(tmp_path / "evaluation.html")
    both = {"groups-1.png", "groups-2.png", "corruptions.png"}
    if each.scenario.task.name == "regression":
        assert names == both | {"residuals.png"}
        assert "Errors" in text and "Calibration" not in text and "dose" in text
    else:
        assert names == both | {"calibration.png"}
        assert "Calibration" in text and "Class by class" in text and "Errors" not in text
    for heading in ("Site by site", "Between groups", "By sex", "By ward", "On a worse day"):
        assert heading in text, heading
    assert "240 records" in text and "sent nowhere" in text and "nan" not in text
    assert str(path) not in (tmp_path / "evaluation.html").read_text()
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert told["scores"] == found.told["scores"]
    assert reader is not None


def test_hostile_names_are_escaped(sick: Trained, tmp_path: Path) -> None:
    records = read(sick, Path(sick.scenario.data.path))
    groups = tuple("<script>alert(1)</script>" if n % 2 else "\x1b[31m" for n in range(240))
    spoilt = type(records)(
        records.data,
        True,
        records.sites,
        ("<b>", "b", "c"),
        {"<i>sex": groups},
        ("<u>note",),
        "a",
    )
    page.write(evaluate(sick, spoilt, group=("<i>sex",)), tmp_path)
    html = (tmp_path / "evaluation.html").read_text()
    for raw in ("<script>", "<b>", "<i>", "<u>", "\x1b"):
        assert raw not in html, raw


def test_of_many_classes_the_worst_mistakes_are_listed() -> None:
    names = [f"class {n}" for n in range(25)]
    counts = np.eye(25, dtype=int) * 9
    counts[3, 7] = 4
    told = {"confusion": counts.tolist(), "labels": names}
    assert page._confusion(told) is None
    table = page._mistakes(told)
    assert table is not None and list(table.rows) == [["class 3", "class 7", "4"]]


def test_the_verdict_names_the_gap(sick: Trained, tmp_path: Path) -> None:
    records = read(sick, Path(sick.scenario.data.path), columns=("sex",))
    found = evaluate(sick, records, group=("sex",)).told
    beyond = [row for row in found["groups"]["sex"] if row["gap"]["beyond_chance"]]
    assert beyond, "men are sicker in this table, so that rates differ"
    assert "By sex, " in page.verdict(found) and "points apart" in page.verdict(found)
    plain = evaluate(sick, held_out(sick)).told
    assert "By " not in page.verdict(plain)


def test_an_evaluation_replaces_its_own_files_only(sick: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    for _ in range(2):
        page.write(evaluate(sick, held_out(sick)), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "evaluation.html",
        "evaluation.json",
        "figures",
        "mine.txt",
    ]


@pytest.mark.parametrize("classes", [2, 3])
def test_gap_texts_are_in_points(classes: int) -> None:
    row = {"rate": "accuracy", "gap": {"value": 0.063, "low": -0.01, "high": 0.137}}
    assert page.gap_text(row) == "6.3 points (-1.0 to 13.7)"
    assert page.gap_text({"rate": "accuracy", "gap": None}) == "-"


def test_of_a_model_with_one_branch_nothing_speaks_of_branches() -> None:
    told = {"branch": "deep", "scores": {"deep": {"accuracy": 0.9}}, "records": 40}
    assert page.verdict(told) == "Accuracy 90.0 % on 40 records."
    table = page.scores(told)
    assert (table.head, table.rows) == (["", "accuracy"], [["all", "90.0 %"]])
