"""Covers fedlite/data/entry.py, fedlite/data/sources/digits.py."""

from pathlib import Path

import numpy as np
import pytest

from fedlite.data import available, entries, fetch, load
from fedlite.scenario.records import OWN
from fedlite.scenario.tabular import Columns


def test_every_entry_says_what_a_person_needs() -> None:
    names = [entry.name for entry in entries()]
    assert names == ["digits", "fashion-mnist", "heart-disease", "sentiment", *OWN]
    for entry in entries():
        assert entry.what and entry.licence and entry.how


@pytest.mark.parametrize("call", [load, available])
def test_an_unknown_name_lists_the_known_ones(call: object) -> None:
    with pytest.raises(ValueError, match=r"must be one of csv, digits, fashion-mnist.*got 'mnist'"):
        call("mnist")  # type: ignore[operator]


@pytest.mark.parametrize("key", ["path", "target", "shape", "labels"])
def test_settings_of_csv_are_refused_elsewhere(key: str) -> None:
    value = (1, 2) if key == "shape" else ("a", "b") if key == "labels" else "x"
    with pytest.raises(ValueError, match=rf"{key}: is only for data 'csv'.*with 'digits'"):
        load("digits", **{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("minlm", "did you mean minilm?"),
        ("fashion", "did you mean fashion-mnist?"),
        ("s", "smollm2"),
    ],
)
def test_what_cannot_be_fetched_names_what_can(name: str, mend: str) -> None:
    with pytest.raises(ValueError, match="NAME: no such source or base model") as caught:
        fetch(name)
    assert str(caught.value).endswith(mend)
    with pytest.raises(ValueError, match="the known ones are") as caught:
        fetch("zzz")
    assert "minilm" in str(caught.value) and "csv" not in str(caught.value)


def test_csv_needs_a_path_and_has_nothing_to_fetch() -> None:
    assert available("csv")
    with pytest.raises(ValueError, match="path: csv needs"):
        load("csv")
    with pytest.raises(ValueError, match="nothing to fetch"):
        fetch("csv")


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    source = load("digits")
    assert source.test is not None
    assert (len(source.train), len(source.test)) == (1437, 360)
    assert source.train.x.shape[1:] == (1, 8, 8) == source.shape
    reference = load_digits()
    mine = np.concatenate([source.train.x, source.test.x]).reshape(-1, 64)
    labels = np.concatenate([source.train.y, source.test.y])
    theirs = sorted(
        (tuple(x), y) for x, y in zip(reference.data / 16, reference.target, strict=True)
    )
    assert sorted((tuple(x), y) for x, y in zip(mine.astype(float), labels, strict=True)) == theirs
    assert Path(fetch("digits")).is_file() and available("digits")


def test_the_digits_test_set_is_stratified_and_fixed() -> None:
    first, second = load("digits"), load("digits")
    assert first.test is not None and second.test is not None
    assert np.array_equal(first.test.x, second.test.x)
    share = np.bincount(first.test.y) / (np.bincount(first.test.y) + np.bincount(first.train.y))
    assert np.all(np.abs(share - 0.2) < 0.006)


def test_how_to_read_a_table_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match=r"columns: 'digits' has columns of its own"):
        load("digits", columns=Columns(drop=("a",)))
