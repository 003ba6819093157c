"""What a table's targets may hold, and in which units numbers are learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlite import data
from fedlite.scenario import ScenarioError, from_dict, tabular


def table(path: Path, *rows: str, header: str = "site,a,p,q") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def read(path: Path, target: str, task: str, ranges: str = "") -> data.Source:
    given = tabular.ranges(ranges)
    return data.load("csv", path=str(path), target=target, task=task, target_ranges=given)


def test_a_public_range_becomes_minus_one_to_one_and_nothing_is_cut(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "x,1,0,10", "y,2,50,20", "x,3,200,0")
    source = read(path, "p, q", "regression", "p 0:100, q 0:20")
    assert source.labels == ("p", "q") and source.classes == 2 and source.features == ("a",)
    assert source.train.y.dtype == np.float32
    assert source.train.y.tolist() == [[-1, 0], [0, 1], [3, -1]]
    assert source.scale is not None and source.scale.tolist() == [[0, 0], [100, 20]]
    assert source.notes == ()


def test_without_one_the_records_give_the_unit_and_it_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(1000, 50, 400)
    path = table(tmp_path / "t.csv", *(f"x,{v:.2f},{v:.3f},0" for v in values))
    source = read(path, "p", "regression")
    assert source.train.y.mean() == pytest.approx(0, abs=0.02)
    assert source.train.y.std() == pytest.approx(0.5, rel=0.02)
    (note,) = [note for note in source.notes if "target_ranges" in note]
    again = read(path, "p", "regression", note.split("'")[1])
    assert np.allclose(again.train.y, source.train.y, atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        101325 + 10 * np.arange(7),  # the pressure of the air
        2010 + np.arange(3),
        1.7e9 + 86400 * np.arange(5),  # days as unix time
        -5e-7 + 1e-12 * np.arange(4),
    ],
    ids=lambda values: f"{values[0]:g}",
)
def test_numbers_far_from_zero_and_near_to_each_other_have_a_unit(
    tmp_path: Path, values: np.ndarray
) -> None:
    values = np.tile(values, 5)
    path = table(tmp_path / "t.csv", *(f"x,{n % 4},{v!r},0" for n, v in enumerate(values.tolist())))
    source = read(path, "p", "regression")
    y, (low, high) = source.train.y[:, 0].astype(np.float64), source.scale[:, 0]  # type: ignore
    assert y.mean() == pytest.approx(0, abs=0.02) and y.std() == pytest.approx(0.5, rel=0.02)
    assert (y + 1) * (high - low) / 2 + low == pytest.approx(values, abs=1e-6 * (high - low))
    (note,) = [note for note in source.notes if "target_ranges" in note]
    again = read(path, "p", "regression", note.split("'")[1])
    assert np.array_equal(again.train.y, source.train.y)


def test_several_labels_are_zero_or_one(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "x,1,0,1", "y,2,1,1")
    source = read(path, "p, q", "multilabel")
    assert source.train.y.tolist() == [[0, 1], [1, 1]] and source.scale is None


@pytest.mark.parametrize(
    ("task", "rows", "target", "ranges", "told"),
    [
        ("regression", ["x,1,?,0"], "p", "", r"line 2, column 'p': a target must be a finite"),
        (
            "regression",
            ["x,1,,0"],
            "p",
            "",
            r"target must be a finite number, got ''",
        ),
        ("regression", ["x,1,nan,0"], "p", "", r"finite number, got 'nan'"),
        ("regression", ["x,1,7,0", "x,2,7,0"], "p", "", r"two values at least, got 7.0"),
        ("regression", [], "p", "", r"at least one record is needed"),
        ("regression", ["x,1,7,0"], "r", "", r"column `target` must be in the header|'r'"),
        ("regression", ["x,1,7,0"], "p, q", "p 0:1", r"one for all targets, or one for each"),
        ("multilabel", ["x,1,0,2"], "p, q", "", r"column 'q': a label of several must be 0 or 1"),
        ("classification", ["x,1,0.5,2"], "p", "", r"a numeric label must be a whole number"),
    ],
)
def test_a_wrong_target_is_named(
    tmp_path: Path, task: str, rows: list[str], target: str, ranges: str, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        read(table(tmp_path / "t.csv", *rows), target, task, ranges)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_what_stands_for_no_value_is_no_answer(tmp_path: Path, task: str) -> None:
    path = str(table(tmp_path / "t.csv", "x,1,3,0", "y,2,-9,1", "x,-9,4,0"))
    columns = tabular.Columns(missing=("NA", "-9"))
    with pytest.raises(ValueError, match=r"line 3, column 'p': a (label|target) must be present"):
        data.load("csv", path=path, target="p", task=task, columns=columns)
    found = data.load("csv", path=path, target="q", labels=("0", "1"), columns=columns)
    assert np.isnan(found.train.x[2, 0]) and len(found.train) == 3
    listed = data.load("csv", path=path, target="p", labels=("-9", "3", "4"), columns=columns)
    assert listed.train.y.tolist() == [1, 0, 2]


def test_a_named_source_has_the_task_that_it_has() -> None:
    with pytest.raises(ValueError, match=r"task.name: must be classification for digits"):
        data.load("digits", task="regression")


def test_a_survey_counts_numbers_too(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "x,1,0.25,10", "y,2,50,20", "x,3,200,0")
    survey = data.find("csv").survey
    assert survey is not None
    assert survey(str(path), "p") == (3, 1, ("x", "y"))
    assert survey(str(path), "p, q") == (3, 2, ("x", "y"))
    for target in ("p", "p, q"):
        assert survey(str(path), target, lenient=True) == (3, 0, ("x", "y"))
    with pytest.raises(ValueError, match="header"):
        survey(str(path), "r")


REGRESSION = {
    "data": {"name": "csv", "path": "t.csv", "target": "p"},
    "task": {"name": "regression"},
}


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"privacy": {"unit": "record"}, "training": {"steps": 1}}, "data.target_ranges: must be"),
        ({"data": {"name": "csv", "columns": "a", "target": "p"}}, "data.target_ranges: must be"),
        ({"task": {}, "data": {"target_ranges": "0:1"}}, "data.target_ranges: must be empty"),
        ({"training": {"logit_adjustment": True}}, "training.logit_adjustment: is for classif"),
        ({"report": {"baseline_repeats": 1}}, "report.baseline_repeats: is for classification"),
    ],
)
def test_keys_that_do_not_fit_a_task_are_named(tables: dict[str, dict], told: str) -> None:
    with pytest.raises(ScenarioError, match=told):
        from_dict(REGRESSION | tables)
