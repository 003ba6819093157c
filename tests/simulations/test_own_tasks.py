"""A federation of each task equals a plain loop, and its record says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite import plan as plans
from fedlite.data.spread import spread
from fedlite.evaluation import evaluate, open_model, read
from fedlite.models.files import read_vector
from fedlite.scenario import Scenario, ScenarioError, from_dict
from simulations.run import simulate

Matrix = NDArray[np.float64]
RATE, ROUNDS = 0.5, 3
OWN = (
    "from torch import nn\n\n\ndef net(shape, classes):\n    return nn.Linear(shape[0], classes)\n"
)
TARGETS = {"classification": "kind", "regression": "p, q", "multilabel": "l, m"}


def table(path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = ["site,a,b,c,kind,p,q,l,m"]
    for number in range(120):
        a, b, c = x = rng.normal(size=3)
        kind = "uvw"[int(np.argmax(x))]
        p, q = 100 + 30 * a - 10 * b, 5 * c + rng.normal()
        told = ",".join(f"{v:.4f}" for v in (a, b, c))
        rows.append(f"h{number % 2},{told},{kind},{p:.3f},{q:.3f},{int(a > b)},{int(c > 0.5)}")
    path.write_text("\n".join(rows) + "\n")


def scenario(folder: Path, task: str, /, **more: dict[str, object]) -> Scenario:
    table(folder / "t.csv")
    (folder / "mine.py").write_text(OWN)
    drop = [name for name in "kind p q l m".split() if name not in TARGETS[task]]
    dense = {"compressor": "dense", "values": "fp32"}
    tables: dict[str, dict[str, object]] = {
        "federation": {"sites": 2, "rounds": ROUNDS},
        "data": {
            "name": "csv",
            "path": str(folder / "t.csv"),
            "target": TARGETS[task],
            "partition": "natural",
            "drop": ", ".join(drop),
        },
        "task": {"name": task},
        "model": {"name": f"{folder / 'mine.py'}:net"},
        "training": {"epochs": 1, "batch_size": 1000, "learning_rate": RATE},
        "uplink": dense,
        "downlink": dense,
    }
    for section, keys in more.items():
        tables[section] = tables.get(section, {}) | keys
    return from_dict(tables)


def slope(task: str, answers: Matrix, targets: Matrix) -> Matrix:
    """The gradient of the mean loss with respect to the answers, by formula."""
    n, width = answers.shape
    if task == "regression":
        return (answers - targets) / width / n
    if task == "multilabel":
        return (1 / (1 + np.exp(-answers)) - targets) / width / n
    powers = np.exp(answers - answers.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True) - np.eye(width)[targets]) / n


@pytest.mark.long
@pytest.mark.parametrize("task", TARGETS)
def test_dense_averaging_equals_a_plain_loop(tmp_path: Path, task: str) -> None:
    asked = scenario(tmp_path, task)
    simulate(asked, tmp_path / "run", engine="serial", quiet=True)
    source, sites = spread(asked)
    plan = plans.of(asked, source.shape, source.classes)
    weight, bias = np.split(plan.initial.astype(float), [source.classes * 3])
    weight = weight.reshape(source.classes, 3)
    for _ in range(ROUNDS):
        steps = []
        for site in sites:
            x = site.train.x.astype(float)
            towards = slope(task, x @ weight.T + bias, site.train.y)
            steps.append((towards.T @ x, towards.sum(axis=0)))
        weight = weight - RATE * np.mean([w for w, _ in steps], axis=0)
        bias = bias - RATE * np.mean([b for _, b in steps], axis=0)
    found = read_vector(tmp_path / "run", plan.layout)
    assert np.abs(found - np.concatenate([weight.ravel(), bias])).max() < 1e-6


MINE = """
from fedlite.tasks.classification import Classification
from fedlite.tasks.multilabel import MultiLabel
from fedlite.tasks.regression import Regression

class OfClasses(Classification): "As it is."
class OfNumbers(Regression): "As it is."
class OfLabels(MultiLabel): "As it is."
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("classification", "OfClasses"),
        ("regression", "OfNumbers"),
        ("multilabel", "OfLabels"),
    ],
)
def test_a_task_of_one_s_own_says_what_its_records_hold(
    tmp_path: Path, task: str, name: str
) -> None:
    """By its name alone every one was taken for a task of classes."""
    (tmp_path / "tasks.py").write_text(MINE)
    own = {"name": f"{tmp_path / 'tasks.py'}:{name}", "like": task}
    house, mine = scenario(tmp_path, task), scenario(tmp_path, task, task=own)
    assert mine.classifies == house.classifies and mine.task.reads == task
    for which, asked in (("house", house), ("mine", mine)):
        simulate(asked, tmp_path / which, engine="serial", quiet=True)
    names = [(tmp_path / which / "model.safetensors") for which in ("house", "mine")]
    assert names[0].read_bytes() == names[1].read_bytes()
    trained = open_model(tmp_path / "mine")
    found = evaluate(trained, read(trained, tmp_path / "t.csv"))
    house_found = open_model(tmp_path / "house")
    theirs = evaluate(house_found, read(house_found, tmp_path / "t.csv"))
    assert found.told["scores"] == theirs.told["scores"]


def test_a_task_and_its_scenario_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(MINE)
    own = {"name": f"{tmp_path / 'tasks.py'}:OfNumbers"}
    for more in ({}, {"like": "multilabel"}):
        asked = scenario(tmp_path, "regression", task=own | more)
        with pytest.raises(ValueError, match=r"task.like: must be 'regression'.*tasks.py, line 7"):
            simulate(asked, tmp_path / "run", engine="serial", quiet=True)
    with pytest.raises(ScenarioError, match=r"task.like: must be empty for regression"):
        scenario(tmp_path, "regression", task={"like": "multilabel"})


@pytest.mark.long
def test_a_regression_s_record_speaks_of_its_scores(tmp_path: Path) -> None:
    keys = {"rounds": 12}
    simulate(scenario(tmp_path, "regression", federation=keys), tmp_path / "run", quiet=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["task"] == "regression" and "deep" not in summary["accuracy"]
    assert sorted(summary["scores"]) == ["mae", "r2", "rmse"]
    assert summary["scores"]["r2"]["deep"] > 0.5 and "shallow" not in summary["scores"]["r2"]
    assert sorted(summary["scores"]["r2"]["by_site"]) == ["h0", "h1"]
    last = json.loads((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()[-1])
    assert last["scores"]["r2"] == pytest.approx({"deep": summary["scores"]["r2"]["deep"]})
    page = (tmp_path / "run" / "report.html").read_text()
    # It has one branch, and so none is named.
    assert "R²" in page and "deep" not in page and "shallow" not in page
    told = json.loads((tmp_path / "run" / "model.json").read_text())
    assert told["branches"] == ["deep"] and told["task"] == "regression"


@pytest.mark.long
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_a_private_one_claims_its_epsilon(tmp_path: Path, task: str) -> None:
    ranges = {"ranges": "-4:4"} | ({"target_ranges": "p 0:200, q -20:20"} if task[0] == "r" else {})
    asked = scenario(
        tmp_path,
        task,
        data=ranges,
        training={"steps": 2},
        privacy={"unit": "record", "clip": 0.5, "expected_batch": 40, "delta": 1e-3},
    )
    simulate(asked, tmp_path / "run", engine="serial", quiet=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all(0 < s["epsilon"]["pld"] <= 3 for s in summary["privacy"]["sites"].values())
    assert summary["privacy"]["claimed"] is True
