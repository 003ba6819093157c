"""Small trained networks for images, sensor sequences and tables, each with an early exit.

GroupNorm instead of BatchNorm throughout: it normalises a record by itself, so a per-record
gradient exists, and sites with different data have no running statistics to disagree about.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from fedlite.models.branched import Branched

_WIDTHS = (16, 32, 64)
_GROUPS = 4


class TimeMean(nn.Module):
    """Mean over the last axis: ``[n, channels, length]`` to ``[n, channels]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over time."""
        return x.mean(dim=2)


def _half(size: int) -> int:
    """Length left by a convolution of stride 2 whose padding is half its kernel."""
    return (size + 1) // 2


def cnn(shape: tuple[int, ...], classes: int) -> Branched:
    """Build ``cnn`` for images ``[channels, h, w]`` with sides of at least 5.

    37 thousand parameters for 28 x 28 x 1 and 10 classes. Every convolution has a stride of 2:
    on a CPU a small image costs what its first, full-size maps cost. The tail ends in one linear
    head: a hidden layer there can die under averaging while the exit looks fine.
    """
    if len(shape) != 3 or min(shape[1:]) < 5:
        raise ValueError(
            f"model 'cnn' needs images [channels, h, w] with sides of at least 5; the data's "
            f"shape is {list(shape)}; take 'cnn1d' for sequences, 'mlp' for tables"
        )
    first, second, third = _WIDTHS
    quarter = [_half(_half(side)) for side in shape[1:]]
    window = 3 if min(quarter) >= 3 else 2
    pooled = math.prod((side - window) // 2 + 1 for side in quarter)
    eighth = math.prod(_half(side) for side in quarter)
    stem = nn.Sequential(
        nn.Conv2d(shape[0], first, 3, stride=2, padding=1),
        nn.GroupNorm(_GROUPS, first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2, padding=1),
        nn.GroupNorm(_GROUPS, second),
        nn.ReLU(),
    )
    exit = nn.Sequential(nn.AvgPool2d(window, 2), nn.Flatten(), nn.Linear(second * pooled, classes))
    tail = nn.Sequential(
        nn.Conv2d(second, third, 3, stride=2, padding=1),
        nn.GroupNorm(_GROUPS, third),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(third * eighth, classes),
    )
    return Branched(stem, exit, tail, shape=shape, classes=classes)


def cnn1d(shape: tuple[int, ...], classes: int) -> Branched:
    """Build ``cnn1d`` for sequences ``[channels, length]`` of at least 8 samples."""
    if len(shape) != 2 or shape[1] < 8:
        raise ValueError(
            f"model 'cnn1d' needs sequences [channels, length] of at least 8 samples; the data's "
            f"shape is {list(shape)}; take 'cnn' for images, 'mlp' for tables"
        )
    first, second, third = _WIDTHS
    stem = nn.Sequential(
        nn.Conv1d(shape[0], first, 5, stride=2, padding=2, bias=False),
        nn.GroupNorm(_GROUPS, first),
        nn.ReLU(),
        nn.Conv1d(first, second, 5, stride=2, padding=2, bias=False),
        nn.GroupNorm(_GROUPS, second),
        nn.ReLU(),
    )
    exit = nn.Sequential(TimeMean(), nn.Linear(second, classes))
    tail = nn.Sequential(
        nn.Conv1d(second, third, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, third),
        nn.ReLU(),
        TimeMean(),
        nn.Linear(third, classes),
    )
    return Branched(stem, exit, tail, shape=shape, classes=classes)


def mlp(shape: tuple[int, ...], classes: int, *, hidden: int = 32) -> Branched:
    """Build ``mlp``: two tanh layers of ``hidden`` units, the exit after the first; any shape."""
    if hidden < 1:
        raise ValueError(f"hidden must be at least 1, got {hidden}; 32 is usual")
    stem = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), hidden), nn.Tanh())
    exit = nn.Sequential(nn.Linear(hidden, classes))
    tail = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, classes))
    return Branched(stem, exit, tail, shape=shape, classes=classes)
