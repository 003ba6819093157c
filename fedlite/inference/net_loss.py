"""Whether so few records were harmed, less those that were mended, that accuracy is kept.

What leaving early costs of accuracy is the share of records that are harmed (the deep branch is
right, the shallow one wrong) less the share that gain (the other way round). That is a difference
of two shares of one sample, so the binomial test of harm alone is too strict: it gives nothing for
the records that gain.

How often records disagree at all is a nuisance of this test: the more do, the wider the difference
scatters. It is bounded from above by its own confidence limit, at a tenth of the error that is
allowed, and the worst of all values below that limit counts, for the other nine tenths. Source:
Berger and Boos 1994, "P values maximized over a confidence set for the nuisance parameter".

Nothing is approximated. What Bernstein's inequality settles is settled by it; else the law of the
difference is that of a trinomial sample, from its characteristic function. Between the values of
the nuisance that are computed the pair of shares is taken that makes the difference smallest, which
bounds all that lie between. Memory is bounded whatever the counts are, which come from sites.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# The part of the allowed error that the bound of the nuisance takes.
SPLIT = 0.1
# How far apart the values of the nuisance are: in standard deviations of the difference, or in how
# far it is below what is allowed, whichever is more; and how many there are at most.
STEP, SHARE, MOST_STEPS = 0.1, 0.02, 512
# Half the width, in standard deviations, of what is computed of the law, and how many values of it
# at once.
REACH, TOGETHER = 16, 2**20


def keeps(harm: int, gain: int, records: int, alpha: float, error: float) -> bool:
    """Return whether it is shown that the share harmed less the share that gain is below alpha.

    harm, gain: whole numbers of records, not negative, together at most `records`. alpha: above 0,
    below 1. error: the chance, at most, that the answer is yes though the difference of the shares
    is alpha or more; above 0, below 1.

    >>> keeps(0, 0, 600, 0.01, 0.05), keeps(0, 0, 300, 0.01, 0.05)
    (True, False)
    >>> keeps(60, 50, 10_000, 0.005, 0.05), keeps(60, 0, 10_000, 0.005, 0.05)
    (True, False)
    """
    from scipy.stats import beta

    lost, differ = harm - gain, harm + gain
    if differ >= records or lost >= alpha * records:
        return False
    most = float(beta.isf(SPLIT * error, differ + 1, records - differ))
    if most <= alpha:
        # So few differ that even if all of them were harmed it would be less than alpha.
        return True
    below = alpha * records - lost
    if _bernstein(below, records * most) <= (1 - SPLIT) * error:
        return True
    # The share that gains, of which the share harmed is alpha more.
    top = min(most - alpha, 1 - alpha) / 2
    step = max(STEP * math.sqrt(records * most), SHARE * below)
    edges = np.linspace(0.0, top, 1 + min(MOST_STEPS, math.ceil(records * top / step) + 1))
    gained, harmed = edges[1:], edges[:-1] + alpha
    worst = _at_most(lost, records, harmed, gained)
    # Rounding of the transform, relative to shares that add up to 1.
    return worst + 1e-9 <= (1 - SPLIT) * error


def _bernstein(below: float, variance: float) -> float:
    """Return what bounds the chance that a difference is so far below its mean (Bernstein 1924).

    One record changes it by -1, 0 or 1, so it is never more than 2 from its own mean.
    """
    return math.exp(-below * below / (2 * (variance + 2 * below / 3)))


def _at_most(
    lost: int, records: int, harmed: NDArray[np.float64], gained: NDArray[np.float64]
) -> float:
    """Return the largest chance, over the pairs of shares, of a difference of at most `lost`."""
    mean = float((records * (harmed - gained)).min())
    variance = float((records * (harmed + gained)).max())
    size = 2 ** math.ceil(math.log2(2 * REACH * math.sqrt(variance) + 64))
    # Below the window is what Bernstein leaves; above it, what the circle folds into it, is added
    # to it, which is more than there is.
    low = math.ceil(mean) - size // 2
    beyond = _bernstein(mean - low, variance)
    if lost < low:
        return beyond
    turn = np.exp(2j * np.pi * np.arange(size // 2 + 1) / size)
    places, worst = np.arange(low, min(lost + 1, low + size)) % size, 0.0
    rows = max(1, TOGETHER // size)
    for at in range(0, len(harmed), rows):
        more, less = harmed[at : at + rows, None], gained[at : at + rows, None]
        law = (1 - more - less) + more * turn + less / turn
        shares = np.fft.irfft(np.conj(law**records), n=size, axis=1)
        worst = max(worst, float(shares[:, places].sum(axis=1).max()))
    return worst + beyond


def least(alpha: float, error: float) -> int:
    """Return with how many records at least it can be shown: with that many of which none differs.

    >>> least(0.01, 0.05), keeps(0, 0, 417, 0.01, 0.05), keeps(0, 0, 416, 0.01, 0.05)
    (417, True, False)
    """
    # Where the confidence limit of "none differs" is alpha; nothing is left to test then.
    high = max(1, math.ceil(min(math.log(SPLIT * error) / math.log1p(-alpha), 1e15)))
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(0, 0, middle, alpha, error) else (middle, high)
    return high
