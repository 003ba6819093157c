"""From a scenario's data settings to records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import entries
from fedlite.data.spread import load_source, share_out, spread
from fedlite.scenario import Data, Federation, Scenario
from fedlite.scenario.links import TABLES
from fedlite.scenario.records import OWN


def test_the_labels_and_the_shape_of_the_scenario_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("a,b,ill\n1,2,yes\n3,4,no\n5,6,yes\n7,8,no\n")
    data = Data(
        name="csv",
        path=str(path),
        target="ill",
        shape="2x1",
        labels="yes, maybe, no",
        test_fraction=0.0,
        scaling="none",
    )
    source, (site,) = spread(Scenario(Federation(sites=1), data))
    assert source.labels == ("yes", "maybe", "no") and source.classes == 3
    assert source.train.y.tolist() == [0, 2, 0, 2] and site.train.x.shape == (4, 2, 1)
    with pytest.raises(ValueError, match=r"the label must be one of yes, maybe, got 'no'"):
        load_source(Data(name="csv", path=str(path), target="ill", labels="yes,maybe"))


def test_labels_are_for_a_file_only() -> None:
    with pytest.raises(ValueError, match=r"labels: is only for data 'csv'"):
        load_source(Data(labels="0,1"))


def test_unix_times_keep_their_seconds(tmp_path: Path) -> None:
    """A minute used to become one value: float32 came before the centring."""
    path = tmp_path / "own.csv"
    rows = [f"{1_700_000_000 + n},{20240101 + n},{n % 2}" for n in range(60)]
    path.write_text("t,day,y\n" + "\n".join(rows) + "\n")
    data = Data(name="csv", path=str(path), target="y", test_fraction=0.0)
    (site,) = spread(Scenario(Federation(sites=1), data))[1]
    expected = (np.arange(60) - 29.5) / np.arange(60).std()
    for column in range(2):
        assert np.allclose(np.sort(site.train.x[:, column]), expected, atol=1e-5)
    assert site.train.x.dtype == np.float32 and not site.train.raw


def test_public_ranges_take_the_place_of_scaling(tmp_path: Path) -> None:
    """One record more or less changes no other, as it does when a site scales by its own."""
    path = tmp_path / "own.csv"
    lines = [f"{20 + 3 * n},{n % 4},{'no' if n % 2 else 'yes'}" for n in range(20)]
    data = Data(
        name="csv",
        path=str(path),
        target="ill",
        labels="no,yes",
        ranges="age 0:120, dose 0:5",
        test_fraction=0.0,
    )

    def records(lines: list[str], data: Data) -> list[bytes]:
        path.write_text("age,dose,ill\n" + "\n".join(lines) + "\n")
        spread_out = share_out(load_source(data, settled=True), data, 1, 1, private=True)
        return [row.tobytes() for row in spread_out[0].train.x]

    whole = records(lines, data)
    for n in range(20):
        assert records(lines[:n] + lines[n + 1 :], data) == whole[:n] + whole[n + 1 :]
    values = np.frombuffer(b"".join(whole), np.float32).reshape(20, 2)
    assert np.allclose(values[:, 0], [(20 + 3 * n) / 60 - 1 for n in range(20)], atol=1e-6)
    assert records([",,no"], data) == [np.zeros(2, np.float32).tobytes()]
    by_site = replace(data, ranges="")
    one_less = records(lines[1:], by_site)
    assert not set(one_less) & set(records(lines, by_site))


def test_which_sources_are_ones_own_is_said_in_one_place() -> None:
    assert {entry.name for entry in entries() if entry.own} == set(OWN)
    assert {entry.name for entry in entries() if entry.table} == set(TABLES)
