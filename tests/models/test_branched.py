"""The joint loss and the cost table against hand-made truths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedlite.models import Branched, build, losses


def logits(seed: int, n: int = 6, classes: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(n, classes, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def test_losses_are_one_value_per_record_and_equal_the_sum_written_out() -> None:
    early, deep = logits(1), logits(2)
    got = losses(early, deep, LABELS, exit_weight=0.3, distill=0.7, temperature=3.0)
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
    together = losses(early, deep, LABELS, exit_weight=0.5, distill=1.0)
    alone = losses(early[2:3], deep[2:3], LABELS[2:3], exit_weight=0.5, distill=1.0)
    assert torch.allclose(together[2:3], alone, atol=1e-12)


def test_distillation_moves_the_exit_and_never_the_deep_head() -> None:
    early, deep = logits(5).requires_grad_(), logits(6).requires_grad_()
    losses(early, deep, LABELS, exit_weight=1.0, distill=2.0, temperature=2.0).sum().backward()
    assert deep.grad is not None and float(deep.grad.abs().max()) == 0.0
    labels = functional.one_hot(LABELS, 4)
    truth = early.detach().softmax(1) - labels
    truth = truth + 2.0 * 2.0 * ((early.detach() / 2).softmax(1) - (deep.detach() / 2).softmax(1))
    assert early.grad is not None and torch.allclose(early.grad, truth, atol=1e-9)


def test_equal_branches_have_no_distillation_loss() -> None:
    same = logits(7)
    plain = losses(same, same, LABELS, exit_weight=0.5)
    assert torch.allclose(losses(same, same, LABELS, exit_weight=0.5, distill=5.0), plain)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("exit_weight", -0.1), ("exit_weight", 1.1), ("distill", -1.0), ("temperature", 0.0)]
    + [(name, math.nan) for name in ("exit_weight", "distill", "temperature")],
)
def test_a_weight_out_of_range_is_named(argument: str, value: float) -> None:
    settings = {"exit_weight": 0.5, "distill": 0.0, "temperature": 2.0, argument: value}
    with pytest.raises(ValueError, match=argument):
        losses(logits(1), logits(2), LABELS, **settings)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="classes"):
        Branched(nn.Identity(), nn.Identity(), nn.Identity(), shape=(3,), classes=1)


def test_costs_of_cnn_equal_the_count_by_hand() -> None:
    costs = build("cnn", (1, 28, 28), 10, seed=0).costs()
    stem = 16 * 9 + 16 + 2 * 16 + 32 * 16 * 9 + 32 + 2 * 32
    tail = 64 * 32 * 9 + 64 + 2 * 64 + (64 * 16 + 1) * 10
    assert costs == {
        "stem": {"parameters": stem, "macs": 16 * 9 * 14 * 14 + 32 * 16 * 9 * 7 * 7},
        "exit": {"parameters": (32 * 9 + 1) * 10, "macs": 32 * 9 * 10},
        "tail": {"parameters": tail, "macs": 64 * 32 * 9 * 4 * 4 + 64 * 16 * 10},
    }


def test_costs_of_mlp_and_linear_equal_the_count_by_hand() -> None:
    assert build("mlp", (20,), 3, seed=0).costs() == {
        "stem": {"parameters": 20 * 32 + 32, "macs": 20 * 32},
        "exit": {"parameters": 33 * 3, "macs": 32 * 3},
        "tail": {"parameters": 33 * 32 + 33 * 3, "macs": 32 * 32 + 32 * 3},
    }
    assert build("linear", (20,), 2, seed=0, exit_columns=7).costs() == {
        "stem": {"parameters": 0, "macs": 0},
        "exit": {"parameters": 16, "macs": 16},
        "tail": {"parameters": 42, "macs": 42},
    }


def test_costs_book_fixed_filters_to_the_branch_that_runs_them() -> None:
    assert build("cosine", (1, 8, 8), 10, seed=0).costs() == {
        "stem": {"parameters": 0, "macs": 0},
        "exit": {"parameters": 640, "macs": 640},
        "tail": {"parameters": 20_000, "macs": 64 * 2000 + 20_000},
    }
    bank0, bank1 = 16 * 7 * 7, 16 * 11 * 11
    assert build("scatter", (1, 28, 28), 10, seed=0).costs() == {
        "stem": {"parameters": 0, "macs": (bank0 + bank1) * 28 * 28},
        "exit": {"parameters": 8330, "macs": 8330},
        "tail": {"parameters": 39_690, "macs": 8 * bank0 * 14 * 14 + 39_690},
    }
