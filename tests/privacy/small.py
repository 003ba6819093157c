"""Small models and records, for the tests of private steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedlite.models import build
from fedlite.tasks import joint, make

SILENT = 1e-6


class TwoHeads(nn.Module):
    """A shared linear stem under two heads, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 5)
        self.exit = nn.Linear(5, 3)
        self.tail = nn.Sequential(nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.stem(x)
        return self.exit(hidden), self.tail(hidden)


def loss(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return joint(make("classification"), exit_weight=0.4, distill=0.3, temperature=2.0)(
        outputs, labels
    )


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    return TwoHeads(), torch.randn(12, 6), torch.randint(0, 3, (12,))


def convolutional() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(2)
    return build("cnn", (1, 8, 8), 10, seed=3), torch.rand(9, 1, 8, 8), torch.randint(0, 10, (9,))
