"""Texts that are their own answers: how well each token is foreseen from those before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.scenario.texts import LANGUAGE
from fedlite.tasks.interface import Figures, Task, mean_by

# No score is higher: a model that is spoilt overflows, and a record of a run holds no infinity.
_WORST_NATS = 700.0


class Language(Task):
    """Records are texts, int64 [n, 2, length]: token ids over a mask; there is nothing beside them.

    A model answers with the loss itself, float32 [n, 1]: the mean negative log-likelihood of a
    record's tokens that are foreseen, in nats. So a record is a text, whatever its length, and each
    counts the same. Targets are 0, the loss of who foresees every token. Scores are `perplexity`,
    the exponential of the mean over records, and `nll`, that mean: of both less is better.
    """

    main = "perplexity"
    like = LANGUAGE

    def made_up(self, count: int, width: int) -> Tensor:
        """Return the loss that is aimed at: nothing."""
        return torch.zeros(count, width)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return what the model answered, less nothing."""
        return (answers - targets).sum(dim=1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return half the squared difference: of what else a branch foresaw a loss says nothing.

        Scenarios refuse `training.distill` with this task.
        """
        return 0.5 * (student - teacher).square().sum(dim=1)

    def scores(
        self,
        answers: NDArray[np.float64],
        targets: NDArray[Any],
        owners: NDArray[np.int64],
        count: int,
        scale: NDArray[np.float64] | None = None,
    ) -> Figures:
        """Return `perplexity` and `nll`; records without a foreseeable token count as foreseen."""
        worst = np.nan_to_num(answers[:, 0], nan=_WORST_NATS, posinf=_WORST_NATS)
        nll = mean_by(np.minimum(worst, _WORST_NATS), owners, count)
        return {"perplexity": np.exp(nll), "nll": nll}
