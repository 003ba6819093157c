"""One of several classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedlite.tasks.curves import areas_under_curves
from fedlite.tasks.interface import Figures, Task, mean_by


class Classification(Task):
    """Targets are class numbers, int64 [n]; answers are logits, one a class.

    Scores are the accuracy and, with two classes, the AUC.
    """

    main = "accuracy"
    averaged = frozenset({"auc"})
    least = 2

    def made_up(self, count: int, width: int) -> Tensor:
        """Return the classes in turn."""
        return torch.arange(count) % width

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, in nats."""
        return functional.cross_entropy(answers, targets, reduction="none")

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return `T^2 KL(softmax(teacher / T) || softmax(student / T))`, in nats.

        Source: Hinton, Vinyals and Dean 2015, section 2, for T^2.
        """
        wanted = functional.log_softmax(teacher / temperature, dim=1)
        found = functional.log_softmax(student / temperature, dim=1)
        return temperature**2 * (wanted.exp() * (wanted - found)).sum(dim=1)

    def shares(self, answers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of each class; each row adds up to 1."""
        powers = np.exp(answers - answers.max(axis=1, keepdims=True))
        found: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return found

    def scores(
        self,
        answers: NDArray[np.float64],
        targets: NDArray[Any],
        owners: NDArray[np.int64],
        count: int,
        scale: NDArray[np.float64] | None = None,
    ) -> Figures:
        """Return `accuracy` and, with two classes, `auc`."""
        hits = (answers.argmax(1) == targets).astype(np.float64)
        found = {"accuracy": mean_by(hits, owners, count)}
        if answers.shape[1] == 2:
            # A hostile update may make logits overflow; that is a bad score, not an error.
            margins = np.nan_to_num(answers[:, 1] - answers[:, 0])
            found["auc"] = areas_under_curves(margins, targets.astype(np.int64), owners, count)
        return found
