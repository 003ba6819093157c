"""A file of one's own that says whose each record is, and a column that does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import load
from fedlite.data.owners import by_file
from fedlite.data.spread import spread
from fedlite.scenario import Data, Federation, Scenario, ScenarioError, from_dict

RECORDS = 1437
SITES = [("north", "south", "west")[n % 3] for n in range(RECORDS)]


def forms(folder: Path) -> list[str]:
    """Write the same division in each of its forms."""
    lines = ["record,site", *(f"{n},{site}" for n, site in enumerate(SITES))]
    listed = {name: [n for n, s in enumerate(SITES) if s == name] for name in set(SITES)}
    texts = {
        "by.csv": "\r\n".join(["\ufeff" + lines[0], *lines[:0:-1]]) + "\r\n\r\n",
        "by_site.json": json.dumps(listed),
        "by_record.json": json.dumps(SITES),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [str(folder / name) for name in texts]


def test_every_form_says_the_same(tmp_path: Path) -> None:
    for path in forms(tmp_path):
        source = by_file(load("digits"), path)
        assert source.group_names == ("north", "south", "west")
        assert source.groups is not None
        assert [source.group_names[at] for at in source.groups] == SITES


def test_a_scenario_divides_by_the_file_and_sees_it_change(tmp_path: Path) -> None:
    path = forms(tmp_path)[2]
    data = Data(partition="file", partition_file=path, test_fraction=0.0)
    scenario = Scenario(Federation(sites=3), data)
    source, sites = spread(scenario)
    assert [site.name for site in sites] == ["north", "south", "west"]
    assert np.array_equal(sites[1].train.x, source.train.x[1::3])
    Path(path).write_text(json.dumps(["one"] * RECORDS))
    with pytest.raises(
        ValueError, match=r"sites: must equal the 1 groups of digits \(one\).*got 3"
    ):
        spread(scenario)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"must be a CSV with the header record,site, or JSON"),
        ("index,owner\n0,a\n", r"line 1: must be a CSV with the header record,site"),
        ("record,site\n0,a\n1437,a\n", r"line 3: a record must be a whole number from 0 to 1436"),
        ("record,site\n-1,a\n", r"line 2: a record must be a whole number.*got '-1'"),
        ("record,site\n1.0,a\n", r"line 2: a record must be a whole number"),
        ("record,site\n" + "9" * 5000 + ",a\n", r"line 2: a record must be a whole number"),
        ("record,site\n0,a\n0,b\n", r"line 3: a record must stand in it once, got 0; take one"),
        ("record,site\n0,../up\n", r"line 2: a site's name.*got '../up'; write 'up' for example"),
        ("record,site\n0\n", r"line 2: a line must have a record and its site"),
        ("record,site\n0,a\n2,a\n", r"each of the 1437 records.*got 'none for record 1'; add it"),
        ('{"a": [0, true]}', r"site a: a record must be a whole number from 0 to 1436, got None"),
        ('{"a": 3}', r"a: a site must have a list of records, got 3"),
        ('{"a": [0], ', r"must be a CSV .*, got Expecting"),
        ("[" * 100_000, r"must be a CSV .*, got .*recursion"),
        ('["a", 3]', r"record 1: a site's name.*got 3"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "by.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        by_file(load("digits"), str(path))
    assert str(caught.value).startswith(f"data.partition_file: {path}")
    assert len(str(caught.value)) < len(str(path)) + 400


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a file that can be read, got 'No such file"):
        by_file(load("digits"), str(tmp_path / "none"))
    (tmp_path / "odd").write_bytes(b"record,site\n0,\xff\n")
    with pytest.raises(ValueError, match=r"must be UTF-8"):
        by_file(load("digits"), str(tmp_path / "odd"))


def test_a_column_divides_and_is_no_feature(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    rows = [f"{n},ward-{n % 2},{n * 7 % 5},{'no' if n % 3 else 'yes'}" for n in range(40)]
    path.write_text("\n".join(["age,ward,dose,ill", *rows]) + "\n")
    data = Data(
        name="csv",
        path=str(path),
        target="ill",
        partition="column",
        partition_column="ward",
        scaling="none",
        columns="age, dose",
    )
    source, sites = spread(Scenario(Federation(sites=2), data))
    assert source.features == ("age", "dose")
    assert [site.name for site in sites] == ["ward-0", "ward-1"]
    for number, site in enumerate(sites):
        ages = np.concatenate([site.train.x[:, 0], site.test.x[:, 0]])
        assert np.array_equal(np.sort(ages), np.arange(number, 40, 2))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"partition": "column"}, r"data.partition_column: must be set when .* is column.*name it"),
        ({"partition_column": "ward"}, r"data.partition_column: must be set .*'iid'; leave it out"),
        ({"partition": "file"}, r"data.partition_file: must be set when data.partition is file"),
        (
            {"name": "images", "path": "a", "partition": "column", "partition_column": "b"},
            r"data.partition: must not be column for images.*FOLDER/SITE/CLASS, and use natural",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(data: dict[str, str], told: str) -> None:
    with pytest.raises(ScenarioError, match=told):
        from_dict({"data": data})
