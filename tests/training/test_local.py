from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from fedlite.models import build
from fedlite.parameters import Layout, load_vector, to_vector
from fedlite.scenario import Training
from fedlite.tasks import joint, make
from fedlite.training import local
from fedlite.training.objective import Objective


def loss(outputs: tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    return joint(make("classification"), exit_weight=0.3)(outputs, labels)


def records(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return (
        torch.rand(n, 1, 8, 8, generator=generator),
        torch.randint(0, 10, (n,), generator=generator),
    )


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize(
    ("momentum", "weight_decay", "clip_norm"),
    [(0.0, 0.0, 0.0), (0.9, 0.0, 0.0), (0.9, 0.05, 0.0), (0.5, 0.05, 0.2), (0.0, 0.3, 0.05)],
)
def test_it_is_torchs_sgd_step_by_step(
    name: str, momentum: float, weight_decay: float, clip_norm: float
) -> None:
    model = build(name, (1, 8, 8), 10, seed=1)
    truth = copy.deepcopy(model)
    x, y = records(23)
    for steps in (1, 2, 5):
        settings = Training(
            steps=steps,
            batch_size=8,
            momentum=momentum,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            exit_weight=0.3,
        )
        ours, theirs = copy.deepcopy(model), copy.deepcopy(truth)
        local.train(
            ours,
            local.flatten(ours),
            x,
            y,
            Objective.of(make("classification"), settings),
            settings,
            learning_rate=0.4,
            rng=np.random.default_rng(steps),
        )
        optimizer = torch.optim.SGD(
            theirs.parameters(), lr=0.4, momentum=momentum, weight_decay=weight_decay
        )
        rng = np.random.default_rng(steps)
        batches = [
            order[start : start + 8]
            for order in (rng.permutation(23) for _ in range(2))
            for start in range(0, 23, 8)
        ]
        for batch in batches[:steps]:
            optimizer.zero_grad()
            loss(theirs(x[batch]), y[batch]).mean().backward()
            if clip_norm:
                torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
            optimizer.step()
        np.testing.assert_allclose(to_vector(ours), to_vector(theirs), atol=2e-6, rtol=2e-5)
        assert np.abs(to_vector(ours) - to_vector(model)).max() > 1e-3


def test_flattening_keeps_values_order_and_views() -> None:
    model = build("cnn", (1, 8, 8), 10, seed=1)
    before = to_vector(model)
    values, gradients = local.flatten(model)
    np.testing.assert_array_equal(values.numpy(), before)
    assert Layout.of(model).size == len(values) == len(gradients)
    values.zero_()
    assert not to_vector(model).any()
    load_vector(model, before)
    np.testing.assert_array_equal(values.numpy(), before)


class Recorder(torch.nn.Module):
    """Remembers which rows it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shown: list[list[int]] = []

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.shown.append(rows.int().tolist())
        return rows * self.weight, rows * self.weight


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 20), st.integers(1, 3))
def test_batches_are_passes_over_all_records(n: int, size: int, steps: int, epochs: int) -> None:
    model = Recorder()
    rows = torch.arange(n)
    local.train(
        model,  # type: ignore[arg-type]
        local.flatten(model),
        rows.float(),
        rows,
        Objective(lambda outputs, labels: outputs[0] - labels),
        Training(batch_size=size, steps=steps, epochs=epochs),
        learning_rate=0.0,
        rng=np.random.default_rng(0),
    )
    a_pass = math.ceil(n / min(size, n))
    assert len(model.shown) == (steps or epochs * a_pass)
    for start in range(0, len(model.shown) - a_pass + 1, a_pass):
        seen = sum(model.shown[start : start + a_pass], [])
        assert sorted(seen) == list(range(n))
