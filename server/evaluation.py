"""How good the model is, on held-out records, as a researcher who holds all the data can say.

In a simulation the server's machine has every record, so it evaluates by itself and no site has to
send a score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite.data import Dataset, SiteData, Source
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
        """Prepare the records once."""
        self.source, self.sites = source, sites
        self.model = plan.model()
        self._site_tests = [self._prepare(site.test) for site in self.sites]
        self._global = None if self.source.test is None else self._prepare(self.source.test)

    @property
    def on(self) -> str:
        """What the scores are measured on, for a person."""
        if self._global is not None:
            return f"global test set ({len(self._global[1])} records)"
        records = sum(len(y) for _, y in self._site_tests)
        return f"sites' own held-out parts ({records} records)"

    def overall(self, vector: Vector) -> Scores:
        """Score on the global test set; without one, accuracy over all sites' held-out records
        and the mean of the sites' AUCs."""
        load_vector(self.model, vector)
        if self._global is not None:
            return self._scores(*self._global)
        held = [(x, y) for x, y in self._site_tests if len(y)]
        parts = [self._scores(x, y) for x, y in held]
        counts = [len(y) for _, y in held]
        return Scores(
            accuracy={
                b: float(np.average([p.accuracy[b] for p in parts], weights=counts))
                for b in BRANCHES
            },
            auc=_mean([p.auc for p in parts if p.auc]),
        )

    def by_site(self, vector: Vector) -> dict[str, Scores]:
        """Score on each site's own held-out part; sites without one are left out."""
        load_vector(self.model, vector)
        return {
            site.name: self._scores(x, y)
            for site, (x, y) in zip(self.sites, self._site_tests, strict=True)
            if len(y)
        }

    def _prepare(self, data: Dataset) -> tuple[Tensor, NDArray[np.int64]]:
        with torch.no_grad():
            return self.model.prepare(torch.from_numpy(data.x)), data.y

    def _scores(self, inputs: Tensor, labels: NDArray[np.int64]) -> Scores:
        self.model.eval()
        outputs: list[list[Tensor]] = [[], []]
        with torch.no_grad():
            for start in range(0, len(labels), _CHUNK):
                for kept, logits in zip(
                    outputs, self.model(inputs[start : start + _CHUNK]), strict=True
                ):
                    kept.append(logits)
        accuracy, auc = {}, {}
        for branch, kept in zip(BRANCHES, outputs, strict=True):
            logits = torch.cat(kept).double().numpy()
            accuracy[branch] = float((logits.argmax(1) == labels).mean())
            if logits.shape[1] == 2 and 0 < labels.sum() < len(labels):
                # A hostile update may make logits overflow; that is a bad score, not an error.
                margin = np.nan_to_num(logits[:, 1] - logits[:, 0])
                auc[branch] = area_under_curve(margin, labels)
        return Scores(accuracy, auc)


def area_under_curve(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the area under the ROC curve of `scores` [n] for labels [n] in {0, 1}, both present.

    The share of pairs of one positive and one negative that are ranked right, ties counting half
    (Mann and Whitney 1947). scikit-learn's own checks would cost more than a round of training.

    >>> area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    from scipy.stats import rankdata

    positive = int(labels.sum())
    negative = len(labels) - positive
    ranks = float(rankdata(scores)[labels == 1].sum())
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    if not rows:
        return {}
    return {branch: float(np.mean([row[branch] for row in rows])) for branch in BRANCHES}
