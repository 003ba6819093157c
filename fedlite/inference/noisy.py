"""A threshold from noised counts, with the same promise as one from exact counts.

Learn then test with fixed-sequence testing accepts a threshold with more harm than alpha only if it
accepts the first such threshold, t, of the sequence; which one that is depends on nothing that is
drawn. At t the test is given an upper bound of the harmed instead of their number, and a lower
bound of the records. Where both hold, its p-value is at least that of the exact test. So the
chance to accept t is at most the test's own level and the chance that one of two bounds fails, at
this one threshold: nothing is added up over the grid. Of the chance of error, 1 - confidence, the
test has four fifths, and each bound a tenth.

The bounds are quantiles of the noise alone (`fedlite.privacy.counting.at_most`): of the cells that
add up to the harmed at a threshold, and of all cells, for the records. They are the price of
noise: with them, more records are needed before anything is promised, and fewer inputs leave early.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedlite.inference.calibration import Choice, p_value
from fedlite.inference.told import Cells, together
from fedlite.privacy.counting import at_most

_TEST, _BOUND = 0.8, 0.1


@dataclass(frozen=True)
class Noisy(Choice):
    """A choice, of estimates, and what it was tested with.

    harm_at_most, records_at_least: the bounds at the threshold; at the strictest one where none was
    chosen.
    """

    harm_at_most: int = 0
    records_at_least: int = 0


def choose(cells: Cells, sites: int, alpha: float, confidence: float) -> Noisy:
    """Return the loosest threshold that noised counts allow.

    cells: the sum over `sites` sites, each of whose counts has the noise of `cells`. alpha,
    confidence: as of `fedlite.inference.calibration.choose`, whose promise this keeps.
    """
    wrong = 1 - confidence

    def bound(of: int) -> int:
        return at_most(of * sites, cells.noise, _BOUND * wrong)

    records = max(0, cells.total - bound(cells.counts.size))
    found, tested = None, 0
    for at, harm in enumerate(cells.harm.tolist()):
        worst = max(0, harm + bound(at + 1))
        if found is None:
            tested = worst
        chance = p_value(worst, records, alpha)
        if chance > _TEST * wrong or chance >= 1:
            break
        found, tested = at, worst
    total = max(0, cells.total)
    if found is None:
        needed = _least(max(0, bound(1)), alpha, _TEST * wrong)
        return Noisy(None, total, 0, 0, max(0, needed - records), tested, records)
    harm, shallow = (max(0, int(of[found])) for of in (cells.harm, cells.shallow))
    threshold = float(cells.grid[found])
    return Noisy(threshold, total, harm, min(shallow, total), 0, tested, records)


def by_site(
    told: Mapping[str, Cells], kind: str, alpha: float, confidence: float
) -> dict[str, Noisy]:
    """Return the threshold of each site; kind: `pooled`, or `site` for each by its own counts.

    Raises ValueError when no site has told anything, and for another kind: of a mixture no bound of
    the noise is known here.
    """
    if not told:
        raise ValueError("counts: must be those of one site at least, got none")
    if kind == "pooled":
        one = choose(together(told.values()), len(told), alpha, confidence)
        return dict.fromkeys(told, one)
    if kind != "site":
        raise ValueError(f"kind: must be pooled or site for noised counts, got {kind!r}")
    return {name: choose(own, 1, alpha, confidence) for name, own in told.items()}


def _least(harm: int, alpha: float, level: float) -> int:
    """Return with how many records at least a test with so many harmed can pass."""
    low, high = harm, max(1, 2 * harm)
    while p_value(harm, high, alpha) > level:
        low, high = high, 2 * high
        if high > 2**62:
            return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if p_value(harm, middle, alpha) <= level else (middle, high)
    return int(np.int64(high))
