"""Whether so few records were harmed, less those that were mended, that accuracy is kept.

What leaving early costs of accuracy is the share of records that are harmed (the deep branch is
right, the shallow one wrong) less the share that gain (the other way round). That is a difference
of two shares of one sample, so the binomial test of harm alone is too strict: it gives nothing for
the records that gain.

How often records disagree at all is a nuisance of this test: the more do, the wider the difference
scatters. It is bounded from above by its own confidence limit, at a tenth of the error that is
allowed, and the worst of all values below that limit counts, for the other nine tenths. Source:
Berger and Boos 1994, "P values maximized over a confidence set for the nuisance parameter".

Nothing is approximated: the law of the difference is that of a trinomial sample, from its
characteristic function; between the values of the nuisance that are computed, the pair of shares
is taken that makes the difference smallest, which bounds all that lie between.
"""

from __future__ import annotations

import math

import numpy as np

# The part of the allowed error that the bound of the nuisance takes.
SPLIT = 0.1
# How far apart the values of the nuisance are, in standard deviations of the difference.
STEP = 0.1


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
    from scipy.stats import beta, binom

    lost, differ = harm - gain, harm + gain
    if differ >= records or lost >= alpha * records:
        return False
    most = float(beta.ppf(1 - SPLIT * error, differ + 1, records - differ))
    if most <= alpha:
        # So few differ that even if all of them were harmed it would be less than alpha.
        return True
    # The share that gains, of which the share harmed is alpha more.
    top = min(most - alpha, 1 - alpha) / 2
    spread = math.sqrt(records * most)
    edges = np.linspace(0.0, top, 1 + math.ceil(records * top / (STEP * spread) + 1))
    gained, harmed = edges[1:], edges[:-1] + alpha
    # Beyond half the circle the law would meet itself; what lies there is added whole.
    size = 2 ** math.ceil(math.log2(4 * records * most + 16 * spread + 64))
    beyond = float(binom.sf(size // 2 - 1, records, min(1.0, alpha + 2 * top)))
    turn = np.exp(2j * np.pi * np.arange(size // 2 + 1) / size)
    each = 1 - harmed - gained
    law = each[:, None] + harmed[:, None] * turn + gained[:, None] / turn
    shares = np.fft.irfft(np.conj(law**records), n=size, axis=1)
    low = np.concatenate([np.arange(size // 2, size), np.arange(max(0, lost + 1))])
    if lost < 0:
        low = np.arange(size // 2, size + lost + 1)
    worst = float(shares[:, low].sum(axis=1).max())
    # Rounding of the transform, relative to shares that add up to 1.
    return worst + beyond + 1e-9 <= (1 - SPLIT) * error


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
