"""A network of plain convolutions whose tail is most of its work, so that early answers save it."""

from __future__ import annotations

import math

from torch import nn

from fedlite.models.branched import Branched

_SMALLEST = 8


def vgg(shape: tuple[int, ...], classes: int, *, stem: int = 16, tail: int = 96) -> Branched:
    """Build ``vgg`` for images ``[channels, h, w]`` with sides of at least 8.

    Five 3 x 3 convolutions, each followed by a ReLU, and linear heads. The stem has two of stride
    2, with ``stem`` and twice as many maps; the exit reads its maps' means over a grid of 3 x 3.
    The tail has three with ``tail`` maps, the last of stride 2. For 28 x 28 x 1 and 10 classes that
    is 217 thousand parameters, and the stem is a twenty-seventh of the multiply-adds.

    There is no norm: it would cost the stem more time than its convolutions, and keep integers from
    running through. So the first weights are He's, which keep the size of what runs through. A
    larger ``stem`` answers better and later.

    Source: Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image
    recognition", section 2, much smaller, with strides in the place of pooling; He, Zhang, Ren and
    Sun 2015, "Delving deep into rectifiers", for the first weights.
    """
    if len(shape) != 3 or min(shape[1:]) < _SMALLEST:
        raise ValueError(
            f"model 'vgg' needs images [channels, h, w] with sides of at least {_SMALLEST}; the "
            f"data's shape is {list(shape)}; take 'cnn' for smaller images, 'cnn1d' for sequences, "
            "'mlp' for tables"
        )
    for name, width in (("stem", stem), ("tail", tail)):
        if not 1 <= width <= 1024:
            raise ValueError(f"{name} must be from 1 to 1024, got {width}; 16 and 96 are usual")
    quarter = [_half(_half(side)) for side in shape[1:]]
    window = 3 if min(quarter) >= 3 else 2
    pooled = math.prod((side - window) // 2 + 1 for side in quarter)
    return Branched(
        nn.Sequential(*_block(shape[0], stem, 2), *_block(stem, 2 * stem, 2)),
        nn.Sequential(nn.AvgPool2d(window, 2), nn.Flatten(), nn.Linear(2 * stem * pooled, classes)),
        nn.Sequential(
            *_block(2 * stem, tail, 1),
            *_block(tail, tail, 1),
            *_block(tail, tail, 2),
            nn.Flatten(),
            nn.Linear(tail * math.prod(map(_half, quarter)), classes),
        ),
        shape=shape,
        classes=classes,
    )


def _block(given: int, made: int, stride: int) -> tuple[nn.Module, nn.Module]:
    layer = nn.Conv2d(given, made, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer, nn.ReLU()


def _half(size: int) -> int:
    """Length left by a convolution of stride 2 whose padding is half its kernel."""
    return (size + 1) // 2
