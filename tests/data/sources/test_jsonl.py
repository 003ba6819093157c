"""JSON Lines as people have them; `test_same_table` holds what is read of good ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import load
from fedlite.scenario import ScenarioError, from_dict
from fedlite.scenario.tabular import Columns

GOOD = ['{"a": 1.5, "y": "no"}', '{"y": "yes", "b": 2, "a": null}', "", '{"a": 3, "y": "no"}']
FIXED = {"columns": Columns(names=("a", "b")), "labels": ("no", "yes"), "skip_wrong": True}


def write(folder: Path, *lines: str | bytes) -> str:
    path = folder / "own.jsonl"
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
    return str(path)


def test_keys_are_columns_and_one_that_lacks_is_missing(tmp_path: Path) -> None:
    source = load("jsonl", path=write(tmp_path, *GOOD), target="y")
    nan = np.nan
    assert source.features == ("a", "b")
    expected = np.array([[1.5, nan], [nan, 2], [3, nan]])
    assert np.array_equal(source.train.x, expected, equal_nan=True)
    assert source.labels == ("no", "yes") and source.train.y.tolist() == [0, 1, 0]


BAD = {
    "no JSON": ("{", r"every line must be JSON"),
    "a list": ("[1, 2]", r"every line must be an object, got '\[1, 2\]'"),
    "a number": ("7", r"every line must be an object"),
    "no UTF-8": (b'{"a": 1, "y": "n\xf4"}', r"every line must be JSON.*in UTF-8"),
    "NaN": ('{"a": NaN, "y": "no"}', r"NaN is no JSON"),
    "infinity": ('{"a": Infinity, "y": "no"}', r"Infinity is no JSON"),
    "a key twice": ('{"a": 1, "a": 2, "y": "no"}', r"a key stands in it twice"),
    "a key twice but for blanks": ('{"a": 1, " a": 2, "y": "no"}', r"a key stands in it twice"),
    "half a character": ('{"a": 1, "y": "\\ud800"}', r"every line must be JSON.*surrogates"),
    "half a character in a key": ('{"a": 1, "y": "no", "\\ud800": 2}', r"every line must be JSON"),
    "a list in a column": ('{"a": [1], "y": "no"}', r"column 'a': a value must be a number, a te"),
    "no label": ('{"a": 1}', r"column 'y': a label must be present"),
    "another label": ('{"a": 1, "y": "maybe"}', r"column 'y': the label must be one of no, yes"),
    "text in a column": ('{"a": "high", "y": "no"}', r"column 'a': a feature must be a finite"),
    "too large": ('{"a": 1e400, "y": "no"}', r"column 'a': a feature must be a finite"),
    "too deep": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", r"JSON|a value must be"),
    "many digits": ('{"a": ' + "9" * 5000 + ', "y": "no"}', r"column 'a': a feature must be a fi"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_line_whatever_it_is_neither_stops_nor_changes_another(
    tmp_path: Path, name: str, at: int
) -> None:
    whole = load("jsonl", path=write(tmp_path, *GOOD), target="y", **FIXED)
    lines: list[str | bytes] = list(GOOD)
    lines.insert(at, BAD[name][0])
    path = write(tmp_path, *lines)
    found = load("jsonl", path=path, target="y", **FIXED)
    assert np.array_equal(found.train.x, whole.train.x, equal_nan=True)
    assert np.array_equal(found.train.y, whole.train.y)
    with pytest.raises(ValueError, match=BAD[name][1]) as caught:
        load("jsonl", path=path, target="y", **{**FIXED, "skip_wrong": False, "settled": True})
    assert str(caught.value).startswith(f"{path}, line {at + 1}, column")
    assert len(str(caught.value)) < len(path) + 6000


def test_no_record_says_what_the_columns_are_where_it_is_private(tmp_path: Path) -> None:
    path = write(tmp_path, *GOOD)
    with pytest.raises(ValueError, match=r"data.columns: must be set for jsonl where records"):
        load("jsonl", path=path, target="y", settled=True)
    tables = {
        "data": {"name": "jsonl", "path": path, "target": "y", "labels": "no, yes"},
        "privacy": {"unit": "record", "expected_batch": 4},
        "training": {"steps": 1},
    }
    tables["data"]["ranges"] = "0:9"
    with pytest.raises(ScenarioError, match=r"^data.columns: must be set when privacy.unit"):
        from_dict(tables)
    tables["data"]["columns"] = "a, b"
    assert from_dict(tables).data.reading.names == ("a", "b")


def test_an_owner_that_nobody_asks_for_is_not_read(tmp_path: Path) -> None:
    """One record with a site would otherwise make all others rows without one."""
    lines = [*GOOD, json.dumps({"a": 5, "y": "no", "site": "north"})]
    path = write(tmp_path, *lines)
    assert len(load("jsonl", path=path, target="y", **FIXED).train) == 4
    asked = {**FIXED, "columns": Columns(names=("a", "b"), grouped=True)}
    source = load("jsonl", path=path, target="y", **asked)
    assert len(source.train) == 1 and source.group_names == ("north",)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["a,y", "1,no"], r"line 1, column '': every line must be JSON"),
        (["[", "{}", "]"], r"line 1, column '': every line must be JSON"),
        ([""], r"the first line must name the columns|columns"),
        (["{}"], r"columns"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, lines: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load("jsonl", path=write(tmp_path, *lines), target="y")
