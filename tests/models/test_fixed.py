"""The public filters against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedlite.models import build
from fedlite.models.fixed import CosineFeatures


def test_unit_rows_are_centred_and_of_norm_one_and_a_constant_record_is_zero() -> None:
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[4] = 0.5
    rows = build("cosine", (1, 8, 8), 10, seed=0).prepare(x)[:, :64]
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


def test_heads_start_at_zero_and_filters_are_not_trained() -> None:
    for name, shape in (("cosine", (1, 8, 8)), ("scatter", (1, 8, 8)), ("linear", (9,))):
        model = build(name, shape, 3, seed=5)
        assert not any(bool(p.detach().any()) for p in model.parameters())
        assert all(key.startswith(("exit.", "tail.")) for key, _ in model.named_parameters())


def test_linear_has_an_intercept_and_an_exit_that_reads_the_first_columns_only() -> None:
    model = build("linear", (9,), 2, seed=0, exit_columns=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape))
        x = torch.zeros(1, 9)
        early, deep = model(model.prepare(x))
        assert early[0].tolist() == pytest.approx([0.0, 5.0 / 3.0])
        assert deep[0].tolist() == pytest.approx([0.0, 10.0 / 3.0])
        x[0, 4] = 1.0
        early2, deep2 = model(model.prepare(x))
    assert torch.equal(early2, early)
    assert (deep2 - deep)[0].tolist() == pytest.approx([5.0, 15.0])


def test_cosines_have_the_same_bits_wherever_a_record_stands_and_are_those_of_the_layer() -> None:
    """They are found once for each record, and privacy needs that no other has a part in it."""
    for shape in ((1, 8, 8), (5,)):
        model = build("cosine", shape, 3, seed=0)
        x = torch.rand(150, *shape, generator=torch.Generator().manual_seed(1))
        rows = model.prepare(x)
        for order in (torch.arange(149, -1, -1), torch.arange(150).roll(1), torch.tensor([7, 3])):
            assert torch.equal(model.prepare(x[order]), rows[order])
        flat = model.transform(x)  # type: ignore[operator]
        size = flat.shape[1]
        assert torch.equal(rows[:, :size], flat)
        assert torch.allclose(rows[:, size:], model.tail[0](flat), atol=1e-6)  # type: ignore[index]
        (early,) = model.early()(model.early().prepare(x))
        assert torch.equal(early, model(rows)[0])
