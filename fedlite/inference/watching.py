"""Tests of a model in use that may be looked at after every answer, and end when they want to.

Each is a bet against a hypothesis: a capital that starts at 1 and, while the hypothesis is true, is
not expected to grow, whoever looks when. By Ville's inequality (1939) it reaches 1 / delta with
a chance of at most delta, ever. Where it does, the hypothesis is given up. Nothing is assumed of
what comes but what the hypothesis says of each next value, given all before it: not that values are
alike or independent.

Sources: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
sections 4 and 5, for the bets; Robbins 1970 for mixing them; Shin, Ramdas and Rinaldo 2024,
"E-detectors", section 3, for bets that begin later. All need counts alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Bets that are mixed, equally. Few suffice: a mixture costs the logarithm of their number.
_BETS = 24
# Values after which a bet begins anew beside those before, and how many of these are kept.
_BLOCK, _KEPT = 256, 128


def _log_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the logarithm of the weighted sum of exponentials."""
    top = float(values.max())
    return top + math.log(float((weights * np.exp(values - top)).sum()))


class TooOften:
    """The hypothesis that something happens with a chance of at most `limit` each time.

    It is given up with a chance of at most `delta` while that is true, however long it is watched.
    What changes after years is found, too: a bet begins every 256 values or so, the j-th with the
    share 1 / (j (j + 1)) of the capital.

    limit, delta: above 0 and below 1. Raises ValueError else.

    >>> watch = TooOften(limit=0.01, delta=0.01)
    >>> watch.see(100, 1), watch.see(100, 30)
    (False, True)
    """

    def __init__(self, limit: float, delta: float) -> None:
        """Begin with nothing seen."""
        for name, value in (("limit", limit), ("delta", delta)):
            if not 0 < value < 1:
                raise ValueError(f"{name}: must be above 0 and below 1, got {value}")
        self.limit, self.delta = limit, delta
        # A bet for each of these chances, from a little above the limit up to always.
        chances = np.geomspace(limit * 1.1, 1, _BETS + 1)[:-1] if limit < 0.9 else np.ones(1)
        self._yes: NDArray[np.float64] = np.log(chances / limit)
        self._no: NDArray[np.float64] = np.log1p(-np.minimum(chances, 1 - 1e-12)) - math.log1p(
            -limit
        )
        self.seen = self.happened = 0
        self.fired = False
        # (seen, happened, number) at the start of each bet.
        self._starts: list[tuple[int, int, int]] = [(0, 0, 1)]

    @property
    def log_capital(self) -> float:
        """The logarithm of the capital now."""
        starts = np.array(self._starts, np.float64)
        happened = self.happened - starts[:, 1]
        quiet = (self.seen - starts[:, 0]) - happened
        each = happened[:, None] * self._yes + quiet[:, None] * self._no
        shares = 1 / (starts[:, 2] * (starts[:, 2] + 1))
        # What has not been laid out yet; bets that were given up are lost.
        rest = 1 / (starts[-1, 2] + 1)
        whole = np.append(each.ravel(), 0.0)
        weights = np.append(np.repeat(shares / len(self._yes), len(self._yes)), rest)
        return _log_mean(whole, weights)

    def see(self, values: int, happened: int) -> bool:
        """Take `values` more, of which so many happened, and return whether it is given up now.

        Once it is, it stays so. Raises ValueError for counts that cannot be.
        """
        if not 0 <= happened <= values:
            raise ValueError(f"happened: must be from 0 to {values}, got {happened}")
        self.seen += values
        self.happened += happened
        if self.log_capital >= -math.log(self.delta):
            self.fired = True
        # Never within what came at once, as nobody knows its order.
        if self.seen - self._starts[-1][0] >= _BLOCK:
            self._starts.append((self.seen, self.happened, self._starts[-1][2] + 1))
            del self._starts[:-_KEPT]
        return self.fired


@dataclass
class Worse:
    """The hypothesis that a candidate is at least as often right as what it is to replace.

    Of each record that both answered and whose label is known: `lost` where the candidate alone is
    wrong, `won` where it alone is right; where both are right or both wrong nothing changes. While
    the candidate is as good, it is given up with a chance of at most `delta`, however long it is
    watched. It is McNemar's test (1947) made sequential.

    Raises ValueError for a delta that is not above 0 and below 1.

    >>> watch = Worse(delta=0.02)
    >>> watch.see(won=2, lost=3), watch.see(won=0, lost=12)
    (False, True)
    """

    delta: float = 0.02
    won: int = 0
    lost: int = 0
    pairs: int = 0
    fired: bool = False
    _bets: NDArray[np.float64] = field(
        default_factory=lambda: np.linspace(0, 1, _BETS + 2)[1:-1], repr=False
    )

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        if not 0 < self.delta < 1:
            raise ValueError(f"delta: must be above 0 and below 1, got {self.delta}")

    @property
    def log_capital(self) -> float:
        """The logarithm of the capital now."""
        each = self.lost * np.log1p(self._bets) + self.won * np.log1p(-self._bets)
        return _log_mean(each, np.full(len(self._bets), 1 / len(self._bets)))

    def see(self, *, won: int, lost: int, ties: int = 0) -> bool:
        """Take pairs more, and return whether the candidate is given up; once it is, it stays so.

        Raises ValueError for a count below 0.
        """
        if min(won, lost, ties) < 0:
            raise ValueError(f"won, lost, ties: must be at least 0, got {won}, {lost}, {ties}")
        self.won, self.lost = self.won + won, self.lost + lost
        self.pairs += won + lost + ties
        self.fired = self.fired or self.log_capital >= -math.log(self.delta)
        return self.fired
