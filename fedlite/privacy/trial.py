"""Whether the gradients of a model are those of its records, each by itself and to the bit."""

from __future__ import annotations

import copy
import math
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.privacy.gradients import Loss, ModelGradients

# Small blocks cost calls, large ones memory. A model may ask for smaller ones.
_MOST = 512
# Loops over values take up to 32 at once, and what is left over one by one, where exponentials
# round otherwise. No trial finds that reliably, as few values differ: a record must never be there.
_MULTIPLE = 32
# A sample beyond so many deviations takes a block more: about one in ten thousand.
_DEVIATIONS = 4.0

# Tokens of made-up texts that are short; a kernel may look whether any text of a block is.
_SHORT = 2

_known: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], int]] = WeakKeyDictionary()


def block_of(model: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss, batch: int) -> int:
    """Return how many records may share a pass of `model` so that none changes another's gradient.

    A multiple of 32, of which few take what a step has, where a record's gradient has the same bits
    at another place and beside other records, which says that no kernel sums in an order that
    depends on them; else 1. batch: public, about how many records a step has, at least 1.

    Tried once for a model and batch, on a copy with other weights and on made-up records of the
    shape of those in `inputs` and `labels`, so that nothing depends on a site's data.

    Raises ValueError when a record's gradient is not what autograd finds for it alone.
    """
    # Such a sample still fits, so that the work seldom tells how large it is.
    room = batch + _DEVIATIONS * math.sqrt(batch)
    blocks = math.ceil(room / min(_MOST, getattr(model, "block", _MOST)))
    wanted = _MULTIPLE * math.ceil(room / blocks / _MULTIPLE)
    known = _known.setdefault(model, {})
    # Where values take turns, other gradients are taken; other kernels round otherwise.
    flags: Any = torch.backends.mkldnn
    key = wanted, flags.enabled, *(p.requires_grad for p in model.parameters())
    if key not in known:
        known[key] = _try(copy.deepcopy(model), inputs, labels, loss, wanted)
    return known[key]


def _try(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, wanted: int) -> int:
    model.train()
    with torch.no_grad():
        for at, parameter in enumerate(model.parameters()):
            parameter.copy_(_made_up(at, parameter) / parameter.shape[1:].numel() ** 0.5)
    rows = np.arange(2 * wanted)
    records = _made_up(1, inputs.new_empty(len(rows), *inputs.shape[1:])).abs()
    if not inputs.is_floating_point():
        # Not every number is a token.
        made: Tensor = getattr(model, "made_up")(len(rows))  # noqa: B009 - not of every module
        records = made.to(inputs.device)
        if records.dim() == 3 and records.shape[1] == 2:
            # Token ids over a mask: whole texts stand by themselves, and short ones beside them.
            records[wanted:, 1, _SHORT:] = 0
    labels = torch.arange(len(rows), device=inputs.device) % 2
    if targets.is_floating_point():
        labels = _made_up(2, targets.new_empty(len(rows), *targets.shape[1:])).abs()
    try:
        truth = _single(model, records[_TRIED], labels[_TRIED], loss)
        for block in (wanted, 1):
            with ModelGradients(model, records, labels, loss, block) as gradients:
                _check(model, gradients, truth)
                there = gradients.norms(rows)
                moved, mixed = gradients.norms(np.roll(rows, 1)), gradients.norms(rows[::-1])
            if np.array_equal(there, np.roll(moved, -1)) and np.array_equal(there, mixed[::-1]):
                return block
    except (RuntimeError, IndexError, TypeError) as error:
        raise ValueError(f"model: {_RULE}, and they cannot be taken{_why(model, error)}") from error
    raise ValueError(f"model: {_RULE}, and two passes differ; remove what is random or remembers")


_RULE = "gradients record by record are needed under record-level privacy"


def _why(model: nn.Module, error: Exception) -> str:
    """Return what of the model makes Opacus's hooks fail, as far as that can be seen."""
    text = str(error).strip().split("\n")[0]
    if "inplace" in text:
        named = [name for name, part in model.named_modules() if getattr(part, "inplace", False)]
        listed = ", ".join(repr(name) for name in named) or "an operation (x += y, relu_)"
        return f": {listed} overwrites what it is given; leave inplace=True out, write x = x + y"
    own = [name for name, _ in model.named_parameters(recurse=False)]
    if own:
        return f": {own[0]!r} belongs to the model itself; put it into a layer that uses it"
    return f": {text}"


def _made_up(at: int, like: Tensor) -> Tensor:
    """Return values in [-1, 1] without a pattern, of the shape, type and device of `like`."""
    values = torch.arange(like.numel(), dtype=torch.float64, device=like.device)
    return torch.sin(12.9898 * values.square() + at).reshape(like.shape).to(like.dtype)


_TRIED = np.array([3, 40, 41])
_TOLERANCE = 1e-3


def _single(model: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss) -> NDArray[np.float64]:
    """Return each record's gradient, float64 [b, d], by autograd on that record alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for row in range(len(labels)):
        value = loss(model(inputs[row : row + 1]), labels[row : row + 1]).sum()
        parts = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([part.double().flatten() for part in parts]))
    return torch.stack(found).cpu().numpy()


def _check(model: nn.Module, gradients: ModelGradients, truth: NDArray[np.float64]) -> None:
    factors = np.array([1.0, -0.5, 2.0])
    norms, total = gradients.norms(_TRIED), gradients.weighted(factors)
    lengths = np.linalg.norm(truth, axis=1)
    wrong = total - factors @ truth
    if not (
        np.allclose(norms, lengths, _TOLERANCE, 0)
        and np.linalg.norm(wrong) <= _TOLERANCE * lengths.sum()
    ):
        named = [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad]
        parts = np.split(wrong, np.cumsum([size for _, size in named])[:-1])
        worst = named[int(np.argmax([np.linalg.norm(part) for part in parts]))][0]
        raise ValueError(
            f"model: {_RULE}, and they are not what autograd finds for a record alone, most of "
            f"all for '{worst}'; use layers as modules, with the records on the first axis, and "
            "nothing that is random, remembers, or looks at other records"
        )
