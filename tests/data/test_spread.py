"""From a scenario's data settings to records."""

from pathlib import Path

import pytest

from fedlite.data.spread import load_source, spread
from fedlite.scenario import Data, Federation, Scenario


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
