"""What a federation learns to answer: how a batch is made, the loss of a record, the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.data.dataset import Dataset

Outputs = tuple[Tensor, ...]
"""What a model answers, the shallowest branch first: each float32 [n, width]."""

Loss = Callable[[Outputs, Tensor], Tensor]
"""loss(outputs, targets) -> [n], one value a record that depends on that record alone."""

Figures = dict[str, NDArray[np.float64]]
"""Scores by name, float64 [owners]; NaN where one is not defined."""


class Task(ABC):
    """A kind of question. A task is one file: a subclass, and a line in the registry.

    main: the score that is looked at first. averaged: scores whose figure for several sites is the
    mean of the sites' own, as they rank records of one site; all others are of all records at once.
    least: the narrowest answer that makes sense. like: the task of the house that takes the same
    records, which says what they hold: a class's number, numbers, or zeros and ones.
    """

    main: ClassVar[str]
    averaged: ClassVar[frozenset[str]] = frozenset()
    least: ClassVar[int] = 1
    like: ClassVar[str] = "classification"

    def tensors(self, data: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return what the model reads and what it should answer, one row a record.

        Each is one tensor, so that a batch is a choice of rows of both; of several columns a task
        makes one (token ids and their mask, say, as int64 [n, 2, length]).
        """
        return torch.from_numpy(data.x).to(device), torch.from_numpy(data.y).to(device)

    @abstractmethod
    def made_up(self, count: int, width: int) -> Tensor:
        """Return targets of `count` records that nobody holds, for trial steps."""

    @abstractmethod
    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each record, [n], for one branch's answers, float [n, width]."""

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return how far a branch is from a deeper one, [n], at least 0: for self-distillation."""

    def shares(self, answers: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return the probability of each class or label, float64 [n, width].

        None where answers are no probabilities, as it is unless a task says otherwise.
        """
        return None

    @abstractmethod
    def scores(
        self,
        answers: NDArray[np.float64],
        targets: NDArray[Any],
        owners: NDArray[np.int64],
        count: int,
        scale: NDArray[np.float64] | None = None,
    ) -> Figures:
        """Return every score at each owner of records.

        answers: float64 [n, width], perhaps not finite. targets: as in a data set. owners: from 0
        to `count` - 1, [n]. scale: float64 [2, width], what the targets -1 and 1 stand for; None
        where they stand as they are.
        """


def mean_by(
    values: NDArray[np.float64], owners: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Return each owner's mean of `values` [n], float64 [count]; NaN where it has none.

    >>> mean_by(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), 3)
    array([ 2., nan,  5.])
    """
    sizes = np.bincount(owners, minlength=count)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = np.bincount(owners, values, count) / sizes
    return found


def known(scores: Mapping[str, NDArray[np.float64]], owner: int) -> dict[str, float]:
    """Return one owner's scores, those that are defined."""
    return {k: float(v[owner]) for k, v in scores.items() if np.isfinite(v[owner])}
