"""What is said of a model equals what scikit-learn says of its answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, mean_absolute_error, roc_auc_score

from fedlite.evaluation import Trained, evaluate, held_out, predict, read


def people(trained: Trained) -> Path:
    return Path(trained.scenario.data.path)


def rows(trained: Trained) -> list[dict[str, str]]:
    with people(trained).open() as lines:
        return list(csv.DictReader(lines))


@pytest.mark.long
def test_a_classifier_s_figures_are_scikit_learn_s(sick: Trained) -> None:
    records = read(sick, people(sick), columns=("sex",))
    found = evaluate(sick, records, group=("sex",)).told
    told = predict(sick, records)
    assert told.probabilities is not None
    true = [row["sick"] for row in rows(sick)]
    scores = found["scores"]["deep"]
    assert scores["accuracy"] == pytest.approx(accuracy_score(true, told.labels))
    ranked = told.probabilities[:, 1]
    assert scores["auc"] == pytest.approx(roc_auc_score(np.array(true) == "yes", ranked))
    assert found["confusion"] == confusion_matrix(true, told.labels).tolist()
    women = [at for at, row in enumerate(rows(sick)) if row["sex"] == "f"]
    accuracy = found["groups"]["sex"][0]["groups"]["f"]
    assert accuracy["records"] == len(women)
    assert accuracy["value"] == pytest.approx(
        accuracy_score([true[at] for at in women], [told.labels[at] for at in women])
    )
    site = found["sites"]["h1"]
    assert site["records"] == 80
    own = slice(1, None, 3)
    assert site["deep"]["accuracy"] == pytest.approx(accuracy_score(true[own], told.labels[own]))
    assert "branch" in found and json.loads(json.dumps(found)) == found


@pytest.mark.long
def test_a_regression_s_errors_are_in_its_own_units(doses: Trained) -> None:
    records = read(doses, people(doses), columns=("sex",))
    found = evaluate(doses, records, group=("sex",))
    told = predict(doses, records)
    assert told.values is not None and found.values is not None
    true = np.array([[float(row[name]) for name in ("dose", "days")] for row in rows(doses)])
    for at, name in enumerate(("dose", "days")):
        errors = found.told["errors"][name]
        assert errors["mae"] == pytest.approx(
            mean_absolute_error(true[:, at], told.values[:, at]), rel=1e-4
        )
        assert errors["bias"] == pytest.approx((told.values - true)[:, at].mean(), abs=1e-3)
    assert [row["rate"] for row in found.told["groups"]["sex"]] == [
        "mean absolute error, dose",
        "mean absolute error, days",
    ]
    assert "confusion" not in found.told and "calibration" not in found.told


@pytest.mark.long
def test_corruptions_take_their_toll(each: Trained, digits: Trained) -> None:
    found = evaluate(each, read(each, people(each)), corrupt=("noise", "missing")).told
    main = {"classification": "accuracy", "regression": "r2", "multilabel": "f1"}
    key = main[each.scenario.task.name]
    clean = found["scores"]["deep"][key]
    for name in ("noise", "missing"):
        worst = found["corruptions"][name]["3"]["deep"][key]
        assert worst < clean - 0.02, name
    spoilt = evaluate(digits, held_out(digits), corrupt=("rotation",)).told
    levels = [spoilt["corruptions"]["rotation"][s]["deep"]["accuracy"] for s in "123"]
    assert spoilt["scores"]["deep"]["accuracy"] > levels[1] > levels[2]


def test_unanswered_records_other_branches_and_unknown_groups_are_told(sick: Trained) -> None:
    unanswered = read(sick, people(sick), answered=False)
    with pytest.raises(ValueError, match=r"must have what the model should answer"):
        evaluate(sick, unanswered)
    with pytest.raises(ValueError, match=r"--branch: must be one of shallow, deep"):
        evaluate(sick, held_out(sick), branch="wide")
    with pytest.raises(ValueError, match=r"--group: must be a column of the records, got 'sex'"):
        evaluate(sick, held_out(sick), group=("sex",))
    with pytest.raises(ValueError, match=r"must have one column 'size'"):
        held_out(sick, ("size",))


def test_groups_of_what_was_held_out_are_the_records_own(sick: Trained) -> None:
    plain, found = held_out(sick), held_out(sick, ("sex", "ward"))
    np.testing.assert_array_equal(plain.data.x, found.data.x)
    np.testing.assert_array_equal(plain.data.y, found.data.y)
    told = evaluate(sick, found, group=("sex", "ward")).told["groups"]
    # The sex is a feature too, scaled by each site: above its mean where it holds.
    women = found.data.x[:, 2] > 0
    assert [sex == "f" for sex in found.columns["sex"]] == women.tolist()
    assert told["sex"][0]["groups"]["f"]["records"] == women.sum()
    assert set(told["ward"][0]["groups"]) == {"a", "b"}


def test_records_that_were_trained_on_are_told(sick: Trained) -> None:
    assert "most of which it has trained on" in read(sick, people(sick)).notes[0]
    assert not held_out(sick).notes


def test_the_shallow_branch_can_be_looked_at(sick: Trained) -> None:
    found = evaluate(sick, held_out(sick), branch="shallow").told
    shares = np.array(found["confusion"])
    assert shares.trace() / shares.sum() == pytest.approx(found["scores"]["shallow"]["accuracy"])
