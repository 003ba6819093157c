"""What routing comes to on answered records: accuracy against work, harm, and who is harmed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlite.data import Dataset
from fedlite.data.keyed import keyed_hash
from fedlite.inference import routing
from fedlite.inference.calibration import GRID
from fedlite.tasks.curves import area_under_curve

BRANCHES = ("shallow", "deep")


@dataclass(frozen=True)
class Costs:
    """Multiply-accumulates of a record in the parts of a deployed model."""

    stem: int
    exit: int
    tail: int

    @staticmethod
    def of(costs: Mapping[str, Mapping[str, int]]) -> Costs:
        """Return them from what `Branched.costs` tells."""
        return Costs(*(costs[part]["macs"] for part in ("stem", "exit", "tail")))

    @property
    def deep(self) -> int:
        """All records go deep, and nobody asks the exit."""
        return self.stem + self.tail

    @property
    def shallow(self) -> int:
        """All records leave early."""
        return self.stem + self.exit

    def adaptive(self, early: float) -> float:
        """Return the mean over records of which the share `early` leaves early."""
        return self.shallow + (1 - early) * self.tail


@dataclass(frozen=True)
class Answered:
    """Answers of both branches to n records, and what tells whether they are right.

    inputs: [n, *shape]. shares: float64 [n, classes], the shallow branch's probabilities. shallow,
    deep, truth: classes, int64 [n].
    """

    inputs: NDArray[Any]
    shares: NDArray[np.float64]
    shallow: NDArray[np.int64]
    deep: NDArray[np.int64]
    truth: NDArray[np.int64]

    def __len__(self) -> int:
        """Return how many records were answered."""
        return len(self.truth)

    def scores(self, router: str, options: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return a router's scores, [n]."""
        return routing.scores(router, self.inputs, self.shares, options)


class Answering(Protocol):
    """A model that answers twice, ready to."""

    def answers(self, data: Dataset) -> dict[str, NDArray[np.float64]]:
        """Return each branch's answers, float64 [n, width], of records scaled as in training."""


def answered(trained: Answering, data: Dataset) -> Answered:
    """Return the answers of a model with a shallow and a deep branch to records with classes."""
    found = trained.answers(data)
    shallow, deep = (found[branch].argmax(axis=1) for branch in BRANCHES)
    return Answered(data.x, routing.softmax(found[BRANCHES[0]]), shallow, deep, data.y)


def copies(parts: Sequence[Dataset]) -> int:
    """Return how many of these records are the same as one before, input and label.

    Who calibrates is settled by a record's own hash, so copies come together: they are fewer draws
    than they look, and a bound that takes them for as many is broken more often than it says.
    """
    hashes = np.concatenate([keyed_hash(part, 0, "copies") for part in parts])
    return len(hashes) - len(np.unique(hashes))


def early(scores: NDArray[np.float64], threshold: float | None) -> NDArray[np.bool_]:
    """Return which inputs leave early, bool [n]."""
    return np.zeros(len(scores), np.bool_) if threshold is None else scores >= threshold


def outcome(of: Answered, leaves: NDArray[np.bool_]) -> dict[str, Any]:
    """Return what comes of letting these records leave early; there must be one record at least.

    `accuracy` of both branches and of what is answered, `loss` against the deep branch, `harm` (the
    share of answers that it has right and that are wrong now), `share_shallow`.
    """
    given = np.where(leaves, of.shallow, of.deep)
    hits = {"deep": of.deep == of.truth, "shallow": of.shallow == of.truth}
    hits["adaptive"] = given == of.truth
    accuracy = {name: float(hit.mean()) for name, hit in hits.items()}
    return {
        "records": len(of),
        "share_shallow": float(leaves.mean()),
        "accuracy": accuracy,
        "loss": accuracy["deep"] - accuracy["adaptive"],
        "harm": float((hits["deep"] & ~hits["adaptive"]).mean()),
    }


def harm_by_class(
    of: Answered, leaves: NDArray[np.bool_], labels: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Return of each class that occurs how many records it has, and the share that is harmed."""
    harmed = leaves & (of.deep == of.truth) & (of.shallow != of.truth)
    sizes = np.bincount(of.truth, minlength=len(labels))
    counts = np.bincount(of.truth, harmed, minlength=len(labels))
    return {
        label: {"records": int(sizes[at]), "harm": float(counts[at] / sizes[at])}
        for at, label in enumerate(labels)
        if sizes[at]
    }


def curve(of: Answered, scores: NDArray[np.float64], costs: Costs) -> list[dict[str, float]]:
    """Return accuracy and work at each threshold of the grid, the strictest first."""
    found = []
    for threshold in GRID.tolist():
        told = outcome(of, early(scores, threshold))
        share = told["share_shallow"]
        row = {"threshold": threshold, "share_shallow": share, "macs": costs.adaptive(share)}
        found.append(row | {"accuracy": told["accuracy"]["adaptive"]})
    return found


def auroc(of: Answered, scores: NDArray[np.float64]) -> float | None:
    """Return how well scores tell right shallow answers from wrong ones; None where all are alike.

    0.5 is a coin's. Calibrated probabilities are no help here: only the order counts.
    """
    right = (of.shallow == of.truth).astype(np.int64)
    if right.all() or not right.any():
        return None
    return area_under_curve(scores, right)
