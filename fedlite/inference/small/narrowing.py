"""Fewer channels between layers: those go that weigh least, with all that makes and reads them."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from fedlite.inference.small.chain import Product, neighbours
from fedlite.models import Branched


def narrowed(model: Branched, share: float) -> Branched:
    """Return the model whose tail has `share` less channels, or hidden units, between its layers.

    share: from 0 to below 1. What a channel weighs is the norm of the weights that make it, times
    that of those which read it. One is left at least. The model itself is left as it is.

    Source: structured pruning by magnitude, Li, Kadav, Durdanovic, Samet and Graf 2017, "Pruning
    filters for efficient ConvNets"; the reader's norm is of this house.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: must be from 0 to below 1, got {share}")
    small = copy.deepcopy(model)
    with torch.no_grad():
        for maker, reader in neighbours(small):
            _cut(maker, reader, share)
    return small


def _cut(maker: Product, reader: Product, share: float) -> None:
    channels = len(maker.weight)
    # Behind a Flatten each channel is several columns of the reader.
    read = reader.weight.reshape(len(reader.weight), channels, -1)
    weighs = maker.weight.flatten(1).norm(dim=1) * read.norm(dim=(0, 2))
    count = max(1, math.ceil(channels * (1 - share)))
    kept = weighs.topk(count).indices.sort().values
    maker.weight = nn.Parameter(maker.weight[kept].clone())
    if maker.bias is not None:
        maker.bias = nn.Parameter(maker.bias[kept].clone())
    shape = reader.weight.shape
    reader.weight = nn.Parameter(read[:, kept].reshape(shape[0], -1, *shape[2:]).clone())
    _say(maker, "out", count)
    _say(reader, "in", reader.weight.shape[1])


def _say(layer: Product, side: str, width: int) -> None:
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    setattr(layer, f"{side}_{kind}", width)
