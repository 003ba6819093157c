"""The records of a private step at several sites, in blocks, and what is known of them already.

A site that takes every record in every step (`privacy.sampling_rate = 1`) takes the same ones
again. Then they need not be gathered anew, and what a linear layer that reads the records
themselves adds to each one's gradient is the same in every step: linear heads on fixed filters
(`fedlite.models.fixed`) spend most of a step on it. A simulation only, where time tells nobody
anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.privacy.aligned import filled
from fedlite.privacy.parts import squares

# Records of so many values in all are kept from one step to the next: with what is found of them
# about 170 MB.
_KEPT = 2**23

Place = tuple[int, torch.Size, tuple[int, ...]]


@dataclass(frozen=True)
class Right:
    """The rows of float64 [g * b, in], all finite, and their squared norms, float64 [g * b]."""

    rows: Tensor
    squares: Tensor


@dataclass
class Block:
    """Some records of each of g sites, site after site.

    inputs: [g * b, ...]; labels: [g * b, ...]. version: of the inputs, before anybody saw them.
    """

    inputs: Tensor
    labels: Tensor
    version: int
    _known: dict[Place, Right | None] = field(default_factory=dict)
    _filled: dict[Place, Tensor] = field(default_factory=dict)
    # Values that may still be kept: once as rows that are filled up, and once in twice the bytes.
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        """Let as much be kept as one reader of all inputs needs, and a fourth more."""
        self._left = 4 * self.inputs.numel()

    def right(self, x: Tensor) -> Right | None:
        """Return what a linear layer makes of x [g * b, in], where it is finite and of the records.

        None where it is not.
        """
        if (place := self._place(x)) is None:
            return None
        if place in self._known:
            return self._known[place]
        rows = x.double()
        of = squares(rows)
        # What is not finite is left to who looks at each layer by itself.
        found = Right(rows, of) if bool(torch.isfinite(of).all()) else None
        if self._room(2 * rows.numel()):
            self._known[place] = found
        return found

    def filled(self, x: Tensor, wide: int) -> Tensor:
        """Return what `fedlite.privacy.aligned.filled` does of x [g * b, in]."""
        if (place := self._place(x)) is None:
            return filled(x, wide)
        if place in self._filled:
            return self._filled[place]
        found = filled(x, wide)
        if found is not x and self._room(found.numel()):
            self._filled[place] = found
        return found

    def _room(self, values: int) -> bool:
        if values > self._left:
            return False
        self._left -= values
        return True

    def _place(self, x: Tensor) -> Place | None:
        """Return where in the records x is; None where it may be anything else.

        Only a view of the inputs is for certain the same in the next step: what else needs no
        gradient may still depend on the values that are trained (`detach`).
        """
        of, own = x.untyped_storage(), self.inputs.untyped_storage()
        if x.dim() != 2 or x._version != self.version or of.data_ptr() != own.data_ptr():
            return None
        return int(x.storage_offset()), x.shape, x.stride()


class Blocks:
    """What makes blocks, and keeps those of the last step."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._of: list[Tensor] = []
        self._rows = np.zeros((0, 0), np.int64)
        self._blocks: list[Block] = []
        self._versions: list[int] = []

    def of(
        self,
        inputs: Sequence[Tensor],
        labels: Sequence[Tensor],
        rows: NDArray[np.int64],
        size: int,
        *,
        keep: bool,
    ) -> list[Block]:
        """Return the records `rows` [g, width] of each site, `size` of each in a block.

        keep: whether the next step will take the same ones.
        """
        of = [*inputs, *labels]
        if keep and self._same(of, rows):
            return self._blocks
        self._of, self._blocks = [], []
        blocks = []
        for where in torch.split(torch.from_numpy(rows), size, 1):
            taken = _taken(inputs, where)
            blocks.append(Block(taken, _taken(labels, where), taken._version))
        if keep and sum(block.inputs.numel() for block in blocks) <= _KEPT:
            self._of, self._rows, self._blocks = of, rows, blocks
            self._versions = self._seen()
        return blocks

    def _seen(self) -> list[int]:
        """Return how often somebody has written into what was taken, and into copies of it."""
        copies = [t for block in self._blocks for t in (block.inputs, block.labels)]
        # Of one that is made for inference that is not counted.
        return [-1 if t.is_inference() else t._version for t in (*self._of, *copies)]

    def _same(self, of: list[Tensor], rows: NDArray[np.int64]) -> bool:
        return (
            len(of) == len(self._of)
            and all(a is b for a, b in zip(of, self._of, strict=True))
            and np.array_equal(rows, self._rows)
            # A model and its loss may write into what they are given.
            and self._versions == self._seen()
        )


def _taken(records: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Return some records of each site, site after site: rows int64 [g, b]."""
    found = records[0].new_empty((*rows.shape, *records[0].shape[1:]))
    for of, chosen, place in zip(records, rows.unbind(), found.unbind(), strict=True):
        torch.index_select(of, 0, chosen, out=place)
    return found.flatten(0, 1)
