"""A smaller tail learns to answer as the one did that it was made from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional

from fedlite.models import Branched

_TEMPERATURE, _BATCH = 2.0, 64


def taught(
    student: Branched, hidden: Tensor, answers: Tensor, *, steps: int, seed: int, rate: float = 1e-3
) -> Branched:
    """Return the student after some steps towards the teacher's answers; only its tail moves.

    hidden: float32 [n, ...], what the stem makes of records, n at least 1. answers: float32
    [n, classes], the teacher's logits for them. No label is read. steps: 0 or more, of 64 records
    each. seed: of their order. rate: Adam's, which falls to nothing along half a cosine.

    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network".
    """
    if steps < 0 or not len(hidden):
        raise ValueError(f"steps: must be 0 or more, of 1 record or more, got {steps}")
    small = copy.deepcopy(student)
    tail = small.tail.train()
    drawn = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(tail.parameters(), lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    shares = functional.softmax(answers / _TEMPERATURE, dim=1)
    order = torch.randperm(len(hidden), generator=drawn)
    for _ in range(steps):
        if len(order) < min(_BATCH, len(hidden)):
            order = torch.randperm(len(hidden), generator=drawn)
        rows, order = order[:_BATCH], order[_BATCH:]
        found = functional.log_softmax(tail(hidden[rows]) / _TEMPERATURE, dim=1)
        loss = functional.kl_div(found, shares[rows], reduction="batchmean") * _TEMPERATURE**2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()
    small.eval()
    return small
