"""Two thin layers in the place of one, of a rank that its own inputs tell."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlite.inference.small.chain import Product, inputs, products
from fedlite.models import Branched

# Rows by which a layer's inputs are judged: the matrix of them is in memory at once.
_ROWS = 20_000


def thinned(model: Branched, hidden: Tensor, error: float) -> Branched:
    """Return the model whose tail's layers are products of two, where that saves weights.

    hidden: float32 [n, ...], what the stem makes of records. error: the share of a layer's output
    energy on them that may be lost, from 0 to 1; the rank is the least that keeps to it, so a layer
    whose output hangs on few directions gets a low one. The model itself is left as it is.

    Source: the truncated SVD of the weights times a root of their inputs' second moments, which is
    best for the output: Wang et al. 2024, "SVD-LLM", section 3.2.
    """
    if not 0 <= error <= 1:
        raise ValueError(f"error: must be from 0 to 1, got {error}")
    small = copy.deepcopy(model)
    reads = inputs(small, hidden)
    with torch.no_grad():
        for name in products(small):
            layer = getattr(small.tail, name)
            found = _thin(layer, reads[name], error)
            if found is not None:
                setattr(small.tail, name, found)
    return small


def _thin(layer: Product, x: Tensor, error: float) -> nn.Sequential | None:
    if isinstance(layer, nn.Conv1d):
        return None
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or layer.padding == "same"):
        return None
    rows = _rows(layer, x).double()
    found = halves(layer.weight.flatten(1), rows.T @ rows / len(rows), error)
    return None if found is None else pair(layer, *found)


def halves(weight: Tensor, moments: Tensor, error: float) -> tuple[Tensor, Tensor] | None:
    """Return two thin matrices, float32 [rank, in] and [out, rank], in the place of [out, in].

    moments: the mean of the products of what it reads, float64 [in, in]. error: as in `thinned`.
    None where the least rank that keeps to it saves no weights.
    """
    weight = weight.double()
    # A direction that no record shows is still computed, and costs next to nothing.
    least = 1e-6 * moments.diagonal().mean().clamp(min=1e-12)
    root = torch.linalg.cholesky(moments + least * torch.eye(len(moments)).double())
    left, sizes, right = torch.linalg.svd(weight @ root, full_matrices=False)
    lost = sizes.square().flip(0).cumsum(0).flip(0) / sizes.square().sum().clamp(min=1e-300)
    rank = max(1, int((lost > error).sum()))
    if rank * (weight.shape[0] + weight.shape[1]) >= weight.numel():
        return None
    second = (left[:, :rank] * sizes[:rank].sqrt()).float()
    first = (
        sizes[:rank, None].sqrt()
        * torch.linalg.solve_triangular(root, right[:rank], upper=False, left=False)
    ).float()
    return first, second


def _rows(layer: Product, x: Tensor) -> Tensor:
    """Return what each of a layer's dot products reads, [m, width]."""
    places = x[0].numel() // (layer.in_features if isinstance(layer, nn.Linear) else len(x[0]))
    x = x[:: max(1, len(x) * places // _ROWS)]
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, layer.in_features)
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"layer: must be linear or of two dimensions, got {type(layer).__name__}")
    given = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}
    found = functional.unfold(x, layer.kernel_size, **given)  # type: ignore[arg-type]
    return found.transpose(1, 2).reshape(-1, found.shape[1])


def pair(layer: Product, first: Tensor, second: Tensor) -> nn.Sequential:
    """Return two layers of these weights in the place of one; see `halves`."""
    rank, out = len(first), len(second)
    one: nn.Linear | nn.Conv2d
    two: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        one = nn.Linear(layer.in_features, rank, bias=False)
        two = nn.Linear(rank, out, bias=layer.bias is not None)
    elif isinstance(layer, nn.Conv2d):
        one = nn.Conv2d(
            layer.in_channels,
            rank,
            layer.kernel_size,  # type: ignore[arg-type]
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            dilation=layer.dilation,  # type: ignore[arg-type]
            bias=False,
        )
        two = nn.Conv2d(rank, out, 1, bias=layer.bias is not None)
    else:
        raise ValueError(f"layer: must be linear or of two dimensions, got {type(layer).__name__}")
    one.weight = nn.Parameter(first.reshape(one.weight.shape).clone())
    two.weight = nn.Parameter(second.reshape(two.weight.shape).clone())
    if layer.bias is not None:
        two.bias = nn.Parameter(layer.bias.clone())
    return nn.Sequential(one, two)
