"""What a site counts of its calibration records, exactly or with noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedlite.data import Dataset
from fedlite.inference import calibration, routing
from fedlite.inference.calibration import GRID, Counts
from fedlite.inference.told import Cells, cells_of, coarser
from fedlite.inference.work import Answered, Answering, answered
from fedlite.privacy import RecordMechanism, counting
from fedlite.privacy.noise import Stream
from fedlite.scenario import Scenario, ScenarioError
from fedlite.settings import read_options


def site_counts(scenario: Scenario, trained: Answering, data: Dataset, classes: int) -> Counts:
    """Return the exact counts of calibration records."""
    return _counts(scenario, answered(trained, data), classes)


def noised_cells(
    scenario: Scenario,
    trained: Answering,
    data: Dataset,
    classes: int,
    mechanism: RecordMechanism,
    stream: Stream,
) -> Cells:
    """Return what a private site may tell of its calibration records, of none as of many.

    Each record is answered and scored alone. Beside others a kernel may round it otherwise, and
    then one record more could move another over a threshold: more than one cell would change. No
    record makes the site fail: one whose answer is no number is scored as nothing can be surer of.

    Raises ScenarioError for a router that is not of the house: code of one's own may look at more
    than the record.
    """
    check_router(scenario)
    cells = np.zeros((2, len(GRID)), np.int64)
    for at in range(len(data)):
        one = _finite(answered(trained, data.take(np.array([at]))))
        cells += cells_of(_counts(scenario, one, classes)).counts
    clean = coarser(Cells(cells))
    sigma = mechanism.noise_multiplier
    return Cells(counting.noised(clean, sigma, stream), sigma)


def check_router(scenario: Scenario) -> None:
    """Raise ScenarioError where noise would not cover what a router may look at."""
    chosen = scenario.inference
    if chosen.epsilon and chosen.router not in routing.HOUSE:
        raise ScenarioError(
            f"inference.router: must be one of {', '.join(routing.HOUSE)} with inference.epsilon "
            "(rule: the noise covers routers that look at one record alone), got "
            f"{chosen.router!r}; take one of these"
        )


def _counts(scenario: Scenario, of: Answered, classes: int) -> Counts:
    chosen = scenario.inference
    options: Mapping[str, Any] = read_options(chosen.router_options)
    scores = of.scores(chosen.router, options)
    truth = of.truth if chosen.labels else None
    return calibration.count(scores, of.shallow, of.deep, classes, truth)


def _finite(of: Answered) -> Answered:
    """Return the same with equal probabilities where they are no numbers."""
    shares = np.where(np.isfinite(of.shares), of.shares, 1.0 / of.shares.shape[1])
    inputs = np.nan_to_num(of.inputs) if of.inputs.dtype.kind == "f" else of.inputs
    return Answered(inputs, shares, of.shallow, of.deep, of.truth)
