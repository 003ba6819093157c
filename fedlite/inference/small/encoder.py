"""An encoder made smaller: fewer hidden units, matrices of low rank, a table of fewer bits.

What is cut is told by what records show of each matrix: the mean products of what it reads, which
are computed once, on the encoder as it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.inference.integers import rows_in
from fedlite.inference.portions import portions
from fedlite.inference.small.lowrank import halves, pair
from fedlite.models.pretrained.plain import Encoder, Layer

_MATRICES = ("query", "key", "value", "out", "up", "down")
_TABLE = "stem.words.weight"
Moments = Mapping[str, Tensor]


def moments_of(model: Encoder, tokens: NDArray[np.int64]) -> dict[str, Tensor]:
    """Return of each matrix the mean of the products of what it reads, float64 [in, in], by name.

    tokens: texts, int64 [n, 2, length]; what fills them up does not count.
    """
    sums: dict[str, Tensor] = {}
    mask = torch.zeros(0)

    def add(name: str, x: Tensor) -> None:
        # In float32 they would not be those of any values, where a few directions are most of all.
        rows = x[mask].double()
        found = rows.T @ rows
        sums[name] = sums[name] + found if name in sums else found

    hooks = [
        matrix.register_forward_pre_hook(lambda _, given, name=name: add(name, given[0]))
        for name, _, matrix in _matrices(model)
    ]
    count = 0
    try:
        with torch.no_grad():
            for _, part in portions(tokens):
                given = torch.from_numpy(part)
                mask = given[:, 1] > 0
                count += int(mask.sum())
                model(given)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: found / max(1, count) for name, found in sums.items()}


def narrowed(model: Encoder, share: float, moments: Moments) -> tuple[Encoder, dict[str, Tensor]]:
    """Return the encoder whose layers have `share` less hidden units between their two matrices.

    Beside it, the moments of the units that are left. share: from 0 to below 1. What a unit weighs
    is the root of the mean square of its value, times the norm of the weights that read it: how
    much of the output would be gone. The model itself is left as it is.

    Source: structured pruning as Li et al. 2017, "Pruning filters for efficient ConvNets", with
    what a unit is seen to say in the place of the norm of what makes it.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: must be from 0 to below 1, got {share}")
    small, left = copy.deepcopy(model), dict(moments)
    with torch.no_grad():
        for name, layer in _layers(small):
            up, down = layer.up, layer.down
            weighs = moments[f"{name}.down"].diagonal().sqrt() * down.weight.norm(dim=0)
            count = math.ceil(len(weighs) * (1 - share))
            kept = weighs.topk(count).indices.sort().values
            up.weight, up.bias = (nn.Parameter(of[kept].clone()) for of in (up.weight, up.bias))
            down.weight = nn.Parameter(down.weight[:, kept].clone())
            up.out_features = down.in_features = count
            left[f"{name}.down"] = moments[f"{name}.down"][kept][:, kept]
    return small, left


def thinned(model: Encoder, error: float, moments: Moments) -> Encoder:
    """Return the encoder whose matrices are products of two, where that saves weights.

    error: the share of a matrix's output energy that may be lost, from 0 to 1; a matrix whose
    output hangs on few directions gets a low rank. See `fedlite.inference.small.lowrank`.
    """
    if not 0 <= error <= 1:
        raise ValueError(f"error: must be from 0 to 1, got {error}")
    small = copy.deepcopy(model)
    with torch.no_grad():
        for name, attribute, matrix in list(_matrices(small)):
            found = halves(matrix.weight, moments[name], error)
            if found is not None:
                layer = small.get_submodule(name.rpartition(".")[0])
                setattr(layer, attribute, pair(matrix, *found))
    return small


def rounded(model: Encoder, table: int, matrices: int = 8) -> Encoder:
    """Return the encoder whose values are those of so many bits, as floats: 8 or fewer.

    table: of the table of words, with a scale for each row. matrices: of those of the layers, with
    one for each column; with 8 they stay as they are.
    """
    small = copy.deepcopy(model)
    every: list[Tensor] = [small.get_parameter(_TABLE)]
    if matrices < 8:
        every += [
            one.weight
            for _, layer in _layers(small)
            for one in layer.modules()
            if isinstance(one, nn.Linear)
        ]
    with torch.no_grad():
        for at, one in enumerate(every):
            kept, scale = rows_in(one.detach().numpy(), matrices if at else table)
            one.copy_(torch.from_numpy(kept * scale))
    return small


def weights_of(model: Encoder) -> tuple[int, int]:
    """Return how many values the table of words has, and how many all else."""
    table = model.get_parameter(_TABLE).numel()
    return table, sum(one.numel() for one in model.parameters()) - table


def _layers(model: Encoder) -> Iterator[tuple[str, Layer]]:
    for name, one in model.named_modules():
        if isinstance(one, Layer):
            yield name, one


def _matrices(model: Encoder) -> Iterator[tuple[str, str, nn.Linear]]:
    """Yield each matrix of the layers: its name, what it is in its layer, and itself."""
    for name, layer in _layers(model):
        for attribute in _MATRICES:
            yield f"{name}.{attribute}", attribute, getattr(layer, attribute)
