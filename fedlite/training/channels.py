"""Convolutions whose channels lie side by side, for networks that pool: the same, and faster.

PyTorch's pooling takes one value after the other where a channel lies in one piece, and as many
channels at once as a register holds where those of one place lie side by side ("channels last").
What a convolution answers lies as its weight does, and all layers behind it go on so. Values are
the same but for rounding, which follows from the model alone: every site's engine does the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# A weight is laid out anew in each step: of more values in all that costs more than it saves.
_MOST = 2**19
_TOLERANCE = 1e-4


def fits(model: nn.Module, inputs: Tensor) -> bool:
    """Return whether `model` is faster so, and computes the same.

    inputs: a few records, prepared. That it is faster was measured for networks that pool; a model
    that looks at its values by how they lie (`view` for `flatten`) cannot be computed so.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    pools = [part for part in model.modules() if isinstance(part, nn.MaxPool2d | nn.AvgPool2d)]
    if not layers or not pools or sum(layer.weight.numel() for layer in layers) > _MOST:
        return False
    if not all(type(layer) is nn.Conv2d and layer.groups == 1 for layer in layers):
        return False
    # As it is used, so that nothing is random or remembered.
    trial = copy.deepcopy(model).eval()
    try:
        # What draws all the same does not draw from what training will.
        with torch.random.fork_rng(devices=[]):
            truth = _gradients(trial, inputs)
            with last(trial):
                found = _gradients(trial, inputs)
    except Exception:  # of whatever kind: code of one's own
        return False
    return all(
        torch.allclose(a, b, _TOLERANCE, _TOLERANCE * float(a.abs().max()))
        for a, b in zip(truth, found, strict=True)
    )


def _gradients(model: nn.Module, inputs: Tensor) -> list[Tensor]:
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
    for layer in layers:
        layer.forward = partial(_convolve, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


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
