"""What `model.json` says of records: enough to read others alike, and nothing of private ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import load
from fedlite.data.spread import load_source
from fedlite.data.usage import reading_of, usage
from fedlite.scenario import from_dict

ROWS = "site,age,sex,born,price,ill\n" + "".join(
    f"h{n % 2},{20 + n},{'fm'[n % 2]},200{n % 10}-01-01,{1000 + 7 * n},{'ab'[n // 3 % 2]}\n"
    for n in range(40)
)


def scenario(folder: Path, **more: dict[str, object]) -> dict[str, dict[str, object]]:
    (folder / "own.csv").write_text(ROWS)
    data: dict[str, object] = {
        "name": "csv",
        "path": str(folder / "own.csv"),
        "target": "ill",
        "drop": "price",
        "dates": "born",
        "missing": "?, -9",
    }
    return {"data": data | more.pop("data", {}), **more}


def test_another_file_is_read_as_the_first_was(tmp_path: Path) -> None:
    asked = from_dict(scenario(tmp_path))
    source = load_source(asked.data)
    told = json.loads(json.dumps(usage(asked, source)))
    assert told["labels"] == ["a", "b"] and told["target"] == "ill" and told["scaling"] == "site"
    assert told["features"] == ["age", "sex=f", "sex=m", "born"] == list(source.features)
    assert told["columns"][1:] == [
        {"name": "sex", "values": ["f", "m"]},
        {"name": "born", "date": ""},
    ]
    reading = reading_of(told)
    assert reading == source.reading and reading is not None and reading.missing == ("?", "-9")
    again = load(
        "csv", path=asked.data.path, target="ill", columns=reading, labels=("a", "b"), settled=True
    )
    np.testing.assert_array_equal(again.train.x, source.train.x)
    assert "mean" not in json.dumps({k: v for k, v in told.items() if k != "how"})


def test_ranges_of_all_and_in_turn_are_told_by_name(tmp_path: Path) -> None:
    keys = {"columns": "age, sex, born", "drop": "", "categories": "sex: f, m", "labels": "a, b"}
    for given in ("0:20000", "0:20000, 0:20000", "age 0:20000, born 0:20000"):
        asked = from_dict(scenario(tmp_path, data=keys | {"ranges": given}))
        for source in (None, load_source(asked.data)):
            told = usage(asked, source)
            assert told["scaling"] == "ranges"
            assert [one.get("range") for one in told["columns"]] == [
                [0.0, 20000.0],
                None,
                [0.0, 20000.0],
            ]


PRIVATE = {"unit": "record", "expected_batch": 10, "delta": 1e-3}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_of_private_records_only_settings_are_told(tmp_path: Path, task: str) -> None:
    keys: dict[str, object] = {"labels": "a, b", "ranges": "0:99999", "categories": "sex: f, m"}
    if task == "regression":
        keys |= {"target": "price", "labels": "", "drop": "ill", "target_ranges": "0:5000"}
    else:
        keys["labels"] = "b, a, never"
    more = {"task": {"name": task}, "training": {"steps": 1}, "privacy": PRIVATE}
    asked = from_dict(scenario(tmp_path, data=keys, **more))
    source = load_source(asked.data, task, settled=True)
    told = usage(asked, source)
    # Other records, the same header: the same words.
    text = ROWS.splitlines()
    (tmp_path / "own.csv").write_text("\n".join([text[0], *text[5:12]]) + "\n")
    assert usage(asked, load_source(asked.data, task, settled=True)) == told
    assert told["labels"] == (["price"] if task == "regression" else ["b", "a", "never"])
    assert told.get("scale") == ([[0.0], [5000.0]] if task == "regression" else None)


def test_a_table_at_the_sites_only_is_told_by_its_settings() -> None:
    data = {"name": "csv", "labels": "no, yes", "columns": "b, a", "categories": "a: x, y"}
    told = usage(from_dict({"data": data | {"ranges": "b 0:9"}}), None)
    assert told["features"] == ["b", "a=x", "a=y"] and told["source"] == "own"
    assert told["columns"] == [
        {"name": "b", "range": [0.0, 9.0]},
        {"name": "a", "values": ["x", "y"]},
    ]
    shaped = usage(from_dict({"data": {"name": "csv", "labels": "no, yes", "shape": "2x3"}}), None)
    assert "columns" not in shaped and reading_of(shaped) is None


def test_public_sources_are_told_by_name() -> None:
    told = usage(from_dict({}), load("digits"))
    assert told["source"] == "digits" and told["scaling"] == "source"
    assert told["labels"] == list("0123456789") and reading_of(told) is None


@pytest.mark.data("heart-disease")
def test_a_public_table_names_its_features() -> None:
    told = usage(from_dict({"data": {"name": "heart-disease"}}), load("heart-disease"))
    reading = reading_of(told)
    assert reading is not None and len(reading.names) == 30 and told["scaling"] == "source"
