"""A record's row of a linear layer has the same bits wherever in a block it stands."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlite.privacy import aligned

SIZES = [(13, 2), (16, 16), (1, 1), (100, 7), (30, 48)]


@pytest.mark.parametrize(("wide", "high"), SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_layer_both_ways(wide: int, high: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(wide, high, bias=bias)
    x = torch.randn(5, 3, wide, requires_grad=True)
    y = x.detach().double().requires_grad_()
    out = aligned.linear(layer, x)
    exact = nn.functional.linear(y, layer.weight.double(), layer.bias.double() if bias else None)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-6)
    weights = torch.randn(5, 3, high)
    (found,) = torch.autograd.grad((out * weights).sum(), x)
    (wanted,) = torch.autograd.grad((exact * weights.double()).sum(), y)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("wide", "high"), SIZES)
def test_a_row_s_bits_depend_on_no_place(wide: int, high: int) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(wide, high)
    x = torch.randn(8, wide)
    out = aligned.linear(layer, x)
    for at in range(8):
        turned = aligned.linear(layer, x.roll(at, 0))
        assert torch.equal(turned.roll(-at, 0), out)


@pytest.mark.parametrize(("wide", "high"), SIZES)
def test_rows_start_at_a_multiple_of_64_bytes(wide: int, high: int) -> None:
    short, below = aligned.missing(nn.Linear(wide, high))
    assert 0 <= short < aligned.ALIGNED and 0 <= below < aligned.ALIGNED
    assert (wide + short) % aligned.ALIGNED == 0 and (high + below) % aligned.ALIGNED == 0
    for x in (torch.randn(4, wide), torch.randn(wide, 4).T, torch.randn(4 * wide + 1)[1:]):
        rows = x.reshape(4, wide) if x.dim() == 1 else x
        full = aligned.filled(rows, short)
        assert full.is_contiguous() and torch.equal(full[:, :wide], rows)
        assert not full[:, wide:].any()
        assert all(row.data_ptr() % 64 == 0 for row in full)


def test_rows_that_start_so_are_not_copied() -> None:
    x = aligned.filled(torch.randn(4, 13), 3)
    assert aligned.filled(x, 0) is x
