"""What a trained model says of records: labels with their probabilities, or values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.evaluation.records import Records
from fedlite.evaluation.trained import Trained

# Further figures of a probability or a value say nothing.
_DIGITS = 6


@dataclass(frozen=True)
class Predictions:
    """Answers of one branch to n records.

    names: classes, labels or targets. probabilities: float64 [n, width], of classes each row adding
    up to 1; None where values are answered. values: float64 [n, width], in the targets' own units;
    None where classes or labels are. exclusive: whether one of the classes holds.
    """

    branch: str
    names: tuple[str, ...]
    probabilities: NDArray[np.float64] | None
    values: NDArray[np.float64] | None
    exclusive: bool
    sites: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return how many records were answered."""
        found = self.values if self.probabilities is None else self.probabilities
        return 0 if found is None else len(found)

    @property
    def labels(self) -> tuple[str, ...]:
        """The likeliest class of each record, or its labels that hold, split by commas."""
        if self.probabilities is None:
            return ()
        if self.exclusive:
            return tuple(self.names[at] for at in self.probabilities.argmax(axis=1))
        return tuple(
            ", ".join(name for name, share in zip(self.names, row, strict=True) if share > 0.5)
            for row in self.probabilities
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a record, in the order of the file, numbered from 1."""
        found, labels = [], self.labels
        for at in range(len(self)):
            row: dict[str, Any] = {"record": at + 1}
            if self.sites:
                row["site"] = self.sites[at]
            if self.probabilities is not None:
                row["label"] = labels[at]
                row |= _put(self.names, self.probabilities[at], "p({})")
            elif self.values is not None:
                row |= _put(self.names, self.values[at], "{}")
            found.append(row)
        return found


def predict(trained: Trained, records: Records, branch: str = "") -> Predictions:
    """Return what a branch answers; the deepest unless one is named.

    Raises ValueError when the model has no such branch.
    """
    branch = branch or trained.branches[-1]
    if branch not in trained.branches:
        raise ValueError(
            f"--branch: must be one of {', '.join(trained.branches)}, got {branch!r}; leave it out "
            "for the deepest"
        )
    answers = trained.answers(records.data)[branch]
    shares = trained.task.shares(answers)
    sites: tuple[str, ...] = ()
    if records.sites is not None:
        sites = tuple(records.site_names[at] for at in records.sites)
    values = None if shares is not None else in_units(answers, trained.scale)
    exclusive = trained.scenario.classifies
    return Predictions(branch, trained.labels, shares, values, exclusive, sites)


def in_units(values: NDArray[np.float64], scale: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return answers in the targets' own units.

    >>> in_units(np.array([[-1.0], [0.0]]), np.array([[0.0], [120.0]])).ravel().tolist()
    [0.0, 60.0]
    """
    if scale is None:
        return values
    low, high = scale
    found: NDArray[np.float64] = (values + 1) * ((high - low) / 2) + low
    return found


def _put(names: tuple[str, ...], row: NDArray[np.float64], form: str) -> dict[str, float]:
    figures = (float(f"{value:.{_DIGITS}g}") for value in row)
    return {form.format(name): value for name, value in zip(names, figures, strict=True)}
