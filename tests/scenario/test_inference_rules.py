"""Calibration is refused where its counts would tell of private records, or nobody counts."""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.scenario import from_dict
from tests.scenario.tables import PRIVATE, refusal

KEPT = {"calibration": 0.1}


def test_it_is_off_by_default_and_on_with_one_key() -> None:
    assert from_dict({}).inference.calibration == 0
    chosen = from_dict({"inference": KEPT}).inference
    assert (chosen.router, chosen.alpha, chosen.confidence) == ("confidence", 0.01, 0.95)
    assert chosen.threshold == "pooled" and chosen.labels


@pytest.mark.parametrize(
    ("tables", "key", "rule"),
    [
        (
            {"privacy": PRIVATE, "training": {"steps": 1}},
            "inference.calibration",
            "counts on private records may not leave a site without noise and a charge",
        ),
        (
            {"privacy": PRIVATE | {"simulate_seed": 1}, "training": {"steps": 1}},
            "inference.calibration",
            "counts on private records",
        ),
        (
            {"task": {"name": "multilabel"}},
            "inference.calibration",
            "is for classification, and task.name is multilabel",
        ),
        (
            {"privacy": {"unit": "client", "epsilon": 3.0}, "inference": {"epsilon": 1.0}},
            "inference.calibration",
            "one client's counts are of all its records",
        ),
        (
            {"inference": {"epsilon": 1.0}},
            "inference.epsilon",
            "where updates leave without noise no ledger is kept",
        ),
        (
            {
                "privacy": PRIVATE,
                "training": {"steps": 1},
                "inference": {"epsilon": 1.0, "threshold": "shrunk"},
            },
            "inference.threshold",
            "of a mixture of noised counts no bound is known",
        ),
        (
            {
                "privacy": PRIVATE | {"noise_at": "shared"},
                "training": {"steps": 1},
                "inference": {"epsilon": 1.0},
            },
            "inference.calibration",
            "a site's counts leave with its own noise alone",
        ),
        (
            {"inference": {"risk": "loss", "labels": False}},
            "inference.risk",
            "only a label tells what gains",
        ),
        (
            {"inference": {"risk": "loss", "threshold": "shrunk"}},
            "inference.risk",
            "the test of a loss is of whole records",
        ),
        (
            {
                "privacy": PRIVATE,
                "training": {"steps": 1},
                "inference": {"epsilon": 1.0, "risk": "loss"},
            },
            "inference.risk",
            "noised counts tell harm alone",
        ),
        (
            {"data": {"test_fraction": 0.0}, "inference": {"threshold": "site"}},
            "inference.threshold",
            "must be pooled when data.test_fraction is 0",
        ),
    ],
)
def test_what_it_does_not_go_with(tables: dict[str, Any], key: str, rule: str) -> None:
    text = refusal(tables | {"inference": KEPT | tables.get("inference", {})})
    assert key in text and rule in text


def test_private_records_are_counted_where_noise_is_paid_for_and_sites_may_hold_them() -> None:
    tables = {"privacy": PRIVATE, "training": {"steps": 1}}
    chosen = from_dict(tables | {"inference": KEPT | {"epsilon": 1.0}}).inference
    assert chosen.epsilon == 1 and chosen.threshold == "pooled"
    table = {"name": "csv", "labels": "a,b", "columns": "c,d"}
    assert from_dict({"data": table, "inference": KEPT}).inference.calibration == 0.1


@pytest.mark.parametrize(
    "key", ["router", "alpha", "confidence", "threshold", "labels", "risk", "epsilon"]
)
def test_a_key_that_would_do_nothing_is_an_error(key: str) -> None:
    values = {"router": "margin", "alpha": 0.2, "confidence": 0.9, "threshold": "site"}
    values |= {"epsilon": 1.0, "risk": "loss"}
    text = refusal({"inference": {key: values.get(key, False)}})
    assert f"inference.{key}: must be left out unless inference.calibration is above 0" in text


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("calibration", 0.6, "from 0.0 to 0.5"),
        ("alpha", 0.0, "greater than 0 and less than 1"),
        ("confidence", 1.0, "greater than 0 and less than 1"),
        ("threshold", "each", "one of pooled, site, shrunk"),
    ],
)
def test_values_out_of_range(key: str, value: object, rule: str) -> None:
    assert f"inference.{key}: must be {rule}" in refusal({"inference": KEPT | {key: value}})
