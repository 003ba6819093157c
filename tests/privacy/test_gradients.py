"""Norms and weighted sums of per-record gradients, against one backward pass a record.

Covers fedlite/privacy/parts.py, fedlite/privacy/sampled.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlite.models import build
from fedlite.privacy.gradients import ModelGradients


class Pair(nn.Module):
    """Two heads over a body, as `ModelGradients` wants a model."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.exit, self.deep = body, nn.Linear(width, 3), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).flatten(1)
        return self.exit(hidden), self.deep(hidden)


class Twice(nn.Module):
    """The same layer at two places: the norm of a sum is not that of its terms."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        once: Tensor = self.layer(x)
        twice: Tensor = self.layer(torch.tanh(once))
        return twice


class Idle(nn.Module):
    """A weight that the loss does not depend on, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.frozen = (nn.Linear(6, 6) for _ in range(3))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.frozen(self.used(x))
        return hidden


BODIES = {
    "linear": (lambda: nn.Linear(6, 6), (6,), 6),
    "no bias": (lambda: nn.Linear(6, 6, bias=False), (6,), 6),
    "sequence": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh()), (3, 4), 15),
    "twice": (Twice, (6,), 6),
    "idle": (Idle, (6,), 6),
    "norms": (lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)), (6,), 6),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()),
        (1, 5, 5),
        36,
    ),
    "norm without bias": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.GroupNorm(1, 6, bias=False)),
        (6,),
        6,
    ),
    "norm of a vector": (lambda: nn.Sequential(nn.Linear(6, 6), nn.GroupNorm(1, 6)), (6,), 6),
    "sequence convolution": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 7), 21),
}


def loss(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    shallow, deep = outputs
    one = functional.cross_entropy(shallow, labels, reduction="none")
    return one + 2.0 * functional.cross_entropy(deep, labels, reduction="none")


def by_record(model: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """Return each record's gradient, float64 [n, d], by autograd on that record alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for at in range(len(y)):
        value = loss(model(x[at : at + 1]), y[at : at + 1]).sum()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros(p.numel()) if g is None else g.flatten()
                    for p, g in zip(parameters, found, strict=True)
                ]
            )
        )
    return torch.stack(rows).double().numpy()


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("count", [1, 20, 32, 45])
def test_norms_and_sums_are_those_of_single_records(name: str, count: int) -> None:
    make, shape, width = BODIES[name]
    torch.manual_seed(count)
    model = Pair(make(), width)  # type: ignore[no-untyped-call]
    x, y = torch.randn(50, *shape), torch.randint(0, 3, (50,))
    rows = np.sort(np.random.default_rng(count).choice(50, count, replace=False))
    truth = by_record(model, x, y)[rows]
    factors = np.random.default_rng(1).random(count) * (np.arange(count) % 4 > 0)
    with ModelGradients(model, x, y, loss) as gradients:
        # Twice, because what the hooks keep must not survive a step.
        for _ in range(2):
            norms = gradients.norms(rows)
            total = gradients.weighted(factors)
    assert norms.dtype == total.dtype == np.float64 and total.shape == (gradients.size,)
    np.testing.assert_allclose(norms, np.linalg.norm(truth, axis=1), rtol=1e-5)
    np.testing.assert_allclose(total, factors @ truth, atol=1e-5 * max(1.0, abs(truth).max()))


@pytest.mark.parametrize("name", ["cnn", "mlp", "cosine"])
def test_every_clipped_contribution_is_as_long_as_its_norm_says(name: str) -> None:
    """Hostile weights included: the length of what goes into the sum, not of what was meant."""
    shape = (1, 8, 8) if name != "mlp" else (12,)
    for scale in (1.0, 1e3, 1e6):
        model = build(name, shape, 10, seed=1)
        torch.manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, scale)
            inputs = model.prepare(torch.rand(40, *shape))
        labels = torch.randint(0, 10, (40,))
        with ModelGradients(model, inputs, labels, loss) as gradients:
            for at in range(0, 40, 7):
                row = np.array([at])
                norm = gradients.norms(row)
                if np.isfinite(norm[0]) and norm[0] > 0:
                    found = gradients.weighted(1.0 / norm)
                    assert np.linalg.norm(found) == pytest.approx(1.0, rel=1e-9)


def test_a_site_without_records_has_a_sum_of_nothing() -> None:
    model = Pair(nn.Linear(6, 6), 6)
    none = torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)
    with ModelGradients(model, *none, loss) as gradients:
        assert gradients.norms(np.zeros(0, np.int64)).shape == (0,)
        np.testing.assert_array_equal(gradients.weighted(np.zeros(0)), 0.0)


def test_other_records_in_the_pass_do_not_change_one_by_more_than_rounding() -> None:
    torch.manual_seed(1)
    model = Pair(nn.Linear(6, 6), 6)
    x, y = torch.randn(60, 6), torch.randint(0, 3, (60,))
    with ModelGradients(model, x, y, loss) as gradients:
        few = gradients.norms(np.arange(5))
        many = gradients.norms(np.arange(60))[:5]
    np.testing.assert_allclose(few, many, rtol=1e-6)
