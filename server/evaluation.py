"""How good the model is, on held-out records, as a researcher who holds all the data can say.

In a simulation the server's machine has every record, so it evaluates by itself and no site has to
send a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.data import Dataset, SiteData, Source
from fedlite.models import Branched
from fedlite.parameters import Vector, load_vector
from fedlite.plan import Plan

BRANCHES = ("shallow", "deep")
_CHUNK = 4096


@dataclass(frozen=True)
class Scores:
    """Shares in [0, 1] by branch; `auc` is empty unless there are two classes."""

    accuracy: dict[str, float]
    auc: dict[str, float]


class Evaluator:
    """Scores parameter vectors on the source's global test set, or on the sites' own test parts."""

    def __init__(self, plan: Plan, source: Source, sites: tuple[SiteData, ...]) -> None:
        """Take the data; the records are prepared when they are first asked for."""
        self.source, self.sites = source, sites
        self.model = plan.model()

    @property
    def records(self) -> int:
        """How many records `overall` is measured on."""
        return sum(len(part) for part in self._tests)

    @property
    def on(self) -> str:
        """What the scores are measured on, for a person."""
        if self.source.test is not None:
            return f"global test set ({self.records:,} records)"
        return f"sites' own held-out parts ({self.records:,} records)"

    def overall(self, vector: Vector) -> Scores:
        """Score on the global test set; without one, accuracy over all sites' held-out records
        and the mean of the sites' AUCs, each counting the same."""
        measured = self._overall.measure(vector)
        accuracy = {b: float(one.right.sum() / self.records) for b, one in measured.items()}
        known = {b: one.auc[np.isfinite(one.auc)] for b, one in measured.items()}
        auc = {b: float(areas.mean()) for b, areas in known.items() if len(areas)}
        return Scores(accuracy, auc)

    def by_site(self, vector: Vector) -> dict[str, Scores]:
        """Score on each site's own held-out part; sites without one are left out."""
        held = self._held
        measured = held.measure(vector)
        found = {}
        for index in np.flatnonzero(held.sizes):
            accuracy = {b: float(m.right[index] / held.sizes[index]) for b, m in measured.items()}
            areas = {b: float(m.auc[index]) for b, m in measured.items()}
            known = all(map(np.isfinite, areas.values()))
            found[self.sites[index].name] = Scores(accuracy, areas if known else {})
        return found

    @property
    def _tests(self) -> list[Dataset]:
        return [s.test for s in self.sites] if self.source.test is None else [self.source.test]

    @cached_property
    def _held(self) -> _Records:
        return _Records(self.model, [site.test for site in self.sites])

    @cached_property
    def _overall(self) -> _Records:
        return self._held if self.source.test is None else _Records(self.model, self._tests)


@dataclass(frozen=True)
class _Measured:
    """One branch at each owner, float64 [owners]: how many answers are right, and the AUC.

    The AUC is NaN where it is not defined.
    """

    right: NDArray[np.float64]
    auc: NDArray[np.float64]


class _Records:
    """Held-out records, owner after owner in one batch, and how the last model did on them."""

    def __init__(self, model: Branched, parts: Sequence[Dataset]) -> None:
        """Prepare the records of all owners; a part may be empty."""
        self._model = model
        self.sizes = np.array([len(part) for part in parts])
        self._owners = np.repeat(np.arange(len(parts)), self.sizes)
        self._labels = np.concatenate([part.y for part in parts])
        with torch.no_grad():
            self._inputs = model.prepare(torch.from_numpy(np.concatenate([p.x for p in parts])))
        self._last: tuple[Vector, dict[str, _Measured]] | None = None

    def measure(self, vector: Vector) -> dict[str, _Measured]:
        """Return how the model `vector` does, by branch; the model asked for last is not run again.

        Between rounds without an update, and after the last round, the model is still the same.
        """
        if self._last is None or not np.array_equal(self._last[0], vector):
            load_vector(self._model, vector)
            found = {
                branch: self._measured(logits)
                for branch, logits in zip(BRANCHES, self._logits(), strict=True)
            }
            self._last = vector.copy(), found
        return self._last[1]

    def _logits(self) -> list[NDArray[np.float64]]:
        self._model.eval()
        outputs: list[list[Tensor]] = [[] for _ in BRANCHES]
        with torch.no_grad():
            for start in range(0, len(self._labels), _CHUNK):
                answers = self._model(self._inputs[start : start + _CHUNK])
                for kept, logits in zip(outputs, answers, strict=True):
                    kept.append(logits)
        return [torch.cat(kept).double().numpy() for kept in outputs]

    def _measured(self, logits: NDArray[np.float64]) -> _Measured:
        count = len(self.sizes)
        hits = (logits.argmax(1) == self._labels).astype(np.float64)
        right = np.bincount(self._owners, hits, count).astype(np.float64)
        if logits.shape[1] != 2:
            return _Measured(right, np.full(count, np.nan))
        # A hostile update may make logits overflow; that is a bad score, not an error.
        margins = np.nan_to_num(logits[:, 1] - logits[:, 0])
        return _Measured(right, areas_under_curves(margins, self._labels, self._owners, count))


def area_under_curve(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the area under the ROC curve of `scores` [n] for labels [n] in {0, 1}, both present.

    >>> area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    (area,) = areas_under_curves(scores, labels, np.zeros(len(labels), np.int64), 1)
    return float(area)


def areas_under_curves(
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    owners: NDArray[np.int64],
    count: int,
) -> NDArray[np.float64]:
    """Return each owner's area under the ROC curve, float64 [count]; NaN where one label is absent.

    scores: finite, [n]. labels: in {0, 1}, [n]. owners: from 0 to count - 1, [n].

    It is the share of an owner's pairs of one positive and one negative that are ranked right, ties
    counting half (Mann and Whitney 1947). One sort ranks the records of all owners.

    >>> areas_under_curves(np.array([0.1, 0.4, 0.2]), np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([ 1., nan])
    """
    order = np.lexsort((scores, owners))
    scores, labels, owners = scores[order], labels[order], owners[order]
    another = (scores[1:] != scores[:-1]) | (owners[1:] != owners[:-1])
    new = np.r_[True, another][: len(order)]
    first = np.flatnonzero(new)
    after = np.r_[first[1:], len(order)][: len(first)]
    # Equal scores share the middle of their places, counted from 1.
    places = ((first + after + 1) / 2)[np.cumsum(new) - 1]
    sizes = np.bincount(owners, minlength=count)
    places -= (np.cumsum(sizes) - sizes)[owners]
    positive = np.bincount(owners, labels, minlength=count)
    negative = sizes - positive
    ranks = np.bincount(owners, places * labels, minlength=count)
    with np.errstate(invalid="ignore"):
        areas: NDArray[np.float64] = (ranks - positive * (positive + 1) / 2) / (positive * negative)
    return areas
