"""Several labels, each of which holds or does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedlite.tasks.curves import areas_under_curves
from fedlite.tasks.interface import Figures, Task, mean_by


class MultiLabel(Task):
    """Targets are 0 or 1, float32 [n, width]; answers are one logit a label.

    Scores are `f1` (of all decisions together: 0 where no label is ever found), `accuracy` (the
    share of decisions that are right, which rare labels make high) and `auc` (the mean of the
    labels' that both occur).
    """

    main = "f1"
    like = "multilabel"
    averaged = frozenset({"auc"})

    def made_up(self, count: int, width: int) -> Tensor:
        """Return zeros and ones in turn."""
        return (torch.arange(count * width) % 2).float().reshape(count, width)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the labels of the binary cross-entropies, in nats."""
        losses = functional.binary_cross_entropy_with_logits(answers, targets, reduction="none")
        return losses.mean(dim=1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return `T^2` times the mean over the labels of the divergences of two coins, in nats."""
        wanted = torch.sigmoid(teacher / temperature)
        both = functional.binary_cross_entropy_with_logits
        apart = both(student / temperature, wanted, reduction="none")
        least = both(teacher / temperature, wanted, reduction="none")
        return temperature**2 * (apart - least).mean(dim=1)

    def shares(self, answers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that each label holds."""
        found: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -answers))
        return found

    def scores(
        self,
        answers: NDArray[np.float64],
        targets: NDArray[Any],
        owners: NDArray[np.int64],
        count: int,
        scale: NDArray[np.float64] | None = None,
    ) -> Figures:
        """Return `f1`, `accuracy` and `auc`."""
        answers = np.nan_to_num(answers)
        told, true = answers > 0, targets > 0.5
        hits = (told == true).mean(axis=1)
        found = np.bincount(owners, (told & true).sum(axis=1), count)
        either = np.bincount(owners, told.sum(axis=1) + true.sum(axis=1), count)
        labels = range(answers.shape[1])
        holds = true.astype(np.int64)
        areas = np.array(
            [areas_under_curves(answers[:, k], holds[:, k], owners, count) for k in labels]
        )
        defined = np.isfinite(areas)
        with np.errstate(invalid="ignore"):
            return {
                "f1": 2 * found / either,
                "accuracy": mean_by(hits, owners, count),
                "auc": np.where(defined, areas, 0.0).sum(axis=0) / defined.sum(axis=0),
            }
