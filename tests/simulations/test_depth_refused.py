"""What cannot be split between weak and strong sites is refused by name, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedlite.scenario import ScenarioError
from simulations.run import check
from tests.simulations.test_depth import planned

OWN = """
from torch import nn
from fedlite.models import Branched


class Other(Branched):
    def early(self):
        early = super().early()
        early.exit = nn.Sequential(self.exit, nn.ReLU()) if {relu} else self.tail
        return early


def make(shape, classes):
    parts = nn.Flatten(), nn.Linear(64, classes), nn.Linear(64, classes)
    return Other(*parts, shape=shape, classes=classes)


def plain(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def batch_norm(shape, classes):
    stem = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))
    heads = nn.Linear(8, classes), nn.Linear(8, classes)
    return Branched(stem, *heads, shape=shape, classes=classes)
"""
REFUSED: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "all": (
        {"federation": {"weak_sites": "site-01, site-02, site-03, site-04"}},
        "a tail that no site trains never moves",
    ),
    "both keys": ({"federation": {"weak": 0.5}}, "drawn or named"),
    "a stranger": (
        {"federation": {"members": "a, b, c, d", "weak_sites": "e"}},
        "must be among federation.members",
    ),
    "median": ({"federation": {"strategy": "median", "quorum": 4}}, "got 'median'; use fedavg"),
    "feddyn": (
        {
            "federation": {"strategy": "feddyn"},
            "training": {"objective": "feddyn", "steps": 3, "learning_rate": 0.1},
        },
        "must keep nothing",
    ),
    "scaffold": ({"training": {"objective": "scaffold"}}, "must keep nothing"),
    "plain": ({"model": {"name": "own.py:plain"}}, "must have a shallow branch"),
    "batch norm": ({"model": {"name": "own.py:batch_norm"}}, "nothing may travel behind the model"),
    "another answer": ({"model": {"name": "own.py:make"}}, "must answer as its shallow branch"),
}


@pytest.mark.parametrize(("tables", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_split_is_refused_by_name(
    tmp_path: Path, tables: dict[str, dict[str, Any]], message: str
) -> None:
    (tmp_path / "own.py").write_text(OWN.format(relu=False))
    if "model" in tables:
        tables = tables | {"model": {"name": f"{tmp_path}/{tables['model']['name']}"}}
    with pytest.raises((ScenarioError, ValueError), match=message):
        check(planned(**tables))


def test_an_early_model_of_other_tensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.format(relu=True))
    with pytest.raises(ValueError, match="the trained tensors of its `early` must be some"):
        check(planned(model={"name": f"{tmp_path}/own.py:make"}))
