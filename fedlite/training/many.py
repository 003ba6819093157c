"""Plain training at several sites at once: the same steps as `local.train`, and the same bits.

Each site has its own values, records, order of records and terms of the objective; what all of them
take in common is one pass of the model, `fedlite.training.stacked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedlite.objectives import State
from fedlite.parameters import Vector
from fedlite.privacy.noise import Stream
from fedlite.scenario import Training
from fedlite.training import local
from fedlite.training.objective import Objective
from fedlite.training.stacked import Rows, Stacked, matrix

End = tuple[Vector, tuple[State, ...]]
"""A site's values after its round, and what the objective's terms keep."""


@dataclass(frozen=True)
class Work:
    """A round at one site: its records and the values it begins with.

    inputs: [n, ...]; labels: [n, ...]; values: float32 [d], what is trained. rate: the learning
    rate. before: what the objective's terms begin with. order: what shuffles the records, for plain
    training. streams: for sampling and for noise, for private training.
    """

    inputs: Tensor
    labels: Tensor
    objective: Objective
    values: Vector
    rate: float
    before: tuple[State, ...] = ()
    order: np.random.Generator | None = None
    streams: tuple[Stream, Stream] | None = None

    @property
    def own_order(self) -> np.random.Generator:
        """The order; ValueError where there is none."""
        if self.order is None:
            raise ValueError("order: needed for plain training, got none; see Learner.shuffler")
        return self.order

    @property
    def own_streams(self) -> tuple[Stream, Stream]:
        """The streams; ValueError where there are none."""
        if self.streams is None:
            raise ValueError("streams: needed for private training, got none; see dpsgd.entropy")
        return self.streams


def clear(model: nn.Module, works: Sequence[Work], training: Training) -> list[End]:
    """Return what `local.train` makes of each site's values, and what its terms keep."""
    if training.optimizer == "adam":
        raise ValueError("optimizer: adam keeps its steps site by site")
    values, size = begun(works)
    rows = [values[at, :size] for at in range(len(works))]
    states = [w.objective.begin(row, w.before) for w, row in zip(works, rows, strict=True)]
    velocity, taken = torch.zeros_like(values), [0] * len(works)
    passes = [local.batches(w.inputs, w.labels, training, w.own_order) for w in works]
    model.train()
    torch.set_flush_denormal(True)
    try:
        with Stacked(model) as stacked:
            whole = Rows(values, stacked.shapes)
            while found := {at: batch for at, of in enumerate(passes) if (batch := next(of, None))}:
                for chosen in _alike({at: len(labels) for at, (_, labels) in found.items()}):
                    part = whole
                    if len(chosen) < len(works):
                        part = Rows(values[chosen], stacked.shapes)
                    stacked.rows = part
                    inputs = torch.cat([found[at][0] for at in chosen])
                    labels = torch.cat([found[at][1] for at in chosen])
                    losses = works[0].objective.loss(model(inputs), labels)
                    slopes = part.gradients(losses.view(len(chosen), -1).mean(1).sum())
                    if training.clip_norm or works[0].objective.terms:
                        for at, slope in zip(chosen, slopes[:, :size], strict=True):
                            _finish(slope, works[at], rows[at], states[at], training)
                    for at in chosen:
                        taken[at] += 1
                    with torch.no_grad():
                        _step(values, slopes, velocity, chosen, training, works[0].rate)
    finally:
        torch.set_flush_denormal(False)
    return [
        (row.numpy(), w.objective.end(row, state, steps=steps, learning_rate=w.rate))
        for w, row, state, steps in zip(works, rows, states, taken, strict=True)
    ]


def begun(works: Sequence[Work]) -> tuple[Tensor, int]:
    """Return the values that sites begin with, as `Rows` takes them, and how many each has."""
    size = works[0].values.size
    values = matrix(len(works), size, works[0].labels.device)
    values[:, :size] = torch.from_numpy(np.stack([w.values for w in works]))
    return values, size


def _alike(lengths: dict[int, int]) -> list[list[int]]:
    """Return the sites whose batches are of one length, ascending, for each length."""
    found: dict[int, list[int]] = {}
    for at, length in lengths.items():
        found.setdefault(length, []).append(at)
    return list(found.values())


def _finish(
    slope: Tensor, work: Work, values: Tensor, state: tuple[State, ...], training: Training
) -> None:
    """Cut a site's gradient and add its terms, in place, as `local.train` does."""
    if training.clip_norm:
        norm = float(slope.norm())
        if norm > training.clip_norm:
            slope.mul_(training.clip_norm / norm)
    if work.objective.terms:
        work.objective.add_terms(slope, values.detach(), state)


def _step(
    values: Tensor,
    slopes: Tensor,
    velocity: Tensor,
    chosen: list[int],
    training: Training,
    rate: float,
) -> None:
    every = len(chosen) == len(values)
    if training.momentum:
        moving = velocity if every else velocity[chosen]
        slopes = moving.mul_(training.momentum).add_(slopes)
        if not every:
            velocity[chosen] = moving
    if every:
        values.sub_(slopes, alpha=rate)
    else:
        values[chosen] = values[chosen].sub_(slopes, alpha=rate)
