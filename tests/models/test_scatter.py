"""Wavelets and scattering features against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedlite.models import build
from fedlite.models.scatter import morlet


@pytest.mark.parametrize(("size", "sigma", "ratio"), [(7, 0.8, 3 / 4), (11, 1.6, 3 / 8)])
def test_wavelets_have_mean_zero_norm_one_and_their_direction(
    size: int, sigma: float, ratio: float
) -> None:
    bank = morlet(size, sigma, ratio * math.pi).double()
    assert bank.shape == (16, 1, size, size)
    waves = torch.complex(bank[:8, 0], bank[8:, 0])
    assert float(waves.sum((1, 2)).abs().max()) < 1e-6
    assert torch.allclose(waves.abs().sum((1, 2)), torch.ones(8, dtype=torch.float64), atol=1e-6)
    rows, columns = np.mgrid[:64, :64]
    for step in range(8):
        angle = math.pi * step / 8
        phase = ratio * math.pi * (math.cos(angle) * columns + math.sin(angle) * rows)
        grating = torch.from_numpy(np.cos(phase))[None, None]
        answer = torch.nn.functional.conv2d(grating, bank)
        energy = (answer[0, :8] ** 2 + answer[0, 8:] ** 2).mean((1, 2))
        assert int(energy.argmax()) == step


def test_scatter_groups_are_standardised_and_ignore_contrast_and_brightness() -> None:
    model = build("scatter", (1, 28, 28), 10, seed=0)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    features = model.prepare(x)
    assert features.shape == (3, 3969)
    for start, stop in ((0, 49), (49, 441), (441, 833), (833, 3969)):
        group = features[:, start:stop]
        assert torch.allclose(group.mean(1), torch.zeros(3), atol=1e-5)
        assert torch.allclose(group.square().mean(1), torch.ones(3), atol=1e-4)
    assert torch.allclose(model.prepare(0.5 * x + 0.2), features, atol=1e-3)
    flat = model.prepare(torch.full((1, 1, 28, 28), 0.7))
    assert torch.isfinite(flat).all() and float(flat.abs().max()) < 1.0


def test_scatter_heads_read_their_columns_over_the_root_of_their_number() -> None:
    model = build("scatter", (1, 28, 28), 2, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        prepared = torch.randn(2, 3969, generator=torch.Generator().manual_seed(0))
        early, deep = model(prepared)
    assert torch.allclose(early[:, 0], prepared[:, :833].sum(1) / math.sqrt(833), atol=1e-4)
    assert torch.allclose(deep[:, 1], prepared.sum(1) / math.sqrt(3969), atol=1e-4)


def test_scatter_prepares_a_record_to_the_same_bits_in_any_company() -> None:
    model = build("scatter", (1, 28, 28), 10, seed=0)
    x = torch.rand(70, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    together = model.prepare(x)
    assert torch.equal(model.prepare(x), together)
    assert torch.equal(model.prepare(x[[69]]), together[[69]])
    assert torch.equal(model.prepare(x.flip(0)), together.flip(0))
    assert model.prepare(x[:0]).shape == (0, 3969)
