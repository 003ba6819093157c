"""Every task's loss and scores against other libraries and sums by hand.

Covers fedlite/tasks/classification.py, fedlite/tasks/curves.py, fedlite/tasks/interface.py,
fedlite/tasks/language.py, fedlite/tasks/multilabel.py, fedlite/tasks/regression.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from fedlite.tasks import TASKS, make
from fedlite.tasks.interface import Task

RECORDS, WIDTH, OWNERS = 90, 3, 4


def given(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers, targets and owners; the last owner has no record."""
    rng = np.random.default_rng(seed)
    answers = rng.normal(size=(RECORDS, WIDTH))
    targets = {
        "classification": rng.integers(0, WIDTH, RECORDS),
        "multilabel": (answers + rng.normal(size=answers.shape) > 0.3).astype(np.float32),
        "causal-lm": np.zeros((RECORDS, WIDTH), np.float32),
        "regression": (answers + rng.normal(size=answers.shape)).astype(np.float32),
    }[name]
    if name == "causal-lm":
        answers = np.abs(answers)  # losses
    return answers, targets, rng.integers(0, OWNERS - 1, RECORDS)


@pytest.mark.parametrize("name", TASKS)
def test_a_record_s_loss_is_its_own_and_grows_with_the_error(name: str) -> None:
    task = make(name)
    answers, targets, _ = given(name)
    x, y = torch.tensor(answers, dtype=torch.float32), torch.tensor(targets)
    losses = task.loss(x, y)
    assert losses.shape == (RECORDS,) and bool((losses >= 0).all())
    for row in (0, 17):
        assert torch.allclose(task.loss(x[row : row + 1], y[row : row + 1])[0], losses[row])
    made_up = task.made_up(5, WIDTH)
    assert made_up.shape[0] == 5 and task.loss(x[:5], made_up).shape == (5,)


def test_regression_is_half_the_mean_squared_error() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert float(make("regression").loss(x, y)) == pytest.approx(0.5 * (1 + 4) / 2)


@pytest.mark.parametrize("name", TASKS)
def test_a_branch_does_not_diverge_from_itself_and_does_from_another(name: str) -> None:
    task, answers = make(name), torch.tensor(given(name)[0])
    zero = task.divergence(answers, answers, 2.0)
    assert torch.allclose(zero, torch.zeros(RECORDS, dtype=zero.dtype), atol=1e-9)
    assert bool((task.divergence(answers, answers.flip(0), 2.0) >= -1e-9).all())
    # Its least is where student and teacher agree: the slope there is zero.
    student: Tensor = answers.clone().requires_grad_()
    task.divergence(student, answers, 3.0).sum().backward()
    assert student.grad is not None and float(student.grad.abs().max()) < 1e-9


def owned(task: Task, name: str, scale: np.ndarray | None = None) -> dict[str, np.ndarray]:
    answers, targets, owners = given(name)
    return task.scores(answers, targets, owners, OWNERS, scale)


def test_regression_scores_are_scikit_learn_s_in_the_targets_units() -> None:
    answers, targets, owners = given("regression")
    scale = np.array([[0.0, -10.0, 100.0], [10.0, 10.0, 500.0]])
    found = owned(make("regression"), "regression", scale)
    unit = (scale[1] - scale[0]) / 2
    for owner in range(OWNERS - 1):
        a, t = answers[owners == owner], targets[owners == owner]
        assert found["r2"][owner] == pytest.approx(metrics.r2_score(t, a), rel=1e-6)
        mae = metrics.mean_absolute_error(t * unit, a * unit)
        assert found["mae"][owner] == pytest.approx(mae, rel=1e-6)
        rmse = metrics.root_mean_squared_error(t * unit, a * unit)
        assert found["rmse"][owner] == pytest.approx(rmse, rel=1e-6)
    assert all(np.isnan(values[-1]) for values in found.values())


def test_multilabel_scores_are_scikit_learn_s() -> None:
    answers, targets, owners = given("multilabel")
    found = owned(make("multilabel"), "multilabel")
    for owner in range(OWNERS - 1):
        a, t = answers[owners == owner], targets[owners == owner]
        f1 = metrics.f1_score(t, a > 0, average="micro")
        assert found["f1"][owner] == pytest.approx(f1)
        assert found["accuracy"][owner] == pytest.approx(((a > 0) == t).mean())
        assert found["auc"][owner] == pytest.approx(metrics.roc_auc_score(t, a, average="macro"))


def test_classification_scores_are_scikit_learn_s() -> None:
    answers, targets, owners = given("classification")
    found = owned(make("classification"), "classification")
    assert sorted(found) == ["accuracy"]
    for owner in range(OWNERS - 1):
        a, t = answers[owners == owner], targets[owners == owner]
        assert found["accuracy"][owner] == pytest.approx(metrics.accuracy_score(t, a.argmax(1)))
    two = make("classification").scores(answers[:, :2], targets % 2, owners, OWNERS)
    mine = owners == 1
    area = metrics.roc_auc_score(targets[mine] % 2, answers[mine, 1] - answers[mine, 0])
    assert two["auc"][1] == pytest.approx(area)


def test_perplexity_is_torchmetrics_formula_for_records_that_count_the_same() -> None:
    """The exponential of the mean over records of the mean cross-entropy of each one's tokens."""
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(size=(6, 9, 20)))
    tokens = torch.tensor(rng.integers(0, 20, (6, 9)))
    per_token = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens.flatten(), reduction="none"
    ).reshape(6, 9)
    answers, task = per_token.mean(dim=1, keepdim=True), make("causal-lm")
    assert torch.equal(task.loss(answers, task.made_up(6, 1)), answers[:, 0])
    owners = np.array([0, 0, 1, 1, 1, 0])
    found = task.scores(answers.numpy(), np.zeros((6, 1)), owners, 3)
    for owner in (0, 1):
        mean = float(answers[owners == owner].mean())
        assert found["nll"][owner] == pytest.approx(mean)
        assert found["perplexity"][owner] == pytest.approx(np.exp(mean))
    assert np.isnan(found["perplexity"][2])
    # A uniform guess has the perplexity of its vocabulary.
    even = np.full((4, 1), np.log(20))
    none = np.zeros(4, np.int64)
    assert task.scores(even, even, none, 1)["perplexity"][0] == pytest.approx(20)


@pytest.mark.parametrize("name", TASKS)
def test_answers_that_are_no_numbers_are_a_bad_score_and_no_error(name: str) -> None:
    answers, targets, owners = given(name)
    answers[::2], answers[1::4] = np.nan, np.inf
    found = make(name).scores(answers, targets, owners, OWNERS)
    assert all(np.isfinite(values[:-1]).all() for values in found.values())


def test_an_unknown_task_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"task\.name: must be one of .*; did you mean regression"):
        make("regresion")
