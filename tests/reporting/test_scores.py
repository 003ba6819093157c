from __future__ import annotations

import math

import pytest

from fedlite.reporting import scores
from fedlite.reporting.record import RoundRecord

SUMMARY = {
    "accuracy": {
        "deep": 0.9,
        "records": 360,
        "by_site": {"a": {"deep": 1.0, "records": 1}, "b": {"deep": 0.5, "records": 3}},
    },
    "auc": {"deep": 0.8, "by_site": {"a": {"deep": 0.7}, "b": {"deep": 0.6}}},
}


def test_a_score_is_read_by_its_name() -> None:
    record = RoundRecord(1, 1, accuracy={"deep": 0.9}, auc={})
    assert scores.of_round(record, "accuracy.deep") == 0.9
    assert scores.of_round(record, "auc.deep") is None
    assert scores.of_round(record, "nonsense.deep") is None
    assert scores.of_summary(SUMMARY, "auc.deep") == 0.8
    assert scores.of_summary({"accuracy": {"deep": math.nan}}, "accuracy.deep") is None
    # A count is no score of a branch.
    assert scores.of_round(RoundRecord(1, 1, dropped={"a": "data"}), "dropped.a") is None


def test_the_scores_of_any_task_are_read_alike() -> None:
    record = RoundRecord(1, 1, scores={"r2": {"deep": 0.5}, "mae": {"deep": 3.0}})
    assert scores.of_round(record, "mae.deep") == 3.0 and scores.less_is_better("mae.deep")
    assert scores.usual(record.measured) == "r2.deep"
    by_site = {"a": {"deep": 2.0}, "b": {"deep": 4.0}}
    summary = {"accuracy": {"by_site": {}}, "scores": {"mae": {"deep": 2.5, "by_site": by_site}}}
    assert scores.of_summary(summary, "mae.deep") == 2.5
    assert scores.held_out(summary, "mae.deep") == 3.0
    assert scores.names(record.measured) == ["mae.deep", "r2.deep"]


def test_what_sites_hold_out_counts_each_record_once_and_each_auc_once() -> None:
    # (1 * 1.0 + 3 * 0.5) / 4, and (0.7 + 0.6) / 2, by hand.
    assert scores.held_out(SUMMARY, "accuracy.deep") == 0.625
    assert scores.held_out(SUMMARY, "auc.deep") == pytest.approx(0.65)
    assert scores.held_out({"accuracy": {"by_site": {}}}, "accuracy.deep") is None
    assert scores.held_out({"accuracy": {}}, "auc.deep") is None


def test_of_a_loss_less_is_better_and_nothing_is_better_than_no_number() -> None:
    assert scores.better("accuracy.deep", 0.2, 0.1) and not scores.better("accuracy.deep", 0.1, 0.1)
    assert scores.better("loss.deep", 0.1, 0.2)
    assert scores.better("auc.deep", 0.1, math.nan)
    assert not scores.better("loss.deep", math.nan, math.nan)
    assert not scores.better("auc.deep", math.nan, 0.1)
