"""Plain local training: SGD with momentum, or Adam, over one flat tensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fedlite.models.checks import mixes_records
from fedlite.objectives import State
from fedlite.scenario import Training
from fedlite.training.objective import Objective


def flatten(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Move all trainable tensors of `model` into one flat tensor and their gradients into another.

    The parameters become views, so that clipping, momentum and the step are a handful of operations
    on one vector instead of several for every tensor; for small models that halves a step's time.
    Returns (values, gradients), both float32 [n], in the order of `Layout`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    values = torch.cat([p.detach().reshape(-1) for p in parameters])
    gradients = torch.zeros_like(values)
    offset = 0
    for parameter in parameters:
        end = offset + parameter.numel()
        parameter.data = values[offset:end].view_as(parameter)
        parameter.grad = gradients[offset:end].view_as(parameter)
        offset = end
    return values, gradients


def train(
    model: nn.Module,
    flat: tuple[Tensor, Tensor],
    inputs: Tensor,
    labels: Tensor,
    objective: Objective,
    training: Training,
    *,
    learning_rate: float,
    rng: np.random.Generator,
    kept: tuple[State, ...] = (),
) -> tuple[State, ...]:
    """Train `model` in place on shuffled mini-batches, without any privacy.

    flat: what `flatten(model)` returned. inputs: [n, ...] float32; labels: [n, ...], what it should
    answer. kept: what the objective's terms kept from the round before; returns what they keep for
    the next. Runs
    `training.steps` batches, or `training.epochs` passes when that is 0; without records none. A
    non-zero `training.clip_norm` bounds the norm of the mini-batch gradient, which keeps a deep
    head alive under averaging; it protects no record. The objective's terms are added after it.
    """
    values, gradients = flat
    states, taken = objective.begin(values, kept), 0
    velocity = torch.zeros_like(values)
    adam = torch.optim.Adam([values], lr=learning_rate) if training.optimizer == "adam" else None
    model.train()
    # Momentum leaves denormal numbers behind, on which arithmetic is many times slower.
    torch.set_flush_denormal(True)
    try:
        least = 2 if mixes_records(model) else 1
        for batch_inputs, batch_labels in batches(inputs, labels, training, rng, least):
            gradients.zero_()
            mean: Tensor = objective.loss(model(batch_inputs), batch_labels).mean()
            torch.autograd.backward(mean)
            if training.clip_norm:
                norm = float(gradients.norm())
                if norm > training.clip_norm:
                    gradients.mul_(training.clip_norm / norm)
            objective.add_terms(gradients, values, states)
            if adam is not None:
                values.grad = gradients
                adam.step()
            elif training.momentum:
                velocity.mul_(training.momentum).add_(gradients)
                values.sub_(velocity, alpha=learning_rate)
            else:
                values.sub_(gradients, alpha=learning_rate)
            taken += 1
    finally:
        torch.set_flush_denormal(False)
    return objective.end(values, states, steps=taken, learning_rate=learning_rate)


def cuts(n: int, training: Training, least: int = 1) -> list[tuple[int, int]]:
    """Return where the mini-batches of a pass over n records begin and end.

    least: what is left of a pass with fewer records goes with the batch before it.
    """
    if not n:
        return []
    size = min(max(training.batch_size, least), n)
    starts = list(range(0, n, size))
    if len(starts) > 1 and n - starts[-1] < least:
        starts.pop()
    return list(zip(starts, [*starts[1:], n], strict=True))


def batches(
    inputs: Tensor, labels: Tensor, training: Training, rng: np.random.Generator, least: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled mini-batches, as slices of one gathered copy a pass; `least` as of `cuts`."""
    n = len(labels)
    pairs = cuts(n, training, least)
    left = (training.steps or training.epochs * len(pairs)) if n else 0
    while left > 0:
        order = torch.from_numpy(rng.permutation(n)).to(labels.device)
        shuffled, answers = inputs[order], labels[order]
        for start, end in pairs[:left]:
            yield shuffled[start:end], answers[start:end]
        left -= len(pairs)
