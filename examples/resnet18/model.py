"""ResNet-18 (He et al. 2016), with BatchNorm or GroupNorm, for images of any number of channels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm_one, self.norm_two = norm(width), norm(width)
        self.short = nn.Sequential()
        if stride > 1 or before != width:
            self.short = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), norm(width))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm_one(self.one(x)))
        return torch.relu(self.norm_two(self.two(y)) + self.short(x))


def _resnet(channels: int, classes: int, norm: Norm) -> nn.Module:
    stem = [nn.Conv2d(channels, 64, 7, 2, 3, bias=False), norm(64), nn.ReLU()]
    blocks, before = [nn.MaxPool2d(3, 2, 1)], 64
    for width in (64, 128, 256, 512):
        blocks += [
            Block(before, width, 1 if width == 64 else 2, norm),
            Block(width, width, 1, norm),
        ]
        before = width
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)
    )


def batch(shape: tuple[int, ...], classes: int) -> nn.Module:
    return _resnet(shape[0], classes, nn.BatchNorm2d)


def group(shape: tuple[int, ...], classes: int) -> nn.Module:
    return _resnet(shape[0], classes, lambda width: nn.GroupNorm(32, width))
