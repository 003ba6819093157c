"""Convolutions whose channels lie side by side, for networks that pool: the same, and faster.

PyTorch's pooling takes one value after the other where a channel lies in one piece, and as many
channels at once as a register holds where those of one place lie side by side ("channels last").
What a convolution answers lies as its weight does, and all layers behind it go on so. Values are
the same but for rounding, which follows from the model alone: every site's engine does the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedlite.models.branched import made_up

# A weight is laid out anew in each step: of more values in all that costs more than it saves.
_MOST = 2**19
_TOLERANCE = 1e-4
# Slower so, by an eighth to a third.
_SLOW = (nn.InstanceNorm2d, nn.LocalResponseNorm, nn.Softmax2d)


def fits(model: nn.Module, inputs: Tensor) -> bool:
    """Return whether `model` is faster so, and computes the same.

    inputs: a few records, prepared. That it is faster was measured for networks that pool; a model
    that looks at its values by how they lie (`view` for `flatten`) cannot be computed so.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    pools = any(isinstance(part, nn.MaxPool2d | nn.AvgPool2d) for part in model.modules())
    if not pools or any(isinstance(part, _SLOW) for part in model.modules()):
        return False
    if not layers or sum(layer.weight.numel() for layer in layers) > _MOST:
        return False
    if not all(type(layer) is nn.Conv2d and layer.groups == 1 for layer in layers):
        return False
    if any("forward" in vars(layer) for layer in layers):
        return False
    try:
        # As it is trained and as it is used.
        with torch.enable_grad():
            return all(_same(copy.deepcopy(model).train(mode), inputs) for mode in (True, False))
    except Exception:  # of whatever kind: code of one's own
        return False


def _same(trial: nn.Module, inputs: Tensor) -> bool:
    for part in trial.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            # It draws in the order in which values lie, which makes another draw and no other law.
            part.eval()
    with torch.no_grad():
        for p in trial.parameters():
            # A head that begins at zero has nothing to tell.
            p.add_(0.2 * (made_up(1, tuple(p.shape))[0] - 0.5))
    truth, found = (_gradients(trial, inputs, way) for way in (nullcontext(), last(trial)))
    # A bias before a norm has no gradient but rounding.
    least = 1e-5 * max(float(a.abs().max()) for a in truth)
    return all(
        torch.allclose(a, b, _TOLERANCE, _TOLERANCE * float(a.abs().max()) + least)
        for a, b in zip(truth, found, strict=True)
    )


def _gradients(model: nn.Module, inputs: Tensor, way: AbstractContextManager[None]) -> list[Tensor]:
    # What it draws is the same each time, and not drawn from what training will.
    with torch.random.fork_rng(devices=[]), way:
        outputs = model(inputs)
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        trained = [p for p in model.parameters() if p.requires_grad]
        # Not the sum itself, of which what is normalised has no gradient.
        total = sum((each.float().square().sum() for each in several), torch.zeros(()))
        parts = torch.autograd.grad(total, trained, allow_unused=True, materialize_grads=True)
    return [*(each.detach() for each in several), *parts]


@contextmanager
def last(model: nn.Module) -> Iterator[None]:
    """Let the convolutions of `model` answer so inside."""
    layers = [layer for layer in model.modules() if type(layer) is nn.Conv2d]
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(_convolve, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own  # type: ignore[method-assign]


def convolve(
    layer: nn.Conv2d, forward: Any, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Return what `forward`, a layer's own or that within `last`, would with these values."""
    if isinstance(forward, partial) and forward.func is _convolve:
        weight = weight.to(memory_format=torch.channels_last)
    found: Tensor = layer._conv_forward(x, weight, bias)
    return found


def _convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    weight = layer.weight.to(memory_format=torch.channels_last)
    found: Tensor = layer._conv_forward(x, weight, layer.bias)
    return found
