"""One model with the values of many sites in it: one pass trains all of them, to the same bits.

The records of g sites go through the model as one batch, site after site. What has no parameters
treats records one by one, so it need not know of sites. A linear layer takes a product of matrices
for each site in one call; the same numbers are added in the same order as for the site alone. Any
other layer is called for each site in turn: a convolution of few records costs what its arithmetic
costs, and a grouped one rounds otherwise. Where records are protected, a plain convolution is a
product for each record, of patches that its gradients take as well.

Whether a model may be treated so is not believed but tried: `fedlite.training.together`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional

from fedlite.privacy.convolutions import convolve, has_few
from fedlite.training import channels

# Rows of values begin at multiples of 64 bytes, as a tensor of one site does: kernels add up in
# another order where they do not.
_ALIGNED = 16


class Rows:
    """The trained values of g sites as the rows of one matrix, and the model with them in it.

    values: float32 [g, n], n rounded up to a multiple of 16, zeros at the end. leaves: of each
    trained tensor of the model a view of it [g, *shape].
    """

    def __init__(self, values: Tensor, shapes: Sequence[torch.Size]) -> None:
        """Take values that `matrix` has made."""
        self.values, self.leaves, start = values, list[Tensor](), 0
        for shape in shapes:
            end = start + shape.numel()
            self.leaves.append(values[:, start:end].view(len(values), *shape).requires_grad_())
            start = end
        self.size = start

    def gradients(self, total: Tensor) -> Tensor:
        """Return the gradient of `total` by each site's values, float32 [g, n] as they lie."""
        found = torch.zeros_like(self.values)
        parts = torch.autograd.grad(total, self.leaves, allow_unused=True)
        start = 0
        for leaf, part in zip(self.leaves, parts, strict=True):
            end = start + leaf[0].numel()
            if part is not None:
                found[:, start:end] = part.reshape(len(part), -1)
            start = end
        return found


def matrix(rows: int, size: int, device: torch.device) -> Tensor:
    """Return zeros for `size` values of each of some sites, as `Rows` takes them."""
    return torch.zeros(rows, size + -size % _ALIGNED, device=device)


class Stacked:
    """A model whose layers take their values from `Rows`; a context manager.

    Inside, `model(inputs)` takes the records of all sites [g * b, ...], site after site, and
    answers for all. The model's own values are not read. see(module, x, output): called for every
    layer with values of its own, x as it came, [g * b, ...].
    """

    def __init__(
        self,
        model: nn.Module,
        see: Callable[[nn.Module, Tensor, Tensor], None] | None = None,
        linear: Callable[[nn.Linear, Tensor, Tensor, Tensor | None], Tensor] | None = None,
        *,
        patched: bool = False,
    ) -> None:
        """Find the layers; nothing is changed yet.

        linear: how a linear layer is computed. patched: whether a plain convolution with few
        patches is computed from these, and `see` told of them, as under record-level privacy.
        """
        self.model, self._see, self._linear = model, see, linear or _of_linear
        self._patched = patched
        trained = [p for p in model.parameters() if p.requires_grad]
        self._places = {id(p): at for at, p in enumerate(trained)}
        self.shapes = [p.shape for p in trained]
        self.layers = [
            module
            for module in dict.fromkeys(model.modules())
            if any(id(p) in self._places for p in module.parameters(recurse=False))
        ]
        self.rows: Rows

    def __enter__(self) -> Stacked:
        """Let the layers compute for many sites."""
        self._before = [vars(layer).get("forward") for layer in self.layers]
        for layer in self.layers:
            layer.forward = partial(self._forward, layer, layer.forward)
        return self

    def __exit__(self, *error: object) -> None:
        """Let them compute for one again."""
        for layer, before in zip(self.layers, self._before, strict=True):
            del layer.forward
            if before is not None:
                layer.forward = before

    def _forward(
        self, layer: nn.Module, forward: Callable[..., Any], x: Tensor, *more: Any
    ) -> Tensor:
        own = {
            name: self.rows.leaves[self._places[id(p)]] if p.requires_grad else p
            for name, p in layer.named_parameters(recurse=False)
        }
        if more or not all(p.requires_grad for p in layer.parameters()):
            raise ValueError(f"model: {type(layer).__name__} is not one layer of one input")
        if type(layer) is nn.Linear and x.dim() == 2:
            output = self._linear(layer, x, own["weight"], own.get("bias"))
        elif self._patched and isinstance(layer, nn.Conv2d) and has_few(layer, x):
            output, x = convolve(layer, x, own["weight"], own.get("bias"))
        else:
            output = self._in_turn(layer, forward, x, own)
        if self._see is not None:
            self._see(layer, x, output)
        return output

    def _in_turn(
        self, layer: nn.Module, forward: Callable[..., Any], x: Tensor, own: dict[str, Tensor]
    ) -> Tensor:
        g = len(self.rows.values)
        each = [leaf.unbind() for leaf in own.values()]
        found = []
        for site, records in enumerate(x.view(g, -1, *x.shape[1:]).unbind()):
            values = {name: of[site] for name, of in zip(own, each, strict=True)}
            if type(layer) is nn.Conv2d:
                given = values["weight"], values.get("bias")
                found.append(channels.convolve(layer, forward, records, *given))
            else:
                layer.forward = forward
                try:
                    found.append(functional_call(layer, values, (records,)))
                finally:
                    layer.forward = partial(self._forward, layer, forward)
        return torch.cat(found)


def _of_linear(layer: nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    g = len(weight)
    x = x.view(g, -1, x.shape[1])
    if x.shape[1] == 1:
        # Of one record linear algebra takes a product with a vector, which adds up otherwise.
        each = weight.unbind(), [None] * g if bias is None else bias.unbind()
        return torch.cat([functional.linear(*one) for one in zip(x.unbind(), *each, strict=True)])
    return products(x, weight, bias).flatten(0, 1)


def products(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x_g W_g^T + b_g` for all sites g, [g, b, out].

    x: [g, b, in], weight [g, out, in], bias [g, out] or None.
    """
    found: Tensor = _Products.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return found


class _Products(torch.autograd.Function):
    """The same, with just those products that the gradient of one site's layer takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return [g, b, out]."""
        x = _laid(x)
        ctx.save_for_backward(x, weight)
        if bias is None or _small(x, weight.mT):
            found = _multiplied(x, weight.mT)
            return found if bias is None else found + bias[:, None]
        return torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:
        """Return the gradients by x, weight and bias."""
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        slope = _laid(slope)
        return (
            _multiplied(slope, weight) if by_x else None,
            _multiplied(slope.mT, x) if by_weight else None,
            slope.sum(1) if by_bias else None,
        )


def _small(one: Tensor, other: Tensor) -> bool:
    """Whether `torch.bmm` would take products of its own, which round otherwise (ATen, 400)."""
    return one.shape[1] * one.shape[2] * other.shape[2] < 400


def _multiplied(one: Tensor, other: Tensor) -> Tensor:
    """Return the products of each site's two matrices, [g, m, k] and [g, k, n]."""
    if _small(one, other):
        return torch.stack([a @ b for a, b in zip(one.unbind(), other.unbind(), strict=True)])
    out = _room(len(one), one.shape[1], other.shape[2], one.device)
    return torch.bmm(one, other, out=out)


def _room(g: int, m: int, n: int, device: torch.device) -> Tensor:
    """Return room for a matrix of each site, [g, m, n], each at a multiple of 64 bytes."""
    return matrix(g, m * n, device)[:, : m * n].view(g, m, n)


def _laid(values: Tensor) -> Tensor:
    """Return the same values [g, m, n], each site's beginning at a multiple of 64 bytes."""
    g, m, n = values.shape
    if not m * n % _ALIGNED:
        return values.contiguous()
    return _room(g, m, n, values.device).copy_(values)
