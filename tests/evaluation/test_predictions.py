"""Labels, probabilities and values, as they are answered and as they are written."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax

import fedlite
from fedlite.evaluation import Trained, predict, read
from fedlite.storage import write_rows


def people(trained: Trained) -> Path:
    return Path(trained.scenario.data.path)


def test_classes_have_probabilities(sick: Trained) -> None:
    records = read(sick, people(sick), answered=False)
    for branch in sick.branches:
        found = predict(sick, records, branch)
        assert found.probabilities is not None
        wanted = softmax(sick.answers(records.data)[branch], axis=1)
        np.testing.assert_allclose(found.probabilities, wanted, rtol=1e-12)
        assert found.labels[0] == ("no", "yes")[int(wanted[0].argmax())]
    assert predict(sick, records).branch == "deep"
    with pytest.raises(ValueError, match=r"--branch: must be one of shallow, deep, got 'wide'"):
        predict(sick, records, "wide")


def test_from_python_numbers_are_in_their_own_units(doses: Trained) -> None:
    records = read(doses, people(doses), answered=False)
    run = fedlite.load(doses.directory)
    for branch in doses.branches:
        found = run.answers(records.data.x, branch=branch)
        wanted = predict(doses, records, branch).values
        assert found.dtype == np.float32 and wanted is not None
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_each_task_writes_its_own_columns(each: Trained, tmp_path: Path) -> None:
    records = read(each, people(each), answered=False)
    found = predict(each, records)
    write_rows(tmp_path / "a.csv", found.rows())
    with (tmp_path / "a.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(records) == 240
    task = each.scenario.task.name
    answers = each.answers(records.data)["deep"]
    if task == "regression":
        assert list(rows[0]) == ["record", "site", "dose", "days"] and each.scale is not None
        low, high = each.scale
        wanted = low + (answers + 1) / 2 * (high - low)
        assert float(rows[7]["dose"]) == pytest.approx(wanted[7, 0], rel=1e-5)
        with people(each).open() as lines:
            true = [float(row["dose"]) for row in csv.DictReader(lines)]
        told = [float(row["dose"]) for row in rows]
        assert np.corrcoef(told, true)[0, 1] > 0.95
    elif task == "multilabel":
        assert list(rows[0]) == ["record", "site", "label", "p(pain)", "p(fever)"]
        assert float(rows[3]["p(fever)"]) == pytest.approx(expit(answers[3, 1]), rel=1e-5)
        both = [name for name, a in zip(("pain", "fever"), answers[3], strict=True) if a > 0]
        assert rows[3]["label"] == ", ".join(both)
    else:
        assert list(rows[0]) == ["record", "site", "label", "p(no)", "p(yes)"]
        shares = [float(rows[5][name]) for name in ("p(no)", "p(yes)")]
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)
        assert rows[5]["label"] == ("no", "yes")[int(shares[1] > shares[0])]
    assert [row["record"] for row in rows] == [str(n + 1) for n in range(240)]
    assert [row["site"] for row in rows[:4]] == ["h0", "h1", "h2", "h0"]
