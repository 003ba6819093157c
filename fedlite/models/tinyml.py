"""Small trained networks for images, sensor sequences and tables, each with an early exit.

GroupNorm instead of BatchNorm throughout: it normalises a record by itself, so a per-record
gradient exists, and sites with different data have no running statistics to disagree about.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from fedlite.models.branched import Branched
from fedlite.models.fixed import Columns, zero_head

_WIDTHS = (16, 32, 64)
_GROUPS = 8


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

    32 thousand parameters for 28 x 28 x 1 and 10 classes. The stem shrinks each side fourfold by
    strides; exit and tail halve it once more before their linear heads.
    """
    if len(shape) != 3 or min(shape[1:]) < 5:
        raise ValueError(
            f"model 'cnn' needs images [channels, h, w] with sides of at least 5; the data's "
            f"shape is {list(shape)}; take 'cnn1d' for sequences, 'mlp' for tables"
        )
    first, second, third = _WIDTHS
    cells = math.prod(_half(_half(side)) // 2 for side in shape[1:])
    stem = nn.Sequential(
        nn.Conv2d(shape[0], first, 5, stride=2, padding=2, bias=False),
        nn.GroupNorm(_GROUPS, first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, second),
        nn.ReLU(),
    )
    exit = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(second * cells, classes))
    tail = nn.Sequential(
        nn.Conv2d(second, third, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, third),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(third * cells, classes),
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


def linear(shape: tuple[int, ...], classes: int, *, exit_columns: int | None = None) -> Branched:
    """Build ``linear``: two logistic regressions on a table, from zero.

    The exit reads the first ``exit_columns`` columns only, the tail all of them: put the columns
    that are cheap to measure first, and a record decided by the exit never needs the others.

    Args:
        shape: ``[columns]``, at least 2.
        classes: number of classes.
        exit_columns: how many columns the exit reads, 1 up to all; default half, rounded up.
    """
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(
            f"model 'linear' needs a table [columns] of at least 2 columns; the data's shape is "
            f"{list(shape)}; take 'cnn' for images, 'cnn1d' for sequences"
        )
    columns = shape[0]
    early = (columns + 1) // 2 if exit_columns is None else exit_columns
    if not 1 <= early <= columns:
        raise ValueError(
            f"exit_columns must be from 1 to the table's {columns} columns, got {early}"
        )
    return Branched(
        nn.Identity(),
        nn.Sequential(Columns(0, early), zero_head(early, classes, bias=True)),
        nn.Sequential(zero_head(columns, classes, bias=True)),
        shape=shape,
        classes=classes,
    )
