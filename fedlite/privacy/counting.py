"""Counts of records with noise: the one release under unit record beside DP-SGD.

A site's records are counted into disjoint cells, each record into one. Adding or removing a record
changes one cell by one and no other, so that the vector of all cells moves by 1 in L2 (and in L1),
however many cells there are: the sensitivity. Which cell a record falls into may depend on that
record and on what is public, a released model among it, and on no other record.

Every cell gets a discrete Gaussian. In the units of `fedlite.privacy.noise` a record is a whole
number of fine cells, K, and the noise `Stream.gaussians`, whose deviation is SPREAD of them; the
sum is rounded to whole records afterwards, which is post-processing. Nothing clean is rounded, so
nothing is lost to that; K is the largest odd number for which SPREAD / K is at least the noise
multiplier, with 2^-30 to spare for the 2^-39 that the proof there takes off. So a release costs
what one Gaussian of sensitivity 1 does without sampling. K is odd so that no sum lies half way
between two whole records: rounding is then as often up as down. SPREAD / K is the deviation of the
noise, which all bounds of it take: above the noise multiplier by at most 0.12 %, as that is at most
MOST_NOISE.

Source: Canonne, Kamath and Steinke 2020, "The discrete Gaussian for differential privacy".
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from fedlite.privacy import accounting
from fedlite.privacy.grid import SPREAD
from fedlite.privacy.mechanism import RecordMechanism
from fedlite.privacy.noise import Stream

Integers = NDArray[np.int64]

MOST_NOISE = 1000.0
"""The largest noise multiplier, in records; counts with more promise nothing to anybody."""

_SPARE = 1 - 2.0**-30
# Rarer, and a Fourier transform's rounding, about 10^-16 a cell, is no longer small beside it.
_RAREST = 1e-9
# Wider, and the transform takes seconds and gigabytes in the end; the other bound is then a few
# percent above it.
_WIDEST = 1e4


def mechanism(epsilon: float, delta: float) -> RecordMechanism:
    """Return what costs `epsilon` at `delta` by itself: one release, no sampling, sensitivity 1.

    A record adds a vector of length 1 to the sum, as a gradient that is clipped to 1 does. Raises
    ValueError for numbers that no noise up to MOST_NOISE meets.

    >>> one = mechanism(1.0, 1e-5)
    >>> one.steps, one.sensitivity, 3.7 < one.noise_std < 3.8
    (1, 1.0, True)
    """
    sigma = accounting.calibrate(epsilon, delta, 1.0, 1)
    if sigma > MOST_NOISE:
        raise ValueError(
            f"epsilon: must be one that a noise multiplier of {MOST_NOISE:g} meets at delta "
            f"{delta:g} (rule: counts with more noise allow no threshold), got {epsilon!r}, which "
            f"needs {sigma:g}; set it higher"
        )
    return RecordMechanism(
        clip=1.0, noise_multiplier=sigma, sampling_rate=1.0, steps=1, expected_batch=1
    )


def run_of(run: bytes) -> str:
    """Return the name under which a ledger keeps the counting of a run, 16 hex digits.

    A run has one plan in a ledger, and this is another: its own is spent by training.

    >>> run_of(bytes(8))
    '38c6cce22ff441df'
    """
    return hashlib.sha256(b"fedlite counts " + run).hexdigest()[:16]


def entropy(simulate_seed: int, site: int) -> Stream:
    """Return the stream of a site's noise, keyed by the operating system.

    Only `simulate_seed` >= 0 makes it repeatable; a run that does so may not claim privacy.
    """
    return Stream.seeded("counts", simulate_seed, site) if simulate_seed >= 0 else Stream.fresh()


def noised(cells: Integers, noise_multiplier: float, stream: Stream) -> Integers:
    """Return counts with noise on each, whole numbers that may be negative.

    cells: int64 of any shape, disjoint counts of at most 10^9 records each. noise_multiplier: in
    records, from 0.001 to MOST_NOISE. Raises ValueError for other numbers.
    """
    record = _cells_of_a_record(noise_multiplier)
    if cells.size and not 0 <= cells.min() <= cells.max() <= 10**9:
        raise ValueError(f"cells: must be counts from 0 to 10^9, got {cells.min()}, {cells.max()}")
    total = cells * record + stream.gaussians(cells.size).reshape(cells.shape)
    rounded: Integers = (total + record // 2) // record
    return rounded


def deviation(noise_multiplier: float) -> float:
    """Return the standard deviation of the noise before it is rounded, in records.

    Raises ValueError for a noise multiplier that `noised` refuses.

    >>> 4 < deviation(4.0) < 4.0001, 1000 < deviation(1000.0) < 1001.2
    (True, True)
    """
    return SPREAD / _cells_of_a_record(noise_multiplier)


def at_most(cells: int, noise_multiplier: float, chance: float) -> int:
    """Return what the noise of `cells` counts together exceeds with at most that chance.

    It falls below the negative of that as rarely. noise_multiplier: as of `noised`. chance: above
    0, below 1. Raises ValueError for other numbers.

    The noise of one count is a rounded Gaussian, and that of several is convolved, by a Fourier
    transform: exact up to the rounding of float64. Where that is too coarse, or too wide, it is
    bounded from above: the Gaussians add up to one, which has nine tenths of the chance; what
    rounding adds to each is at most a half, as often up as down, so that of their sum Hoeffding's
    inequality (1963) holds, for a tenth.

    >>> at_most(1, 4.0, 0.025), at_most(4, 4.0, 0.025), at_most(4, 4.0, 1e-12)
    (8, 16, 58)
    """
    from scipy.stats import norm

    if not 0 < chance < 1:
        raise ValueError(f"chance: must be above 0 and below 1, got {chance!r}")
    sigma = deviation(noise_multiplier)
    spread = math.sqrt(cells * (sigma**2 + 1 / 12))
    if chance < _RAREST or spread > _WIDEST:
        gaussian = float(norm.isf(0.9 * chance)) * sigma * math.sqrt(cells)
        rounding = min(cells / 2, math.sqrt(cells * math.log(10 / chance) / 2))
        return math.floor(gaussian + rounding)
    # Beyond 12 deviations is less than 10^-32; what the transform folds back is of that size.
    reach = math.ceil(12 * spread) + cells + 1
    whole = np.arange(-reach, reach + 1)
    one = np.diff(norm.cdf((np.arange(-reach, reach + 2) - 0.5) / sigma))
    size = len(whole)
    wave = np.fft.rfft(np.fft.ifftshift(one))
    several = np.fft.fftshift(np.fft.irfft(wave**cells, size))
    above = np.cumsum(several[::-1])[::-1]
    # `above` at k is the chance of k or more. A millionth is left for the rounding of float64.
    fits = np.flatnonzero(above <= chance * (1 - 1e-6))
    return int(whole[fits[0]]) - 1 if len(fits) else reach


def _cells_of_a_record(noise_multiplier: float) -> int:
    """Return how many fine cells a record is, an odd number."""
    if not 1e-3 <= noise_multiplier <= MOST_NOISE:
        raise ValueError(
            f"noise_multiplier: must be from 0.001 to {MOST_NOISE:g}, got {noise_multiplier!r}"
        )
    return (math.floor(SPREAD / noise_multiplier * _SPARE) - 1) // 2 * 2 + 1
