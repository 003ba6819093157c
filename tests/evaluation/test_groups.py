"""Gaps between groups: counted by hand, and what is called beyond chance."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.evaluation.groups import compare, compare_errors, rates_of, rates_of_labels


def test_rates_of_two_classes_are_counted_by_hand() -> None:
    #        f: 2 of 3 found, 1 of 2 wrongly    m: 1 of 1 found, 0 of 2 wrongly
    true = np.array([1, 1, 1, 0, 0, 1, 0, 0])
    told = np.array([1, 1, 0, 1, 0, 1, 0, 0])
    sex = tuple("fffffmmm")
    rows = {row["rate"]: row for row in compare(sex, rates_of(told, true, ("no", "yes")))}
    assert list(rows) == ["accuracy", "true positive rate of yes", "false positive rate of yes"]
    accuracy = rows["accuracy"]["groups"]
    assert (accuracy["f"]["value"], accuracy["f"]["records"]) == (0.6, 5)
    assert accuracy["m"]["value"] == 1.0
    found = rows["true positive rate of yes"]
    assert found["groups"]["f"]["value"] == pytest.approx(2 / 3)
    assert (found["gap"]["to"], found["gap"]["from"]) == ("m", "f")
    assert found["gap"]["value"] == pytest.approx(1 / 3)
    wrongly = rows["false positive rate of yes"]
    assert wrongly["groups"]["f"] | {"low": 0, "high": 0} == {
        "value": 0.5,
        "low": 0,
        "high": 0,
        "records": 2,
    }
    assert not any(row["gap"]["beyond_chance"] for row in rows.values())


def test_of_more_classes_each_has_its_rates() -> None:
    rates = rates_of(np.array([0, 1, 2]), np.array([0, 1, 1]), ("a", "b", "c"))
    assert len(rates) == 7
    among, hits = rates["false positive rate of c"]
    assert (among & hits).sum() == 1 and among.sum() == 3


def test_labels_have_rates_of_their_own() -> None:
    told, true = np.array([[True, False], [False, True]]), np.array([[True, True], [False, True]])
    rates = rates_of_labels(told, true, ("x", "y"))
    among, hits = rates["true positive rate of y"]
    assert (hits & among).sum() == 1 and among.sum() == 2


def test_a_group_of_nobody_for_a_rate_has_none_and_one_group_no_gap() -> None:
    true, told = np.array([1, 1, 0]), np.array([1, 0, 0])
    rows = {r["rate"]: r for r in compare(("a", "a", "b"), rates_of(told, true, ("no", "yes")))}
    found = rows["true positive rate of yes"]
    assert list(found["groups"]) == ["a"] and found["gap"] is None


def test_chance_alone_is_seldom_called_a_gap() -> None:
    rng, called = np.random.default_rng(0), 0
    for _ in range(400):
        hits = rng.random(400) < 0.7
        groups = tuple(rng.choice(list("abcd"), 400))
        (row,) = compare(groups, {"accuracy": (np.ones(400, bool), hits)})
        called += row["gap"]["beyond_chance"]
    # All six pairs together hold at 95 %.
    assert called / 400 < 0.06


def test_a_large_gap_is_called_one() -> None:
    rng = np.random.default_rng(0)
    sex = rng.choice(list("fm"), 600)
    hits = rng.random(600) < np.where(sex == "f", 0.9, 0.7)
    (row,) = compare(tuple(sex), {"accuracy": (np.ones(600, bool), hits)})
    assert row["gap"]["beyond_chance"] and (row["gap"]["to"], row["gap"]["from"]) == ("f", "m")
    assert row["gap"]["low"] < 0.2 < row["gap"]["high"]


def test_errors_are_compared_by_their_means() -> None:
    rng = np.random.default_rng(0)
    sex = rng.choice(list("fm"), 800)
    errors = np.abs(rng.normal(size=800)) * np.where(sex == "f", 1.0, 2.0)
    row = compare_errors(tuple(sex), errors)
    assert row["groups"]["m"]["value"] == pytest.approx(errors[sex == "m"].mean())
    assert row["gap"]["to"] == "m" and row["gap"]["beyond_chance"]
    # The bootstrap's interval is about that of the normal approximation.
    own = errors[sex == "f"]
    half = 1.96 * own.std() / np.sqrt(len(own))
    low, high = row["groups"]["f"]["low"], row["groups"]["f"]["high"]
    assert (low, high) == pytest.approx(
        (own.mean() - half, own.mean() + half), abs=0.1 * half + 1e-3
    )
    assert compare_errors(tuple(sex), errors) == row
