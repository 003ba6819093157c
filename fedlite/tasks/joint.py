"""One loss for all branches of a model: one gradient, one clip and one epsilon for both."""

from __future__ import annotations

from torch import Tensor

from fedlite.scenario import Training
from fedlite.tasks.interface import Loss, Outputs, Task


def joint(
    task: Task,
    *,
    exit_weight: float = 0.5,
    distill: float = 0.0,
    temperature: float = 2.0,
    offsets: Tensor | None = None,
) -> Loss:
    """Return the loss of a record over a model's branches.

    Of one branch it is the task's own. Of two, `w L(exit) + (1 - w) L(deep) + distill D(exit ||
    deep)`: the teacher's answers are detached, so that distillation moves the exit (and the stem),
    never the deep head.

    exit_weight: w, in [0, 1]. distill: at least 0. temperature: above 0. offsets: float [width]
    added to the answers inside L, for logit adjustment; None adds nothing.

    Source: Kim et al. 2023, "DepthFL", for self-distillation between the depths of one federated
    model.

    Raises ValueError if a weight is out of its range.

    >>> import torch
    >>> from fedlite.tasks.classification import Classification
    >>> even = torch.zeros(1, 2)
    >>> loss = joint(Classification(), exit_weight=0.5)
    >>> [round(float(loss(outputs, torch.tensor([0]))), 4) for outputs in ((even,), (even, even))]
    [0.6931, 0.6931]
    """
    if not 0.0 <= exit_weight <= 1.0:
        raise ValueError(f"exit_weight: must be in [0, 1], got {exit_weight}; 0.5 is even")
    if not distill >= 0.0:
        raise ValueError(f"distill: must be at least 0, got {distill}; 0 turns it off")
    if not temperature > 0.0:
        raise ValueError(f"temperature: must be above 0, got {temperature}; 2 is usual")

    def loss(outputs: Outputs, targets: Tensor) -> Tensor:
        moved = outputs if offsets is None else tuple(one + offsets for one in outputs)
        late = task.loss(moved[-1], targets)
        if len(outputs) == 1:
            return late
        total = exit_weight * task.loss(moved[0], targets) + (1.0 - exit_weight) * late
        if distill:
            total = total + distill * task.divergence(outputs[0], outputs[-1].detach(), temperature)
        return total

    return loss


def loss_of(task: Task, training: Training, offsets: Tensor | None = None) -> Loss:
    """Return `joint` with what a scenario sets of it; `offsets` as it takes them."""
    return joint(
        task,
        exit_weight=training.exit_weight,
        distill=training.distill,
        temperature=training.temperature,
        offsets=offsets,
    )
