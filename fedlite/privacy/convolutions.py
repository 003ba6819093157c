"""Per-record gradients of plain two-dimensional convolutions: one small product for each record.

A convolution is the product of its weight, [out, p], and the patches of a record, [p, places]. So
its gradient on one record is the product of the gradient of what comes out, [out, places], and the
patches, turned: what Opacus computes, too. Where patches are few they are taken once, for the layer
and for its gradients. Every record's products are by themselves, so that no other record changes
their bits, nor does it matter of how many sites the records are.

The norm alone could be had from two Gram matrices (Bu, Mao, Xu 2022, "mixed ghost clipping"), with
fewer values where 2 places^2 is below out x p; but then the weighted sum takes a product more. The
gradients of one record of a layer that sites train are a few thousand values: they are kept.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Values of a record's patches up to which they are kept from the layer to its gradients.
_FEW = 2**15


class _Shape(NamedTuple):
    """What of a convolution decides where its patches are."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def out(self) -> list[int]:
        """Height and width of what comes out."""
        return [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(self.size[1:], *self[1:], strict=True)
        ]


def is_plain(layer: nn.Module) -> bool:
    """Return whether a layer is a convolution whose gradients are taken here.

    Groups, other padding than zeros, and padding that is named instead of numbered are not.
    """
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def has_few(layer: nn.Module, x: Tensor) -> bool:
    """Return whether a layer is plain, and its patches are so few that `convolve` keeps them."""
    if not is_plain(layer) or x.dim() != 4 or not isinstance(layer, nn.Conv2d):
        return False
    places = math.prod(_shape(layer, x).out)
    return 0 < places * math.prod(layer.kernel_size) * layer.in_channels <= _FEW


def patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the patches of records, [b, p, places]: x is [b, in, height, width]."""
    shape = _shape(layer, x)
    # Behind a record's values a zero, which is what its padding is.
    values = functional.pad(x.flatten(1), (0, 1)) if any(shape.padding) else x.flatten(1)
    found = values.index_select(1, _places(shape).to(x.device))
    return found.view(len(x), -1, math.prod(shape.out))


def convolve(
    layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what a plain layer makes of the records of g sites, and their patches.

    x: [g * b, in, height, width], site after site; weight: [g, out, ...], bias: [g, out] or None.
    The output knows its gradient by `x`, and none by the values.
    """
    found, shape = patches(layer, x.detach()), _shape(layer, x)
    output: Tensor = _Convolved.apply(x, weight.flatten(2), bias, found, shape)  # type: ignore[no-untyped-call]
    return output.view(len(x), -1, *shape.out), found


def by_record(layer: nn.Conv2d, patches: Tensor, slope: Tensor) -> dict[Tensor, Tensor]:
    """Return each record's gradients of a plain layer's trained values, [b, values] each.

    slope: [b, out, ...], the gradient of what came out.
    """
    slope, found = slope.flatten(2), dict[Tensor, Tensor]()
    if layer.weight.requires_grad:
        found[layer.weight] = torch.bmm(slope, patches.mT).flatten(1)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = slope.sum(2)
    return found


class _Convolved(torch.autograd.Function):
    """Each record's product with its site's weight, and back to what came in."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, patches: Tensor, shape: _Shape
    ) -> Tensor:
        """Return [g * b, out, places]."""
        ctx.save_for_backward(weight)
        ctx.shape = shape
        found = _times(weight, patches)
        if bias is not None:
            found.view(len(weight), -1, *found.shape[1:]).add_(bias[:, None, :, None])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:
        """Return the gradient by x."""
        (weight,) = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        shape, found = ctx.shape, _times(weight.mT, slope)
        if (back := _back(shape)) is not None:
            values = functional.pad(found.flatten(1), (0, 1)).index_select(1, back.to(slope.device))
            return values.view(-1, *shape.size), None, None, None, None
        return functional.fold(found, shape.size[1:], *_how(shape)), None, None, None, None


def _times(weight: Tensor, records: Tensor) -> Tensor:
    """Return each record's product, weight [g, m, k] times records [g * b, k, n]: [g * b, m, n]."""
    g, m, k = weight.shape
    records = records.contiguous()
    found = records.new_empty((len(records), m, records.shape[2]))
    each = zip(
        weight,
        records.view(g, -1, *records.shape[1:]),
        found.view(g, -1, *found.shape[1:]),
        strict=True,
    )
    for one, of, place in each:
        torch.bmm(one.expand(len(of), m, k), of, out=place)
    return found


def _shape(layer: nn.Conv2d, x: Tensor) -> _Shape:
    padding = tuple(map(int, layer.padding))
    return _Shape(tuple(x.shape[1:]), layer.kernel_size, layer.stride, padding, layer.dilation)


@lru_cache(maxsize=64)
def _places(shape: _Shape) -> Tensor:
    """Return where in a record the values of its patches are, int64; behind its end: padding."""
    size = math.prod(shape.size)
    at = torch.arange(1, size + 1, dtype=torch.float64).view(1, *shape.size)
    found = functional.unfold(at, *_how(shape)).long().flatten()
    return torch.where(found > 0, found - 1, size)


@lru_cache(maxsize=64)
def _back(shape: _Shape) -> Tensor | None:
    """Return which value of the patches each value of a record became, int64; behind them: none.

    None where a value became several.
    """
    places, size = _places(shape), math.prod(shape.size)
    if int(torch.bincount(places, minlength=size)[:size].max()) > 1:
        return None
    found = torch.full((size + 1,), len(places))
    return found.scatter_(0, places, torch.arange(len(places)))[:size]


def _how(shape: _Shape) -> tuple[tuple[int, ...], ...]:
    return shape.kernel, shape.dilation, shape.padding, shape.stride
