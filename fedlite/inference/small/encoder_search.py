"""The smallest encoder whose deep branch loses no more than was allowed: all steps joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedlite.data import Dataset
from fedlite.inference.small.encoder import moments_of, narrowed, rounded, thinned, weights_of
from fedlite.inference.small.encoder_teaching import said, taught
from fedlite.inference.small.search import apart
from fedlite.models import Branched
from fedlite.models.pretrained.plain import Encoder

# From the smallest on: the share of hidden units that go, of a matrix's output energy (None: no low
# rank), and the bits of a value of the table of words and of a matrix.
Rung = tuple[float, float | None, tuple[int, int]]
LADDER: tuple[Rung, ...] = (
    (0.5, 0.01, (4, 4)),
    (0.75, None, (4, 4)),
    (0.5, None, (4, 4)),
    (0.25, None, (4, 4)),
    (0.0, None, (4, 8)),
    (0.0, None, (8, 8)),
)
STEPS = 100
# Texts that the moments come from.
_SEEN = 256


@dataclass(frozen=True)
class Tried:
    """An encoder that was made smaller.

    share, error, bits: what was cut, as in `LADDER`. bytes_: of its weights in integers. loss: how
    much less of the judging texts its deep branch has right than the one before, from -1 to 1.
    """

    model: Encoder
    share: float
    error: float | None
    bits: tuple[int, int]
    bytes_: int
    loss: float

    def told(self) -> dict[str, Any]:
        """Return what was cut and what that came to, ready for JSON."""
        return {
            "units_less": self.share,
            "energy_less": self.error,
            "bits": list(self.bits),
            "bytes": self.bytes_,
            "loss": self.loss,
        }


def tries(
    model: Encoder,
    learning: Dataset,
    judging: Dataset,
    *,
    ladder: tuple[Rung, ...] | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Iterator[Tried]:
    """Yield the encoders of all joined steps, the smallest first, each taught and judged.

    learning, judging: texts as the model reads them, one at least of each, and none in both. What
    the first ones are is not looked at. ladder: what is cut, default `LADDER`. steps: of teaching;
    what nothing was cut of takes none.
    """
    model = model.eval().requires_grad_(False)
    right = _right(model, judging)
    moments = moments_of(model, learning.x[:_SEEN])
    for share, error, bits in LADDER if ladder is None else ladder:
        small, left = narrowed(model, share, moments)
        if error is not None:
            small = thinned(small, error, left)
        cut = share > 0 or error is not None or bits != (8, 8)
        count = (STEPS if steps is None else steps) if cut else 0
        done = taught(small, model, learning.x, steps=count, seed=seed)
        done = rounded(done, *bits)
        table, others = weights_of(done)
        loss = right - _right(done, judging)
        yield Tried(done, share, error, bits, (table * bits[0] + others * bits[1]) // 8, loss)


def smallest(model: Branched, records: Dataset, max_loss: float) -> Tried:
    """Return the smallest that loses at most `max_loss` of the deep branch's accuracy.

    records, max_loss: as of `fedlite.inference.small.search.smallest`, and what it raises. Where
    none of them does, it is the encoder as it was.
    """
    if not isinstance(model, Encoder):
        raise ValueError(
            f"model: must be an encoder that was cut in two, got {type(model).__name__}"
        )
    learning, judging = apart(records, max_loss)
    # The last is as it was, but for a table of 8 bits.
    found = None
    for found in tries(model, learning, judging):
        if found.loss <= max_loss:
            break
    if found is None:
        raise ValueError("LADDER: must have one step at least")
    return found


def _right(model: Encoder, judging: Dataset) -> float:
    with torch.no_grad():
        return float(np.mean(said(model, judging.x)[1].argmax(1).numpy() == judging.y))
