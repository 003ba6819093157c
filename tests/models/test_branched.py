"""The cost table against hand-made truths."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedlite.models import Branched, build
from fedlite.models.branched import macs_of


def test_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="classes"):
        Branched(nn.Identity(), nn.Identity(), nn.Identity(), shape=(3,), classes=0)


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


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.memory = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        seen, _ = self.attention(x, x, x)
        kept, _ = self.memory(seen)
        return torch.einsum("bij,bkj->bik", kept, kept)


@pytest.mark.parametrize("mode", [torch.no_grad(), torch.inference_mode(), torch.enable_grad()])
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Attending(), (1, 5, 8)),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.ReLU()), (1, 2, 9)),
        (nn.ConvTranspose2d(1, 2, 3), (1, 1, 5, 5)),
    ],
)
def test_the_count_is_that_of_torch_s_own_counter(
    module: nn.Module, shape: tuple[int, ...], mode: AbstractContextManager[None]
) -> None:
    record = torch.ones(shape)
    with mode:
        found = macs_of(module, record)
    # Without gradients attention is one call, which that counter sees nothing of.
    with FlopCounterMode(display=False) as counter:
        module.eval()(record)
    assert found == counter.get_total_flops() // 2 > 0


def test_a_transformer_layer_costs_what_its_products_do() -> None:
    """Without gradients torch takes another way through it, which hides them from its counter."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    record = torch.ones(1, 5, 16)
    # Four projections, scores and values of attention, two layers behind it; five tokens.
    macs = 5 * 4 * 16 * 16 + 2 * 5 * 5 * 16 + 5 * 2 * 16 * 32
    assert macs_of(layer, record) == macs
    with torch.no_grad():
        assert macs_of(layer, record) == macs


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cnn", (1, 28, 28)),
        ("cnn1d", (6, 100)),
        ("cosine", (1, 8, 8)),
        ("linear", (30,)),
        ("mlp", (30,)),
        ("scatter", (1, 28, 28)),
    ],
)
def test_the_shallow_branch_alone_answers_and_learns_as_in_the_whole(
    name: str, shape: tuple[int, ...]
) -> None:
    """To the bit, by the same names; nothing of the tail is one of its parameters."""
    model = build(name, shape, 5, seed=1)
    assert isinstance(model, Branched)
    alone = model.early()
    named = {n: p for n, p in model.named_parameters() if not n.startswith("tail.")}
    assert {n: id(p) for n, p in alone.named_parameters()} == {n: id(p) for n, p in named.items()}
    records = alone.made_up(3)
    shallow, deep = model(model.prepare(records))
    (answer,) = alone(alone.prepare(records))
    assert torch.equal(answer, shallow) and alone.branches == ("shallow",)
    # What it learns of its loss is what the whole would of the same.
    (answer.square().sum() + 0.0 * deep.sum()).backward()
    assert all(p.grad is not None for p in named.values())
    costs = model.costs()
    assert alone.costs() == {part: costs[part] for part in ("stem", "exit")}
    assert alone.early() is alone


def test_a_shallow_branch_goes_to_where_it_is_sent_with_what_prepares_its_records() -> None:
    alone = build("cosine", (1, 8, 8), 10, seed=0).early()
    records = alone.made_up(2).double()
    alone.double()
    (answer,) = alone(alone.prepare(records))
    assert answer.dtype == torch.float64
