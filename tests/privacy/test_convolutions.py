"""Convolutions from patches, and their per-record gradients, against torch, Opacus, single records.

Covers fedlite/privacy/convolutions.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from fedlite.privacy import convolutions
from fedlite.privacy.convolutions import by_record, convolve, has_few, is_plain, patches

LAYERS = {
    "padded": (nn.Conv2d(3, 5, 3, padding=1), (3, 9, 8)),
    "strided": (nn.Conv2d(1, 4, 3, stride=4, padding=1), (1, 14, 14)),
    "overlapping": (nn.Conv2d(2, 3, 3, stride=2), (2, 9, 11)),
    "odd": (nn.Conv2d(2, 4, (3, 2), (1, 3), (0, 2), (2, 1)), (2, 12, 13)),
    "one place": (nn.Conv2d(2, 4, 5), (2, 5, 5)),
    "no bias": (nn.Conv2d(2, 4, 1, bias=False), (2, 4, 4)),
}


def given(name: str, count: int = 6) -> tuple[nn.Conv2d, torch.Tensor]:
    layer, shape = LAYERS[name]
    torch.manual_seed(3)
    return layer, torch.randn(count, *shape, requires_grad=True)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_from_patches_is_the_layer_and_its_way_back(name: str) -> None:
    layer, x = given(name)
    assert is_plain(layer) and has_few(layer, x)
    bias = None if layer.bias is None else layer.bias[None]
    found, _ = convolve(layer, x, layer.weight[None], bias)
    truth = layer(x)
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)
    slope = torch.randn_like(truth)
    back, (wanted,) = torch.autograd.grad(found, x, slope)[0], torch.autograd.grad(truth, x, slope)
    torch.testing.assert_close(back, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_opacus_and_of_single_records(name: str) -> None:
    layer, x = given(name)
    slope = torch.randn_like(layer(x))
    found = by_record(layer, patches(layer, x.detach()), slope)
    opacus = GradSampleModule.GRAD_SAMPLERS[nn.Conv2d](layer, [x.detach()], slope)
    assert found.keys() == opacus.keys() == set(layer.parameters())
    for parameter, values in found.items():
        wanted = opacus[parameter].flatten(1)
        torch.testing.assert_close(values, wanted, atol=1e-5, rtol=1e-5)
        for at in range(len(x)):
            (alone,) = torch.autograd.grad(layer(x[at : at + 1]), parameter, slope[at : at + 1])
            torch.testing.assert_close(values[at], alone.flatten(), atol=1e-5, rtol=1e-5)


def test_the_records_of_several_sites_meet_their_own_weights_to_the_bit() -> None:
    layer, x = given("strided", 12)
    weights, biases = torch.randn(3, *layer.weight.shape), torch.randn(3, 4)
    together, kept = convolve(layer, x, weights, biases)
    slope = torch.randn_like(together)
    (back,) = torch.autograd.grad(together, x, slope)
    for site in range(3):
        own = slice(4 * site, 4 * site + 4)
        mine = x[own].detach().requires_grad_()
        alone, part = convolve(layer, mine, weights[site : site + 1], biases[site : site + 1])
        assert torch.equal(alone, together[own]) and torch.equal(part, kept[own])
        assert torch.equal(torch.autograd.grad(alone, mine, slope[own])[0], back[own])


def test_what_is_not_plain_or_has_many_patches_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for odd in (
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(4, 4, 3),
        nn.Linear(4, 4),
    ):
        assert not is_plain(odd)
    layer, x = given("padded")
    assert not has_few(layer, x[0])
    # 72 places of 27 values each.
    monkeypatch.setattr(convolutions, "_FEW", 72 * 27)
    assert has_few(layer, x)
    monkeypatch.setattr(convolutions, "_FEW", 72 * 27 - 1)
    assert not has_few(layer, x)


def test_padding_is_zero_and_stays_so() -> None:
    layer, x = given("padded")
    with torch.no_grad():
        x.fill_(1.0)
    found = patches(layer, x.detach()).numpy()
    truth = nn.functional.unfold(x.detach(), 3, padding=1).numpy()
    np.testing.assert_array_equal(found, truth)
