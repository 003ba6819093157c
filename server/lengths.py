"""A robust bound on how long an update may be, where nothing is known of it beforehand.

An honest site's update may be ten or twenty times as long as another's, because it has more records
or odder ones. One that is a hundred times as long as the median of its round is a fault or an
attack; kept at that length it would be the model. It is cut to the median: what is beyond any
honest spread is not worth more than a usual update.

The median of a round is that of the updates that are not zero, the larger one of two in the middle.
The usual length is the largest median so far, this round's included, so that a minority moves it
neither up nor down, a run whose updates grow together is left alone, and late rounds, in which most
sites have little left to learn, do not shorten the rest. Where values take turns it is that of the
rounds of the same turn; where some sites train the shallow branch alone, it is found of that, which
all of them send, and of the tail by itself. A round has a median from three updates on; in one with
fewer that of the rounds before holds, and in a run of two sites none is cut: nobody can tell which
of two is the odd one.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_high

from fedlite.plan import Plan
from fedlite.reporting.record import RoundRecord

LEAST = 3
"""Updates that are not zero without which a round has no median."""


def median_of(lengths: list[float]) -> float:
    """Return the usual length among those of a round's updates; 0 where it cannot be told.

    >>> median_of([1.0, 9e14, 2.0, 0.0]), median_of([1.0, 9e14, 0.0])
    (2.0, 0.0)
    """
    moving = [length for length in lengths if length > 0.0]
    return median_high(moving) if len(moving) >= LEAST else 0.0


def usual(plan: Plan, records: Sequence[RoundRecord], number: int) -> tuple[float, float]:
    """Return the largest medians before round `number`: of what all sites train, and of the tail.

    Without weak sites the first is that of whole updates; 0 for none.
    """
    before = alike(plan, records, number)
    first = max((record.median for record in before), default=0.0)
    return first, max((record.median_tail for record in before), default=0.0)


def alike(plan: Plan, records: Sequence[RoundRecord], number: int) -> list[RoundRecord]:
    """Return the rounds in which the same values moved as do in round `number`."""
    return [record for record in records if plan.turn(record.round) is plan.turn(number)]
