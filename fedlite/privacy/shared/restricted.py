"""Per-record gradients on a common support: only the coordinates that a round sums.

The support is public and drawn before any gradient is taken, so a record's gradient on it, scaled
by public factors, is a gradient like any other: it is clipped as a whole, and its sum is noised on
every coordinate that is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.privacy.gradients import Loss, ModelGradients
from fedlite.privacy.parts import Part, squares

# Coordinates that are looked at together: a block of 512 records then takes 16 MB.
_TOGETHER = 4096


class RestrictedGradients(ModelGradients):
    """`ModelGradients` of which only some coordinates count, each times a factor.

    indices: ascending coordinates of the flat gradient, int64 [k]; factors: float64 [k]. Both are
    public. Norms and sums are of the k scaled values, `size` is k. The values are computed anew for
    the sum, from the very numbers of the norms: they may be too many to be kept.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        loss: Loss,
        block: int,
        indices: NDArray[np.int64],
        factors: NDArray[np.float64],
    ) -> None:
        """Keep the records and which coordinates count; nothing is computed yet."""
        super().__init__(model, inputs, labels, loss, block)
        ends = np.cumsum([p.numel() for p in self.parameters])
        cuts = np.searchsorted(indices, ends)
        self._chosen: list[list[tuple[Tensor, Tensor]]] = []
        for start, low, high in zip(np.r_[0, ends[:-1]], np.r_[0, cuts[:-1]], cuts, strict=True):
            pieces = []
            for at in range(low, high, _TOGETHER):
                piece = slice(at, min(at + _TOGETHER, high))
                where = torch.from_numpy(indices[piece] - start).to(labels.device)
                pieces.append((where, torch.from_numpy(factors[piece]).to(labels.device)))
            self._chosen.append(pieces)
        self.size = len(indices)

    def _norms(self, parts: list[Part | None], total: Tensor) -> None:
        for part, pieces in zip(parts, self._chosen, strict=True):
            if part is not None:
                for where, factors in pieces:
                    total += squares(part.at(where) * factors)

    def weighted(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the same records' scaled values, each times its factor, float64 [k]."""
        padded = self._padded(factors)
        device = self._labels.device
        total = torch.zeros(self.size, dtype=torch.float64, device=device)
        for at, parts in enumerate(self._blocks):
            block = padded[at * self._block : (at + 1) * self._block]
            weights = torch.from_numpy(block).to(device)
            for piece, values in self._pieces(parts, total):
                piece += weights @ torch.nan_to_num_(values, 0.0, 0.0, 0.0)
        self._blocks = []
        found: NDArray[np.float64] = total.cpu().numpy()
        return found

    def _pieces(self, parts: list[Part | None], total: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """Yield each piece of the sum with its scaled values, float64 [block, piece]."""
        at = 0
        for part, pieces in zip(parts, self._chosen, strict=True):
            for where, factors in pieces:
                if part is not None:
                    yield total[at : at + len(where)], part.at(where) * factors
                at += len(where)
