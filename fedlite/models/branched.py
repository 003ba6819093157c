"""A network that can answer twice: early from a cheap exit, late from a deep tail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fedlite.scenario import Training

PARTS = ("stem", "exit", "tail")


class Branched(nn.Module):
    """A stem whose output feeds an early exit and a deep tail.

    The three parts are plain modules, so that a device may hold the stem and the exit alone.
    No part may mix records (no BatchNorm): a record's gradient must depend on that record only,
    otherwise per-record clipping bounds nothing.

    Args:
        stem: maps prepared records ``[n, ...]`` to hidden values ``[n, ...]``.
        exit: maps hidden values to the early logits ``[n, classes]``.
        tail: maps hidden values to the deep logits ``[n, classes]``.
        shape: shape of one raw record, without the batch axis.
        classes: number of classes, at least 2.

    Example:
        >>> model = Branched(nn.Flatten(), nn.Linear(4, 3), nn.Linear(4, 3), shape=(4,), classes=3)
        >>> early, deep = model(model.prepare(torch.zeros(2, 4)))
        >>> early.shape, deep.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
        >>> model.costs()["tail"]
        {'parameters': 15, 'macs': 12}
    """

    def __init__(
        self,
        stem: nn.Module,
        exit: nn.Module,
        tail: nn.Module,
        *,
        shape: tuple[int, ...],
        classes: int,
    ) -> None:
        """Keep the three parts; see the class."""
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes must be at least 2, got {classes}; give the label count")
        self.stem = stem
        self.exit = exit
        self.tail = tail
        self.shape = tuple(shape)
        self.classes = classes

    def prepare(self, x: Tensor) -> Tensor:
        """Apply the model's fixed, public, parameter-free transform to raw records.

        It treats each record alone, so a site may compute it once and cache the result at no
        privacy cost. The default is the identity.

        Args:
            x: raw records, float32 ``[n, *shape]``.

        Returns:
            Prepared records, float32 ``[n, ...]``: what ``forward`` takes.
        """
        return x

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Return the early and the deep logits, each ``[n, classes]``."""
        hidden = self.stem(prepared)
        return self.exit(hidden), self.tail(hidden)

    def deployed(self) -> Branched:
        """Return the same function as a model of raw records, sharing this one's parameters.

        ``deployed().forward(x)`` equals ``forward(prepare(x))``, but the fixed transform is
        split: what the exit needs is in the stem, the rest in the tail, so that a record which
        leaves early does not pay for the deep features. Export, routing and ``costs`` use it.
        Where ``prepare`` is the identity this is the model itself.
        """
        return self

    def costs(self) -> dict[str, dict[str, int]]:
        """Count, for stem, exit and tail, trainable parameters and work per raw record.

        Returns:
            For each part ``{"parameters": scalars, "macs": multiply-accumulates}``. MACs are
            those of convolutions and matrix products, fixed public filters included and booked
            to the part of ``deployed()`` that runs them; norms, pooling and activations, a few
            operations per value, are not counted.
        """
        model = self.deployed()
        parameter = next(self.parameters())
        record = torch.zeros((1, *self.shape), dtype=torch.float32, device=parameter.device)
        with torch.no_grad():
            macs = {"stem": _macs(model.stem, record)}
            hidden = model.stem(record)
            macs["exit"] = _macs(model.exit, hidden)
            macs["tail"] = _macs(model.tail, hidden)
        return {
            part: {
                "parameters": sum(
                    p.numel() for p in getattr(self, part).parameters() if p.requires_grad
                ),
                "macs": macs[part],
            }
            for part in PARTS
        }


def _macs(module: nn.Module, record: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        module(record)
    return int(counter.get_total_flops()) // 2


def losses(
    exit_logits: Tensor,
    deep_logits: Tensor,
    y: Tensor,
    *,
    exit_weight: float,
    distill: float = 0.0,
    temperature: float = 2.0,
    offsets: Tensor | None = None,
) -> Tensor:
    """Joint loss of both branches, one value per record.

    ``w CE(exit) + (1 - w) CE(deep) + distill T^2 KL(softmax(deep/T) || softmax(exit/T))``. The
    teacher's logits are detached, so distillation moves the exit (and the stem), never the deep
    head. One loss per record means one gradient, one clip and one epsilon for both branches.

    Args:
        exit_logits: float ``[n, classes]``.
        deep_logits: float ``[n, classes]``.
        y: labels, int64 ``[n]``.
        exit_weight: w, in [0, 1].
        distill: weight of the distillation term, at least 0.
        temperature: T, above 0.
        offsets: float ``[classes]`` added to both branches' logits in the cross-entropies, for
            logit adjustment; None adds nothing.

    Returns:
        Losses in nats, ``[n]``, not reduced.

    Raises:
        ValueError: if a weight is out of its range.

    Source:
        Hinton, Vinyals and Dean (2015), section 2, for T^2; Kim et al., "DepthFL" (2023), for
        self-distillation between the depths of one federated model.

    Example:
        >>> even = torch.zeros(1, 2)
        >>> round(float(losses(even, even, torch.tensor([0]), exit_weight=0.5)), 4)
        0.6931
    """
    if not 0.0 <= exit_weight <= 1.0:
        raise ValueError(f"exit_weight must be in [0, 1], got {exit_weight}; 0.5 is even")
    if not distill >= 0.0:
        raise ValueError(f"distill must be at least 0, got {distill}; 0 turns it off")
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}; 2 is usual")
    early, late = exit_logits, deep_logits
    if offsets is not None:
        early, late = early + offsets, late + offsets
    joint = exit_weight * functional.cross_entropy(early, y, reduction="none")
    joint = joint + (1.0 - exit_weight) * functional.cross_entropy(late, y, reduction="none")
    if distill == 0.0:
        return joint
    teacher = functional.log_softmax(deep_logits.detach() / temperature, dim=1)
    student = functional.log_softmax(exit_logits / temperature, dim=1)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return joint + distill * temperature**2 * divergence


def losses_of(training: Training, offsets: Tensor | None = None) -> Callable[..., Tensor]:
    """Return `losses` with what a scenario sets of it; `offsets` as `losses` takes them."""
    return partial(
        losses,
        exit_weight=training.exit_weight,
        distill=training.distill,
        temperature=training.temperature,
        offsets=offsets,
    )
