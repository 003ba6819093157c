"""The public filters against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedlite.models import build
from fedlite.models.fixed import CosineFeatures, morlet


def test_unit_rows_are_centred_and_of_norm_one_and_a_constant_record_is_zero() -> None:
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[4] = 0.5
    rows = build("cosine", (1, 8, 8), 10, seed=0).prepare(x)
    assert torch.allclose(rows[:4].norm(dim=1), torch.ones(4), atol=1e-6)
    assert torch.allclose(rows.mean(dim=1), torch.zeros(5), atol=1e-7)
    assert float(rows[4].abs().max()) == 0.0


def test_cosine_features_approximate_the_gaussian_kernel() -> None:
    layer = CosineFeatures(6, 40_000, 1.5)
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)) / 3.0
    got = float(layer(x)[0] @ layer(x)[1])
    truth = math.exp(-(1.5**2) * float((x[0] - x[1]).square().sum()) / 2.0)
    assert got == pytest.approx(truth, abs=0.02)


def test_the_projection_is_a_public_constant() -> None:
    layer = CosineFeatures(64, 2000, 1.5)
    assert torch.equal(layer.weight, CosineFeatures(64, 2000, 1.5).weight)
    # Recomputed from the definition, so that a changed stream cannot pass unseen.
    raw = (np.random.Philox(key=20_070_001).random_raw(256_000) >> np.uint64(11)) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(1.0 - raw[:128_000])), 2.0 * np.pi * raw[128_000:]
    truth = (1.5 * radius * np.cos(angle)).reshape(64, 2000)
    assert np.allclose(layer.weight.numpy(), truth, atol=1e-6)
    assert float(layer.weight.std()) == pytest.approx(1.5, rel=0.01)
    assert float(layer.phase.min()) >= 0.0 and float(layer.phase.max()) < 2.0 * math.pi + 1e-6


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
    assert torch.isfinite(model.prepare(torch.zeros(1, 1, 28, 28))).all()


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


def test_heads_start_at_zero_and_filters_are_not_trained() -> None:
    for name, shape in (("cosine", (1, 8, 8)), ("scatter", (1, 8, 8)), ("linear", (9,))):
        model = build(name, shape, 3, seed=5)
        assert not any(bool(p.detach().any()) for p in model.parameters())
        assert all(key.startswith(("exit.", "tail.")) for key, _ in model.named_parameters())
