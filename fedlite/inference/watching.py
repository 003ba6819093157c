"""Tests of a model in use that may be looked at after every answer, and end when they want to.

Each is a bet against a hypothesis: a capital that starts at 1 and, while the hypothesis is true, is
not expected to grow, whoever looks when. By Ville's inequality (1939) it reaches 1 / delta with
a chance of at most delta, ever. Where it does, the hypothesis is given up. Nothing is assumed of
what comes but what the hypothesis says of each next request, given all before it: not that requests
are alike or independent. Rows of one request may be of one patient, so they are one bet, on their
mean.

Sources: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
sections 4 and 5, for the bets on a mean; Robbins 1970 for mixing them; Shin, Ramdas and Rinaldo
2024, "E-detectors", section 3, for bets that begin later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Bets that are mixed, equally. Few suffice: a mixture costs the logarithm of their number.
_BETS = 24
# Requests after which a bet begins anew beside those before, and how many of these are kept.
_BLOCK, _KEPT = 256, 128


def _log_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the logarithm of the weighted sum of exponentials."""
    top = float(values.max())
    return top + math.log(float((weights * np.exp(values - top)).sum()))


class TooOften:
    """The hypothesis that of each next request a share of at most `limit` is expected to be so.

    It is given up with a chance of at most `delta` while that is true, however long it is watched.
    What changes after years is found, too: a bet begins every 256 requests, the j-th with the share
    1 / (j (j + 1)) of the capital.

    limit, delta: above 0 and below 1. Raises ValueError else.

    >>> watch = TooOften(limit=0.01, delta=0.01)
    >>> watch.see(100, 30), watch.see(100, 30), watch.see(100, 30)
    (False, False, True)
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
        # What each bet would have won from the first request on, as a logarithm, and of how many.
        self._cum: NDArray[np.float64] = np.zeros(len(chances))
        self._requests = 0
        # The same at the start of each bet, with its number.
        self._starts: list[tuple[NDArray[np.float64], int, int]] = [(self._cum, 0, 1)]

    @property
    def log_capital(self) -> float:
        """The logarithm of the capital now."""
        each = self._cum - np.array([cum for cum, _, _ in self._starts])
        numbers = np.array([number for _, _, number in self._starts], np.float64)
        shares = 1 / (numbers * (numbers + 1))
        # What has not been laid out yet; bets that were given up are lost.
        rest = 1 / (numbers[-1] + 1)
        whole = np.append(each.ravel(), 0.0)
        weights = np.append(np.repeat(shares / len(self._yes), len(self._yes)), rest)
        return _log_mean(whole, weights)

    def see(self, values: int, happened: int) -> bool:
        """Take a request of values, of which some happened, and return whether it is given up now.

        It is one bet, on the share of its values; without a value it is none. Once given up, it
        stays so. Raises ValueError for counts that cannot be.
        """
        if not 0 <= happened <= values:
            raise ValueError(f"happened: must be from 0 to {values}, got {happened}")
        if not values:
            return self.fired
        self.seen += values
        self.happened += happened
        share = happened / values
        self._cum = self._cum + np.log(share * np.exp(self._yes) + (1 - share) * np.exp(self._no))
        self._requests += 1
        if self.log_capital >= -math.log(self.delta):
            self.fired = True
        if self._requests - self._starts[-1][1] >= _BLOCK:
            self._starts.append((self._cum, self._requests, self._starts[-1][2] + 1))
            del self._starts[:-_KEPT]
        return self.fired


@dataclass
class Worse:
    """The hypothesis that a candidate is expected to be right as often as what it is to replace.

    Of each row that both answered and whose label is known: `lost` where the candidate alone is
    wrong, `won` where it alone is right; where both are right or both wrong nothing changes. A
    request is one bet, on the mean of its rows. While the candidate is as good in each next
    request, given all before it, it is given up with a chance of at most `delta`, however long it
    is watched. With one row a request it is McNemar's test (1947) made sequential.

    Raises ValueError for a delta that is not above 0 and below 1.

    >>> watch = Worse(delta=0.02)
    >>> watch.see(won=2, lost=3), any([watch.see(won=0, lost=12) for _ in range(12)])
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
    _log: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BETS), repr=False)

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        if not 0 < self.delta < 1:
            raise ValueError(f"delta: must be above 0 and below 1, got {self.delta}")

    @property
    def log_capital(self) -> float:
        """The logarithm of the capital now."""
        return _log_mean(self._log, np.full(len(self._bets), 1 / len(self._bets)))

    def see(self, *, won: int, lost: int, ties: int = 0) -> bool:
        """Take a request's pairs; return whether the candidate is given up. Then it stays so.

        Raises ValueError for a count below 0.
        """
        if min(won, lost, ties) < 0:
            raise ValueError(f"won, lost, ties: must be at least 0, got {won}, {lost}, {ties}")
        self.won, self.lost = self.won + won, self.lost + lost
        rows = won + lost + ties
        self.pairs += rows
        if rows:
            self._log = self._log + np.log1p(self._bets * (lost - won) / rows)
        self.fired = self.fired or self.log_capital >= -math.log(self.delta)
        return self.fired
