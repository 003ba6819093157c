"""The work of the engine benchmark: networks and made-up records, with torch alone.

Other frameworks do the same work in environments of their own, so nothing of fedlite is imported.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

SITES, RECORDS, CLASSES, BATCH, RATE = 100, 50, 10, 10, 0.05
SHAPES = {"cnn": (1, 28, 28), "strided": (1, 28, 28), "mlp": (64,)}
"""The shape of a record for each network."""


def cnn(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return two convolutions and two linear layers: 56,714 parameters for 28 x 28 and 10."""
    del shape
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def strided(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return two convolutions with a stride of 2 and one linear layer: 5,178 parameters."""
    del shape
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=4, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, classes),
    )


def mlp(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return one hidden layer of 32: 2,410 parameters for 64 inputs and 10 classes."""
    return nn.Sequential(nn.Linear(shape[0], 32), nn.ReLU(), nn.Linear(32, classes))


NETWORKS = {"cnn": cnn, "strided": strided, "mlp": mlp}


def records(
    work: str = "cnn", sites: int = SITES
) -> tuple[
    NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.str_]
]:
    """Return noisy pictures of ten patterns: x, y, a small test set, and whose each record is."""
    rng = np.random.default_rng(7)
    shape = SHAPES[work]
    patterns = rng.normal(size=(CLASSES, *shape))
    y = rng.integers(0, CLASSES, sites * RECORDS + 100)
    x = (patterns[y] + rng.normal(size=(len(y), *shape))).astype(np.float32)
    names = np.array([f"site-{at:06d}" for at in range(sites)])
    owners = np.repeat(names, RECORDS)
    n = sites * RECORDS
    return x[:n], y[:n], x[n:], y[n:], owners


def epoch(model: nn.Module, x: torch.Tensor, y: torch.Tensor, order: torch.Tensor) -> None:
    """Train one pass over records in this order, in batches, by plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for rows in torch.split(order, BATCH):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        torch.autograd.backward(loss)
        optimizer.step()


def bare_round(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, sites: int, generator: torch.Generator
) -> None:
    """Play one round as a plain PyTorch loop: train at each site in turn, average, step."""
    parameters = list(model.parameters())
    begun = [p.detach().clone() for p in parameters]
    total = [torch.zeros_like(p) for p in parameters]
    per = len(y) // sites
    for site in range(sites):
        with torch.no_grad():
            for p, first in zip(parameters, begun, strict=True):
                p.copy_(first)
        epoch(model, x, y, torch.randperm(per, generator=generator) + site * per)
        with torch.no_grad():
            for sum_, p in zip(total, parameters, strict=True):
                sum_.add_(p)
    with torch.no_grad():
        for p, sum_ in zip(parameters, total, strict=True):
            p.copy_(sum_ / sites)
