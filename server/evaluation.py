"""How good the model is, on held-out records, as a researcher who holds all the data can say.

In a simulation the server's machine has every record, so it evaluates by itself and no site has to
send a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.data import Dataset, SiteData, Source
from fedlite.models import Model
from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.tasks import Figures

_CHUNK = 4096

Scores = dict[str, dict[str, float]]
"""A figure by score and by branch, as `scores["accuracy"]["deep"]`; what is undefined is absent."""


class Evaluator:
    """Scores parameter vectors on the source's global test set, or on the sites' own test parts."""

    def __init__(self, plan: Plan, source: Source, sites: Sequence[SiteData]) -> None:
        """Take the data; the records are prepared when they are first asked for."""
        self.source, self.sites = source, sites
        self.model, self.plan, self.task = plan.model(), plan, plan.task

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
        """Score on the global test set; without one, over all sites' held-out records together,
        but for scores that rank records: these are the mean of the sites' own, each counting the
        same."""
        one = self.source.test is not None
        return self._whole.overall(vector, frozenset() if one else self.task.averaged)

    def by_site(self, vector: Vector) -> dict[str, Scores]:
        """Score on each site's own held-out part; sites without one are left out."""
        held, found = self._held, dict[str, Scores]()
        if not held.sizes.any():
            return found
        measured = held.measure(vector)
        for index in np.flatnonzero(held.sizes):
            scores: Scores = {}
            for name in next(iter(measured.values())):
                figures = {b: float(m[name][index]) for b, m in measured.items()}
                if all(map(np.isfinite, figures.values())):
                    scores[name] = figures
            found[self.sites[int(index)].name] = scores
        return found

    @property
    def _tests(self) -> list[Dataset]:
        return [s.test for s in self.sites] if self.source.test is None else [self.source.test]

    @cached_property
    def _held(self) -> _Records:
        return self._of([site.test for site in self.sites])

    @cached_property
    def _whole(self) -> _Records:
        return self._held if self.source.test is None else self._of(self._tests)

    def _of(self, parts: Sequence[Dataset]) -> _Records:
        return _Records(self.model, self.plan, parts, self.source.scale)


class _Records:
    """Held-out records, owner after owner in one batch, and how the last model did on them."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        parts: Sequence[Dataset],
        scale: NDArray[np.float64] | None,
    ) -> None:
        """Prepare the records of all owners; a part may be empty."""
        self._model, self._plan, self._scale = model, plan, scale
        self.sizes = np.array([len(part) for part in parts])
        self._owners = np.repeat(np.arange(len(parts)), self.sizes)
        tensors = [plan.task.tensors(part, torch.device("cpu")) for part in parts]
        with torch.no_grad():
            self._inputs = model.prepare(torch.cat([inputs for inputs, _ in tensors]))
        self._targets = torch.cat([targets for _, targets in tensors]).numpy()
        self._last: tuple[Vector, dict[str, NDArray[np.float64]]] | None = None

    def measure(self, vector: Vector) -> dict[str, Figures]:
        """Return how the model `vector` does at each owner, by branch."""
        return {
            branch: self._scores(answers, self._owners, len(self.sizes))
            for branch, answers in self._answers(vector).items()
        }

    def overall(self, vector: Vector, averaged: frozenset[str]) -> Scores:
        """Return how it does on all records, or, for what is `averaged`, at the owners' mean."""
        nobody, found = np.zeros(len(self._owners), np.int64), Scores()
        for branch, answers in self._answers(vector).items():
            figures = self._scores(answers, nobody, 1)
            if averaged & figures.keys():
                own = self._scores(answers, self._owners, len(self.sizes))
                for name in averaged & figures.keys():
                    known = own[name][np.isfinite(own[name])]
                    figures[name] = np.array([known.mean() if len(known) else np.nan])
            for name, values in figures.items():
                if np.isfinite(values[0]):
                    found.setdefault(name, {})[branch] = float(values[0])
        return found

    def _scores(
        self, answers: NDArray[np.float64], owners: NDArray[np.int64], count: int
    ) -> Figures:
        return self._plan.task.scores(answers, self._targets, owners, count, self._scale)

    def _answers(self, vector: Vector) -> dict[str, NDArray[np.float64]]:
        """Return each branch's answers; the model asked for last is not run again.

        Between rounds without an update, and after the last round, the model is still the same.
        """
        if self._last is None or not np.array_equal(self._last[0], vector):
            self._plan.load(self._model, vector)
            self._last = vector.copy(), self._run()
        return self._last[1]

    def _run(self) -> dict[str, NDArray[np.float64]]:
        self._model.eval()
        outputs: dict[str, list[Tensor]] = {branch: [] for branch in self._model.branches}
        with torch.no_grad():
            for start in range(0, len(self._targets), _CHUNK):
                answers = self._model(self._inputs[start : start + _CHUNK])
                for kept, found in zip(outputs.values(), answers, strict=True):
                    kept.append(found)
        return {branch: torch.cat(kept).double().numpy() for branch, kept in outputs.items()}
