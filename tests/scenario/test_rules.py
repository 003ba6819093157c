"""Rules between keys of a scenario, each named with the key that breaks it.

Covers fedlite/scenario/training_rules.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.scenario import (
    Scenario,
    from_dict,
)
from tests.scenario.tables import PRIVATE, refusal


@pytest.mark.parametrize(
    ("tables", "key", "rule"),
    [
        ({"federation": {"sites": 3, "quorum": 4}}, "federation.quorum", "at most the 3 sites"),
        (
            {"federation": {"sites": 10, "participation": 0.2, "quorum": 3}},
            "federation.quorum",
            "at most the 2 sites",
        ),
        ({"privacy": PRIVATE}, "training.steps", "at least 1"),
        (
            {"selection": {"patience": 3}, "federation": {"evaluate_every": 0}},
            "federation.evaluate_every",
            "at least 1 with selection.patience",
        ),
        (
            {
                "selection": {"keep": "best"},
                "data": {"name": "csv", "labels": "a,b", "columns": "x,y"},
            },
            "selection.keep",
            "nobody there can score a round",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1, "momentum": 0.9}},
            "training.momentum",
            "must be 0 under record-level privacy",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1, "weight_decay": 0.1}},
            "training.weight_decay",
            "must be 0 under record-level privacy",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1, "objective": "fedprox"}},
            "training.objective",
            "must be plain when privacy.unit is record (rule: private steps are plain SGD)",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1, "objective": "mine.py:term"}},
            "training.objective",
            "must be plain when privacy.unit is record",
        ),
        (
            {"privacy": {"unit": "client"}, "training": {"objective": "scaffold"}},
            "training.objective",
            "must be plain or fedprox when privacy.unit is client",
        ),
        (
            {"training": {"objective": "feddyn"}},
            "training.objective",
            "must be feddyn where federation.strategy is, and the other way round",
        ),
        (
            {"federation": {"strategy": "feddyn"}},
            "training.objective",
            "two halves of one method",
        ),
        (
            {
                "training": {"objective": "feddyn"},
                "federation": {"strategy": "feddyn", "server_momentum": 0.9},
            },
            "federation.server_learning_rate",
            "must be 1, and federation.server_momentum 0, with feddyn",
        ),
        (
            {"training": {"objective": "scaffold", "momentum": 0.9}},
            "training.momentum",
            "must be 0 with scaffold",
        ),
        (
            {"training": {"objective": "scaffold"}, "federation": {"weighting": "records"}},
            "federation.weighting",
            "must be uniform with scaffold",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1, "logit_adjustment": True}},
            "training.logit_adjustment",
            "must be false when privacy.unit is record",
        ),
        (
            {"privacy": PRIVATE, "training": {"steps": 1}, "federation": {"weighting": "records"}},
            "federation.weighting",
            "no record count leaves a private site",
        ),
        (
            {
                "privacy": PRIVATE,
                "training": {"steps": 1},
                "data": {"name": "csv", "path": "a", "target": "b"},
            },
            "data.scaling",
            "must be none, or give way to data.ranges",
        ),
        *(
            (
                {
                    "privacy": privacy,
                    "training": {"steps": 1},
                    "data": {"name": "csv", "path": "a", "target": "b", "scaling": "none"},
                },
                "data.labels",
                "one record may not decide which classes there are",
            )
            for privacy in (PRIVATE | {"expected_batch": 5}, {"unit": "client"})
        ),
        ({"data": {"name": "csv"}}, "data.path", "needed"),
        ({"data": {"name": "csv", "shape": "3"}}, "data.labels", "needed"),
        ({"data": {"name": "csv", "labels": "a,b"}}, "data.columns", "needed"),
        ({"data": {"columns": "a,b", "drop": "c"}}, "data.drop", "must be empty"),
        ({"data": {"columns": "a", "dates": "b"}}, "data.dates", "features, got 'b'"),
        ({"data": {"drop": "a", "ranges": "a 0:1"}}, "data.ranges", "features, got 'a'"),
        (
            {"data": {"categories": "a: x, y", "ranges": "a 0:1"}},
            "data.ranges",
            "no column of data.categories",
        ),
        ({"data": {"ranges": "a 1:0"}}, "data.ranges", "LOW < HIGH"),
        ({"data": {"categories": "a"}}, "data.categories", "two or more values"),
        ({"data": {"name": "csv", "path": "a"}}, "data.target", "needed"),
        (
            {
                "privacy": PRIVATE,
                "training": {"steps": 1},
                "data": {"name": "csv", "shape": "3", "labels": "a,b", "scaling": "none"},
            },
            "privacy.expected_batch",
            "must be set when privacy.unit is record",
        ),
        ({"data": {"test_fraction": 0.2, "fold": 5}}, "data.fold", "less than 5"),
        ({"downlink": {"error_feedback": False}}, "downlink.error_feedback", "must be true"),
        ({"downlink": {"aggregate_feedback": 0.5}}, "downlink.aggregate_feedback", "must be 0"),
        (
            {"uplink": {"compressor": "randk", "values": "sign"}},
            "uplink.values",
            "must be fp16 or fp32",
        ),
    ],
)
def test_rules_between_keys(tables: dict[str, Any], key: str, rule: str) -> None:
    text = refusal(tables)
    assert key in text and rule in text and "got" in text


def test_records_at_the_sites_only_are_described_by_shape_and_labels() -> None:
    data = from_dict({"data": {"name": "csv", "shape": "6x100", "labels": "no, 1 ,ja"}}).data
    assert data.at_sites and data.sizes == (6, 100) and data.class_names == ("no", "1", "ja")
    data = from_dict({"data": {"name": "csv", "path": "a.csv", "target": "y"}}).data
    assert not data.at_sites and data.sizes == () and data.class_names == ()
    assert not Scenario().data.at_sites
