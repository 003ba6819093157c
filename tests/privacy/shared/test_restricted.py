"""Gradients on a support against whole gradients that are cut to it by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedlite.privacy import parts
from fedlite.privacy.gradients import ModelGradients
from fedlite.privacy.shared.restricted import RestrictedGradients


def loss(outputs: tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs[0], labels, reduction="none")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.GroupNorm(1, 3)
        self.out = nn.Linear(48, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.out(self.norm(self.conv(x)).flatten(1)),)


@pytest.mark.parametrize("together", [7, 4096])
def test_norms_and_sums_are_those_of_the_chosen_scaled_values(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_TOGETHER", together)
    torch.manual_seed(1)
    model, inputs, labels = Net(), torch.randn(40, 1, 6, 6), torch.arange(40) % 4
    size = sum(p.numel() for p in model.parameters())
    rng = np.random.default_rng(2)
    indices = np.sort(rng.choice(size, 50, replace=False))
    factors, rows = rng.uniform(1.0, 9.0, 50), np.arange(0, 40, 3)
    whole = []
    with ModelGradients(model, inputs, labels, loss) as gradients:
        for row in rows:
            gradients.norms(np.array([row]))
            whole.append(gradients.weighted(np.ones(1)))
    wanted = np.array(whole)[:, indices] * factors
    with RestrictedGradients(model, inputs, labels, loss, 32, indices, factors) as gradients:
        assert gradients.size == 50
        norms = gradients.norms(rows)
        weights = rng.normal(size=len(rows))
        total = gradients.weighted(weights)
    assert np.allclose(norms, np.linalg.norm(wanted, axis=1), 1e-5, 0)
    assert np.allclose(total, weights @ wanted, 1e-5, 1e-8)


def test_a_record_without_a_finite_gradient_adds_nothing() -> None:
    model, labels = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), torch.zeros(3, dtype=torch.long)
    inputs = torch.ones(3, 16)
    inputs[1] = torch.inf

    def first(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return loss((outputs,), labels)

    indices, factors = np.arange(0, 64, 2), np.ones(32)
    with RestrictedGradients(model, inputs, labels, first, 32, indices, factors) as gradients:
        norms = gradients.norms(np.arange(3))
        total = gradients.weighted(np.where(np.isfinite(norms), 1.0, 0.0))
    assert np.isfinite(norms).tolist() == [True, False, True]
    assert np.isfinite(total).all()
