"""The loss over a model's branches against hand-made truths."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from fedlite.tasks import TASKS, joint, make

TASK = make("classification")


def logits(seed: int, n: int = 6, classes: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(n, classes, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def test_losses_are_one_value_per_record_and_equal_the_sum_written_out() -> None:
    early, deep = logits(1), logits(2)
    got = joint(TASK, exit_weight=0.3, distill=0.7, temperature=3.0)((early, deep), LABELS)
    assert got.shape == (6,)
    for row in range(6):
        p = [math.exp(float(v) / 3.0) for v in deep[row]]
        s = [math.exp(float(v) / 3.0) for v in early[row]]
        p, s = [v / sum(p) for v in p], [v / sum(s) for v in s]
        divergence = sum(a * math.log(a / b) for a, b in zip(p, s, strict=True))
        label = int(LABELS[row])
        cross = [-math.log(float(torch.softmax(branch[row], 0)[label])) for branch in (early, deep)]
        truth = 0.3 * cross[0] + 0.7 * cross[1] + 0.7 * 9.0 * divergence
        assert float(got[row]) == pytest.approx(truth, rel=1e-9)


def test_a_record_s_loss_ignores_the_other_records() -> None:
    early, deep = logits(3), logits(4)
    together = joint(TASK, exit_weight=0.5, distill=1.0)((early, deep), LABELS)
    alone = joint(TASK, exit_weight=0.5, distill=1.0)((early[2:3], deep[2:3]), LABELS[2:3])
    assert torch.allclose(together[2:3], alone, atol=1e-12)


def test_distillation_moves_the_exit_and_never_the_deep_head() -> None:
    early, deep = logits(5).requires_grad_(), logits(6).requires_grad_()
    joint(TASK, exit_weight=1.0, distill=2.0, temperature=2.0)(
        (early, deep), LABELS
    ).sum().backward()
    assert deep.grad is not None and float(deep.grad.abs().max()) == 0.0
    labels = functional.one_hot(LABELS, 4)
    truth = early.detach().softmax(1) - labels
    truth = truth + 2.0 * 2.0 * ((early.detach() / 2).softmax(1) - (deep.detach() / 2).softmax(1))
    assert early.grad is not None and torch.allclose(early.grad, truth, atol=1e-9)


def test_equal_branches_have_no_distillation_loss() -> None:
    same = logits(7)
    plain = joint(TASK, exit_weight=0.5)((same, same), LABELS)
    assert torch.allclose(joint(TASK, exit_weight=0.5, distill=5.0)((same, same), LABELS), plain)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("exit_weight", -0.1), ("exit_weight", 1.1), ("distill", -1.0), ("temperature", 0.0)]
    + [(name, math.nan) for name in ("exit_weight", "distill", "temperature")],
)
def test_a_weight_out_of_range_is_named(argument: str, value: float) -> None:
    settings = {"exit_weight": 0.5, "distill": 0.0, "temperature": 2.0, argument: value}
    with pytest.raises(ValueError, match=argument):
        joint(TASK, **settings)


@pytest.mark.parametrize("name", TASKS)
def test_one_branch_has_the_task_s_own_loss_and_two_equal_ones_too(name: str) -> None:
    task, answers = make(name), logits(1).float()
    targets = task.made_up(6, 4)
    alone = joint(task, exit_weight=0.3, distill=2.0)((answers,), targets)
    assert torch.equal(alone, task.loss(answers, targets))
    both = joint(task, exit_weight=0.3, distill=2.0)((answers, answers), targets)
    assert torch.allclose(alone, both, atol=1e-6)
