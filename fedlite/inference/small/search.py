"""The smallest deep branch that loses no more than was allowed: all steps joined, then judged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.data import Dataset
from fedlite.inference.quantized import part
from fedlite.inference.small.lowrank import thinned
from fedlite.inference.small.narrowing import narrowed
from fedlite.inference.small.teaching import taught
from fedlite.models import Branched

# Shares of channels that go, and of a layer's output energy; None: this step is left out.
SHARES = (0.0, 0.25, 0.5, 0.75)
ERRORS: tuple[float | None, ...] = (None, 0.05)
STEPS = 400
# Of calibration records: what is learnt from, and, up to APART, what judges. The rest is for the
# threshold.
LEARNT, APART = 0.3, 0.5
_FEWEST = 50


@dataclass(frozen=True)
class Tried:
    """A deep branch that was made smaller.

    share, error: what was cut; None: no low rank. parameters: of its tail. macs: of stem and tail.
    loss: how much less of the judging records it has right than the one before, from -1 to 1.
    """

    model: Branched
    share: float
    error: float | None
    parameters: int
    macs: int
    loss: float

    def told(self) -> dict[str, Any]:
        """Return what was cut and what that came to, ready for JSON."""
        return {
            "channels_less": self.share,
            "energy_less": self.error,
            "parameters": self.parameters,
            "macs": self.macs,
            "loss": self.loss,
        }


def tries(
    model: Branched, learning: Dataset, judging: Dataset, *, steps: int | None = None, seed: int = 0
) -> Iterator[Tried]:
    """Yield the deep branches of all joined steps, the smallest first, each taught and judged.

    learning, judging: records as the model reads them, one at least of each, and none in both. What
    the first ones are is not looked at.
    """
    model, truth = model.deployed().eval(), judging.y
    with torch.no_grad():
        hidden, held = (model.stem(torch.from_numpy(of.x)) for of in (learning, judging))
        answers, right = model.tail(hidden), _right(model, held, truth)
    made: dict[int, tuple[float, float | None, Branched]] = {}
    for share, error in itertools.product(SHARES, ERRORS):
        small = narrowed(model, share)
        if error is not None:
            small = thinned(small, hidden, error)
        # Where a step finds nothing to cut, there is nothing more to try.
        made.setdefault(sum(one.numel() for one in small.tail.parameters()), (share, error, small))
    for parameters, (share, error, small) in sorted(made.items(), key=lambda one: one[0]):
        cut = share > 0 or error is not None
        done = taught(
            small,
            hidden,
            answers,
            steps=(STEPS if steps is None else steps) if cut else 0,
            seed=seed,
        )
        costs = done.costs()
        macs = costs["stem"]["macs"] + costs["tail"]["macs"]
        loss = right - _right(done, held, truth)
        yield Tried(done, share, error, parameters, macs, loss)


def smallest(model: Branched, records: Dataset, max_loss: float) -> Tried:
    """Return the smallest that loses at most `max_loss` of the deep branch's accuracy.

    records: calibration records as the model reads them, of which a part chooses no threshold.
    max_loss: from 0 to below 1; it is held against records that are few, and is no promise.

    Where none of them does, it is the deep branch as it was.

    Raises ValueError for a tail or records that do not allow it.
    """
    learning, judging = apart(records, max_loss)
    # The last is as it was, and loses nothing.
    return next(one for one in tries(model, learning, judging) if one.loss <= max_loss)


def apart(records: Dataset, max_loss: float) -> tuple[Dataset, Dataset]:
    """Return the records to learn from and those that judge, of those that calibrate.

    The rest, half of them, is for the threshold. Raises ValueError where they are too few, and for
    a loss that cannot be.
    """
    if not 0 <= max_loss < 1:
        raise ValueError(f"--max-loss: must be from 0 to below 1, got {max_loss}; 0.01 is 1 point")
    taken = part(records, APART)
    learnt = part(records, LEARNT)
    learning, judging = (records.take(np.flatnonzero(at)) for at in (learnt, taken & ~learnt))
    if min(len(learning), len(judging)) < _FEWEST:
        raise ValueError(
            f"--max-loss: must have {_FEWEST} records at least to learn from and as many to judge "
            f"by, got {len(learning)} and {len(judging)} of {len(records)}; name more"
        )
    return learning, judging


def _right(model: Branched, held: Tensor, truth: NDArray[np.int64]) -> float:
    with torch.no_grad():
        return float((model.tail(held).argmax(1).numpy() == truth).mean())
