"""The convolutional network of the paper that federated averaging comes from, with an exit."""

from __future__ import annotations

import math

from torch import nn

from fedlite.models.branched import Branched

_WIDTHS = (32, 64)
_HIDDEN = 512
_SMALLEST = 8


def mcmahan(shape: tuple[int, ...], classes: int) -> Branched:
    """Build ``mcmahan`` for images ``[channels, h, w]`` with sides of at least 8.

    Two 5 x 5 convolutions of 32 and 64 maps, each followed by a 2 x 2 maximum, and a hidden layer
    of 512: 1,663,370 parameters for 28 x 28 x 1 and 10 classes. The exit after the first
    convolution, a linear head on its maps' means over a grid of 3 x 3, adds 2,890 of its own. It
    costs about twenty times the work of ``cnn``: for comparisons with the literature.

    Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, "Communication-efficient learning
    of deep networks from decentralized data", section 3 (the MNIST CNN; with its padding).
    """
    if len(shape) != 3 or min(shape[1:]) < _SMALLEST:
        raise ValueError(
            f"model 'mcmahan' needs images [channels, h, w] with sides of at least {_SMALLEST}; "
            f"the data's shape is {list(shape)}; take 'cnn' for smaller images, 'cnn1d' for "
            "sequences, 'mlp' for tables"
        )
    first, second = _WIDTHS
    half = [side // 2 for side in shape[1:]]
    window = min(half) // 3
    cells = math.prod(side // window for side in half)
    stem = nn.Sequential(
        nn.Conv2d(shape[0], first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    exit = nn.Sequential(nn.AvgPool2d(window), nn.Flatten(), nn.Linear(first * cells, classes))
    tail = nn.Sequential(
        nn.Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * math.prod(side // 2 for side in half), _HIDDEN),
        nn.ReLU(),
        nn.Linear(_HIDDEN, classes),
    )
    return Branched(stem, exit, tail, shape=shape, classes=classes)
