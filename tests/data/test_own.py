"""What a function of the user's returns: records in a few forms, or a division of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.data import Source, find, load, partition
from fedlite.data.own import source_of
from fedlite.data.spread import spread
from fedlite.scenario import ScenarioError, from_dict

X, Y = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [0, 1, 0]


def made(value: Any, labels: tuple[str, ...] = ()) -> Source:
    return source_of("/home/jane/mine.py:load", value, labels)


def test_columns_in_any_order_and_type_become_a_source() -> None:
    import torch

    two = made((X, Y))
    assert (two.name, two.shape, two.classes, two.labels) == ("mine.load", (2,), 2, ("0", "1"))
    assert two.train.x.dtype == np.float32 and two.test is None and "jane" not in two.origin
    named = made({"y": np.array(Y, np.uint8), "x": torch.tensor(X, dtype=torch.float64)})
    assert np.array_equal(named.train.x, two.train.x) and named.train.y.dtype == np.int64
    with_test = made((X, Y, [[6.0, 7.0]], [2]))
    assert with_test.test is not None and len(with_test.test) == 1 and with_test.classes == 3
    grouped = made({"x": X, "y": Y, "groups": ["b", "a", "b"]})
    assert grouped.group_names == ("a", "b") and grouped.groups is not None
    assert grouped.groups.tolist() == [1, 0, 1]
    assert made(two) is two


def test_classes_are_numbered_by_the_labels_or_sorted() -> None:
    texts = ["yes", "no", "yes"]
    assert made((X, texts)).labels == ("no", "yes")
    assert made((X, texts)).train.y.tolist() == [1, 0, 1]
    chosen = made((X, texts), ("yes", "no", "never"))
    assert chosen.train.y.tolist() == [0, 1, 0] and chosen.classes == 3
    assert made((X, [0, 0, 0])).classes == 2, "one class is no question"
    assert made((X, Y), ("a", "b", "c")).classes == 3


def test_numbers_are_answered_where_the_task_says_so() -> None:
    one = source_of("a.py:b", (X, [1, 2, 3]), numeric=True)
    assert one.train.y.dtype == np.float32 and one.train.y.shape == (3, 1)
    assert (one.classes, one.labels) == (1, ("y",))
    two = source_of("a.py:b", (X, [[1, 2], [3, 4], [5, 6]], X, X), numeric=True)
    assert (two.classes, two.labels) == (2, ("y1", "y2")) and two.test is not None
    with pytest.raises(ValueError, match=r"y: must hold a number for each of a, b, c, got"):
        source_of("a.py:b", (X, [1, 2, 3]), ("a", "b", "c"), numeric=True)
    with pytest.raises(ValueError, match=r"y: must be classes.*float64.*task.name to regression"):
        made((X, [0.5, 1.0, 2.0]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"must return a fedlite.data.Source, \(x, y\).*got NoneType"),
        ((X,), "got a tuple of 1"),
        ({"x": X}, "got a table of x"),
        ({"x": X, "y": Y, "z": Y}, "got a table of x, y, z"),
        ((X, Y[:2]), r"y: must be as long as x, got \[2\] beside \[3, 2\]"),
        ((X, Y, X, Y[:1]), r"test_y: must be as long as test_x"),
        ((X, Y, X, None), "test_x and test_y: must both be there"),
        ({"x": X, "y": Y, "groups": ["a"]}, "groups: must be as long as x"),
        (([[1.0], [1.0, 2.0], [3.0]], Y), "x: must be rows of one shape"),
        (([["a"], ["b"], ["c"]], Y), "x: must be numbers"),
        (([[np.nan], [1.0], [2.0]], Y), "x: must be finite"),
        ((X, [-1, 0, 1]), "y: must be at least 0"),
        ((3.0, Y), "y: must be as long as x"),
        ((X, ["a", None, "b"]), r"y: a label must be present, got 'None'"),
        ((X, np.array(["a", np.nan, "b"], object)), r"y: a label must be present, got 'nan'"),
        ((X, ["a", "", "b"]), r"y: a label must be present, got ''"),
        ((X, [["a"], ["b"], ["a"]]), r"y: must be one class for each row, got \[3, 1\]"),
        ((X, [[0], [1], [0]]), r"y: must be one class for each row, got \[3, 1\]"),
        ((X, [0, 1, 10**9]), r"y: must form at most 1000 classes.* got 1000000001"),
        ((X, np.array([0, 1, 2**63], np.uint64)), r"y: must form at most 1000 classes"),
        ((X, None), r"must return a fedlite.data.Source.*got a table of x"),
        ((None, Y), r"must return a fedlite.data.Source.*got a table of y"),
        ((X, Y, None, None, ["a", "../../b", "a"]), r"a site's name must be.*got '../../b'"),
        ((X, Y, None, None, ["a", "", "a"]), r"a site's name must be .*, got ''"),
    ],
)
def test_what_is_no_data_set_is_told(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(value)


CODE = """
import numpy as np
from helper import half

def load(n=40, *, skew: float = 0.0):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n, 3))
    return x, (x[:, 0] > skew + half(0)).astype(int)

def unequal():
    x = np.zeros((4, 2))
    return x, [0, 1]

def split(source, sites, *, seed, first=0.5):
    n = len(source.train)
    return [range(int(first * n)), range(int(first * n), n)]

def twice(source, sites, *, seed):
    return [[0, 1], [1, 2]]

def beyond(source, sites, *, seed):
    return [[0], [10**6]]

def few(source, sites, *, seed):
    return [[0]]

def other(source):
    return []

def holes(column="x", raw=False):
    from fedlite.data import Dataset, Source
    x, y = np.zeros((2, 1), np.float64 if raw else np.float32), np.zeros((2, 1), np.float32)
    {"x": x, "y": y}[column][1] = np.nan
    data = Dataset(x, np.array([0, 1]) if raw else y, raw)
    names = ("a", "b") if raw else ("y",)
    return Source("own", data, None, None, (), (1,), len(names), names, "mine")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("def half(x):\n    return x / 2\n")
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_a_function_is_a_data_source_with_options(file: Path) -> None:
    name = f"{file}:load"
    assert find(name).own and len(load(name, options='{"n": 12}').train) == 12
    with pytest.raises(ValueError, match=r"data.options.m: must be an option of load"):
        load(name, options='{"m": 12}')
    with pytest.raises(ValueError, match=r"data.options.skew: must be a number"):
        load(name, options='{"skew": "x"}')
    with pytest.raises(ValueError, match=r"target: is only for data 'csv'"):
        load(name, target="y")
    with pytest.raises(ValueError, match=r"data.options.size: must be an option of 'digits'"):
        load("digits", options='{"size": 3}')
    with pytest.raises(ValueError, match=r"(?s)mine.py:unequal' y: must be as long as x.*line 10"):
        load(f"{file}:unequal")


@pytest.mark.parametrize("column", ["x", "y"])
def test_a_source_s_records_are_finite_unless_a_site_scales_them(file: Path, column: str) -> None:
    with pytest.raises(ValueError, match=rf"own: {column} of train records must be finite"):
        load(f"{file}:holes", options=f'{{"column": "{column}"}}', task="regression")
    assert len(load(f"{file}:holes", options='{"raw": true}').train) == 2


def tables(file: Path, **data: Any) -> dict[str, Any]:
    return {"federation": {"sites": 2}, "data": {"name": f"{file}:load", **data}}


def test_what_the_sites_hold_follows_the_files(file: Path) -> None:
    scenario = from_dict(tables(file, options={"n": 60}, partition=f"{file}:split"))
    source, sites = spread(scenario)
    assert sum(len(s.train) + len(s.test) for s in sites) == len(source.train) == 60
    assert spread(scenario)[0] is source
    (file.parent / "helper.py").write_text("def half(x):\n    return x / 2 + 0.5\n")
    changed, _ = spread(scenario)
    assert changed is not source and changed.train.y.sum() < source.train.y.sum()


def test_a_function_is_a_partition_with_options(file: Path) -> None:
    source = load(f"{file}:load")

    def divided(name: str, **options: Any) -> list[int]:
        kind = f"{file}:{name}"
        found = partition(source, kind, 2, alpha=1.0, seed=1, options=options)
        return [len(part) for part in found]

    assert divided("split") == [20, 20] and divided("split", first=0.25) == [10, 30]
    for name, message in (
        ("twice", r"record 1 is at 2 places; mend .*mine.py, line 18"),
        ("beyond", r"site 2 got 1000000..1000000 of 40 records"),
        ("few", r"for 2 sites it returned 1"),
        ("other", r"must be a function that takes \(source, sites, \*, seed, \*\*options\), got "),
        ("none", r"data.partition: .*mine.py: has no 'none'"),
    ):
        with pytest.raises(ValueError, match=message):
            divided(name)
    with pytest.raises(ValueError, match=r"data.partition_options: must be empty for 'iid'"):
        partition(source, "iid", 2, alpha=1.0, seed=1, options={"first": 1})


@pytest.mark.parametrize("unit", ["record", "client"])
def test_under_privacy_a_function_s_records_are_held_to_what_is_public(
    file: Path, unit: str
) -> None:
    asked = tables(file) | {"privacy": {"unit": unit}, "training": {"steps": 1}}
    with pytest.raises(ScenarioError, match=r"data.labels: must be set when privacy.unit"):
        from_dict(asked)
    asked["data"] |= {"labels": "no, yes", "partition": f"{file}:split"}
    with pytest.raises(ScenarioError, match=r"data.partition: must be one of iid, dirichlet, nat"):
        from_dict(asked)
    asked["data"]["partition"] = "iid"
    if unit == "record":
        with pytest.raises(ScenarioError, match=r"privacy.expected_batch: must be set"):
            from_dict(asked)
        asked["privacy"]["expected_batch"] = 4
    scenario = from_dict(asked)
    assert any("what your function does" in note for note in scenario.notes)
    assert scenario.data.dataset == "mine.load" and scenario.data.own
