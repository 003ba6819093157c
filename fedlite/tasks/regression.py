"""One or more numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.tasks.interface import Figures, Task, mean_by


class Regression(Task):
    """Targets are numbers, float32 [n, width], of the order of 1; answers are their estimates.

    The loss is half the mean squared error. Scores are `r2` (the coefficient of determination: 1
    is right, 0 no better than the owner's mean), and in the targets' own units `mae` and `rmse`;
    of several targets each is the mean.
    """

    main = "r2"
    like = "regression"

    def made_up(self, count: int, width: int) -> Tensor:
        """Return values in [-1, 1] without a pattern."""
        return torch.sin(12.9898 * torch.arange(count * width).square()).reshape(count, width)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return half the mean over the targets of the squared errors."""
        return 0.5 * (answers - targets).square().mean(dim=1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return half the mean squared difference; numbers have no temperature."""
        return self.loss(student, teacher)

    def scores(
        self,
        answers: NDArray[np.float64],
        targets: NDArray[Any],
        owners: NDArray[np.int64],
        count: int,
        scale: NDArray[np.float64] | None = None,
    ) -> Figures:
        """Return `r2`, `mae` and `rmse`; `r2` is undefined where an owner's targets are alike."""
        unit = np.ones(answers.shape[1]) if scale is None else (scale[1] - scale[0]) / 2
        wrong = np.nan_to_num(answers, nan=1e30, posinf=1e30, neginf=-1e30) - targets
        columns = range(answers.shape[1])
        squares = np.array([mean_by(wrong[:, k] ** 2, owners, count) for k in columns])
        errors = np.array([mean_by(np.abs(wrong[:, k]), owners, count) for k in columns])
        means = np.array([mean_by(targets[:, k], owners, count) for k in columns])
        spread = np.array(
            [mean_by((targets[:, k] - means[k, owners]) ** 2, owners, count) for k in columns]
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = np.where(spread > 0, 1 - squares / spread, np.nan).mean(axis=0)
        return {
            "r2": r2,
            "mae": (unit[:, None] * errors).mean(axis=0),
            "rmse": (unit[:, None] * np.sqrt(squares)).mean(axis=0),
        }
