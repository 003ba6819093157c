"""What a site counts of its calibration records, exactly or with noise."""

from __future__ import annotations

import logging

import numpy as np

from fedlite.data import Dataset
from fedlite.inference import calibration, routing
from fedlite.inference.calibration import Counts
from fedlite.inference.told import Cells, cells_of, coarser
from fedlite.inference.work import Answering, answered
from fedlite.privacy import RecordMechanism, counting
from fedlite.privacy.noise import Stream
from fedlite.scenario import Scenario, ScenarioError
from fedlite.settings import read_options

log = logging.getLogger("fedlite.site")

# What a model, or numpy, raises of values that it was not made for.
_OF_A_RECORD = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


def site_counts(scenario: Scenario, trained: Answering, data: Dataset, classes: int) -> Counts:
    """Return the exact counts of calibration records."""
    chosen, of = scenario.inference, answered(trained, data)
    scores = of.scores(chosen.router, read_options(chosen.router_options))
    truth = of.truth if chosen.labels else None
    return calibration.count(scores, of.shallow, of.deep, classes, truth)


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
    then one record more could move another over a threshold: more than one cell would change. What
    follows, comparing scores and adding up, rounds nothing, and is done with all at once.

    No record makes the site fail: one without an answer in numbers scores 0, and one that cannot be
    answered, scored or named by a class at all is harmed at the loosest threshold, one record in
    one cell as any other. The log names the errors, and neither how many there were nor of what.

    Raises ScenarioError for a router that is not of the house: code of one's own may look at more
    than the record.
    """
    check_router(scenario)
    router, options = scenario.inference.router, read_options(scenario.inference.router_options)
    scores = np.zeros(len(data))
    shallow, deep = np.zeros((2, len(data)), np.int64)
    sound, failed = (data.y >= 0) & (data.y < classes), set()
    for at in np.flatnonzero(sound):
        try:
            one = answered(trained, data.take(np.array([at])))
            scores[at] = one.scores(router, options)[0]
            shallow[at], deep[at] = one.shallow[0], one.deep[0]
        except _OF_A_RECORD as error:
            sound[at] = False
            # Its text may hold what the record does.
            failed.add(type(error).__name__)
    if failed:
        log.warning("calibration records could not be scored: %s", ", ".join(sorted(failed)))
    truth = data.y if scenario.inference.labels else None
    found = calibration.count(
        scores[sound],
        shallow[sound],
        deep[sound],
        classes,
        truth if truth is None else truth[sound],
    )
    cells = cells_of(found).counts
    cells[1, -1] += len(data) - int(sound.sum())
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
