"""The same table is the same source, whatever file it is in.

Covers fedlite/data/rows.py, fedlite/data/sources/arrow.py.
"""

from __future__ import annotations

import csv
import datetime
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedlite.data import Source, load
from fedlite.data.sources import saved
from fedlite.scenario import tabular
from fedlite.scenario.tabular import Columns
from tests.data.sources.writing import save_hf

KINDS = ("csv", "parquet", "jsonl", "hf")


def write(folder: Path, kind: str, columns: dict[str, list[Any]]) -> str:
    """Write one table as a file of this kind, by a library that is not ours."""
    path = folder / f"table.{kind}"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
    if kind == "csv":
        with path.open("w", newline="") as file:
            out = csv.DictWriter(file, list(columns), lineterminator="\n")
            out.writeheader()
            out.writerows(plain)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in plain))
    elif kind == "parquet":
        pd.DataFrame(columns).to_parquet(path, index=False)
    else:
        save_hf(path, columns)
    return str(path)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.date) else value


def same(one: Source, other: Source) -> None:
    assert np.array_equal(one.train.x, other.train.x, equal_nan=True)
    assert np.array_equal(one.train.y, other.train.y) and one.train.y.dtype == other.train.y.dtype
    for field in ("shape", "classes", "labels", "features", "group_names", "notes", "origin"):
        assert getattr(one, field) == getattr(other, field), field
    for field in ("groups", "ranges", "scale"):
        mine, theirs = getattr(one, field), getattr(other, field)
        assert (mine is None and theirs is None) or np.array_equal(mine, theirs), field


WORDS = st.text(string.ascii_letters + "_ äé", min_size=1, max_size=6).map(str.strip).filter(bool)
NUMBERS = st.floats(-1e30, 1e30) | st.integers(-(2**53), 2**53).map(float)


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), n=st.integers(8, 30), task=st.sampled_from(["classification", "regression"]))
def test_the_same_table_is_the_same_source(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, n: int, task: str
) -> None:
    folder = tmp_path_factory.mktemp("tables")

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(values, min_size=n, max_size=n))

    kinds = data.draw(st.lists(WORDS, min_size=2, max_size=4, unique=True))
    days = st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1))
    columns: dict[str, list[Any]] = {
        "a": column(NUMBERS | st.none()),
        "word": column(st.sampled_from(kinds) | st.none()),
        "site": column(st.sampled_from(["north", "south"])),
        "seen": column(days | st.none()),
        "b": column(NUMBERS),
    }
    # A column of nothing has no type to be written with.
    columns["a"][0], columns["seen"][0] = 1.5, datetime.date(2020, 1, 1)
    columns["word"][:2] = kinds[:2]
    answers = st.sampled_from(["no", "yes"]) if task == "classification" else st.floats(0, 9)
    columns["y"] = column(answers)
    columns["y"][:2] = ["yes", "no"] if task == "classification" else [1.0, 2.0]
    settled = data.draw(st.booleans())
    listed = Columns(
        names=("b", "word", "seen", "a") if settled else (),
        categories=(("word", tuple(kinds)),) if settled else (),
        dates=(("seen", ""),),
        ranges=tabular.ranges("a -5:5, b 0:9, seen 1970-01-01:2020-01-01") if settled else (),
        grouped=True,
    )
    found = [
        load(
            kind,
            path=write(folder, kind, columns),
            target="y",
            columns=listed,
            task=task,
            labels=("no", "yes") if settled and task == "classification" else (),
            settled=settled,
        )
        for kind in KINDS
    ]
    for other in found[1:]:
        same(found[0], _named(other, found[0]))


def _named(source: Source, like: Source) -> Source:
    from dataclasses import replace

    return replace(source, name=like.name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("column", "values", "bad", "told"),
    [
        ("a", [1.0, float("inf"), 3.0], 2, r"column 'a': a feature must be a finite number"),
        ("a", ["1", "2", "low"], 3, r"column 'a': a feature must be a finite number.*got 'low'"),
        ("y", ["no", "", "yes"], 2, r"column 'y': a label must be present, got ''"),
        ("site", ["north", "../up", "south"], 2, r"column 'site'.*got '\.\./up'"),
        ("a", ["1_0", "1", "2"], 1, r"column 'a'|column of text"),
    ],
)
def test_a_wrong_cell_is_named_with_its_row(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    column: str,
    values: list[Any],
    bad: int,
    told: str,
) -> None:
    columns = {"a": [1.0, 2.0, 3.0], "site": ["north"] * 3, "y": ["no", "yes", "no"]}
    if kind == "jsonl" and values[1] == float("inf"):
        values = [1.0, "inf", 3.0]
    path = write(tmp_path, kind, columns | {column: values})
    with pytest.raises(ValueError, match=told) as caught:
        load(kind, path=path, target="y", settled=True, columns=Columns(("a",), grouped=True))
    place = {"csv": f"line {bad + 1}", "jsonl": f"line {bad}"}.get(kind, f"row {bad}")
    assert str(caught.value).startswith(f"{path}, {place}, column {column!r}: ")
    kept = load(
        kind,
        path=path,
        target="y",
        labels=("no", "yes"),
        columns=Columns(("a",), grouped=True),
        skip_wrong=True,
    )
    assert len(kept.train) == 2, "the row counts as absent, and no other"
    assert [place in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_lists_is_refused_only_where_it_is_asked_for(tmp_path: Path, kind: str) -> None:
    columns = {"a": [1.0, 2.0], "more": [[1, 2], [3, 4]], "y": ["no", "yes"]}
    path = write(tmp_path, kind, columns)
    if kind != "csv":
        with pytest.raises(ValueError, match=r"column 'more': a (column|value) must .*data.drop"):
            load(kind, path=path, target="y")
    source = load(kind, path=path, target="y", columns=Columns(drop=("more",)))
    assert source.features == ("a",) and source.train.x.ravel().tolist() == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_owner_may_be_another_column(tmp_path: Path, kind: str) -> None:
    columns = {"a": [1.0, 2.0, 3.0], "ward": ["w1", "w2", "w1"], "site": ["s"] * 3}
    columns["y"] = ["no", "yes", "no"]
    path = write(tmp_path, kind, columns)
    source = load(kind, path=path, target="y", columns=Columns(owner="ward"))
    assert source.group_names == ("w1", "w2") and source.features == ("a",)
    assert source.groups is not None and source.groups.tolist() == [0, 1, 0]
    for settled in (False, True):
        settings = Columns(names=("a",), owner="bed", grouped=True)
        with pytest.raises(ValueError, match=r"partition_column must be in the header|'bed'"):
            load(kind, path=path, target="y", columns=settings, settled=settled)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_site_holds_is_counted_without_its_features(tmp_path: Path, kind: str) -> None:
    from fedlite.data import find

    columns = {"id": ["x", "y", "z"], "site": ["b", "a", "b"], "y": ["no", "yes", "no"]}
    look = find(kind).survey
    assert look is not None
    path = write(tmp_path, kind, columns)
    assert look(path, "y") == (3, 2, ("a", "b"))
    assert look(path, "y", lenient=True) == (3, 0, ("a", "b"))


def test_the_library_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"parquet needs pyarrow.*pip install 'fedlite\[parquet\]"):
        load("parquet", path=str(tmp_path), target="y")
    with pytest.raises(ValueError, match=r"hf needs pyarrow.*pip install 'fedlite\[hf\]"):
        saved.read(str(tmp_path), Columns(), ("y",), False)
