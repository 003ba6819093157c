"""Per-record gradients on a common support: only the coordinates that a round sums.

The support is public and drawn before any gradient is taken, so a record's gradient on it, scaled
by public factors, is a gradient like any other: it is clipped as a whole, and its sum is noised on
every coordinate that is sent.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.privacy.gradients import Loss, ModelGradients
from fedlite.privacy.parts import Part


class RestrictedGradients(ModelGradients):
    """`ModelGradients` of which only some coordinates count, each times a factor.

    indices: ascending coordinates of the flat gradient, int64 [k]; factors: float64 [k]. Both are
    public. Norms and sums are of the k scaled values, `size` is k.
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
        scales = np.zeros(self.size)
        scales[indices] = np.square(factors)
        sizes = [p.numel() for p in self.parameters]
        self._scales = torch.split(torch.from_numpy(scales).to(labels.device), sizes)
        self._indices, self._factors, self.size = indices, factors, len(indices)

    def _norms(self, parts: list[Part | None], total: Tensor) -> None:
        for part, scales in zip(parts, self._scales, strict=True):
            if part is not None:
                total += part.squares(scales)

    def weighted(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the same records' scaled values, each times its factor, float64 [k]."""
        return super().weighted(factors)[self._indices] * self._factors
