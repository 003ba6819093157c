"""When a site asks again: each question costs Flower's SuperLink some 12 ms of its one core.

It answers the questions of all sites one by one, so a hundred that ask four times a second would
leave it no time for their updates.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SHORTEST, LONGEST = 0.25, 3.0
# Of the time since the last message: a round that has taken long may take longer.
_SHARE = 0.1
# Of the time between the last two: rounds of one run resemble each other.
_EARLY, _LONGEST_EARLY = 0.5, 5.0
# Of the seconds that a question took: where many ask, everybody waits for an answer.
_COURTESY = 5.0


def until_tick(elapsed: float, clock: int) -> float:
    """Return the seconds until `elapsed` is a multiple of `clock`; 0 where there is no clock (0).

    >>> until_tick(0.2, 30), until_tick(31.0, 30), until_tick(5.0, 0)
    (29.8, 29.0, 0.0)
    """
    return -elapsed % clock if clock else 0.0


class Pace:
    """Seldom while nothing can be expected, often when the next message is due.

    clock: returns seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin as if a message had just been answered."""
        self._clock, self._last, self._gap, self._run = clock, clock(), 0.0, 0

    def answered(self, run: int) -> None:
        """Note that a message of this run was answered now."""
        now = self._clock()
        # What lay between two runs says nothing of the rounds of either.
        self._gap = now - self._last if run == self._run else 0.0
        self._last, self._run = now, run

    def pause(self, took: float) -> float:
        """Return the seconds until the next question, when the last one took so many."""
        quiet = self._clock() - self._last
        early = min(_EARLY * self._gap - quiet, _LONGEST_EARLY)
        return max(early, min(max(SHORTEST, _SHARE * quiet, _COURTESY * took), LONGEST))
