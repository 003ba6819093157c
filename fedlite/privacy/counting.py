"""Counts of records with noise: the one release under unit record beside DP-SGD.

A site's records are counted into disjoint cells, each record into one. Adding or removing a record
changes one cell by one and no other, so that the vector of all cells moves by 1 in L2 (and in L1),
however many cells there are: the sensitivity. Which cell a record falls into may depend on that
record and on what is public, a released model among it, and on no other record.

Every cell gets a discrete Gaussian. In the units of `fedlite.privacy.noise` a record is a whole
number of fine cells, K, and the noise `Stream.gaussians`, whose deviation is SPREAD of them; the
sum is rounded to whole records afterwards, which is post-processing. Nothing clean is rounded, so
nothing is lost to that; K is the largest whole number for which SPREAD / K is at least the noise
multiplier, with 2^-30 to spare for the 2^-39 that the proof there takes off. So a release costs
what one Gaussian of sensitivity 1 does without sampling.

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

_SPARE = 1 - 2.0**-30


def mechanism(epsilon: float, delta: float) -> RecordMechanism:
    """Return what costs `epsilon` at `delta` by itself: one release, no sampling, sensitivity 1.

    A record adds a vector of length 1 to the sum, as a gradient that is clipped to 1 does. Raises
    ValueError for numbers that no noise meets.

    >>> one = mechanism(1.0, 1e-5)
    >>> one.steps, one.sensitivity, 3.7 < one.noise_std < 3.8
    (1, 1.0, True)
    """
    sigma = accounting.calibrate(epsilon, delta, 1.0, 1)
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
    records, from 0.001 to a million. Raises ValueError for other numbers.
    """
    if not 1e-3 <= noise_multiplier <= 1e6:
        raise ValueError(
            f"noise_multiplier: must be from 0.001 to 1,000,000, got {noise_multiplier!r}"
        )
    if cells.size and not 0 <= cells.min() <= cells.max() <= 10**9:
        raise ValueError(f"cells: must be counts from 0 to 10^9, got {cells.min()}, {cells.max()}")
    record = math.floor(SPREAD / noise_multiplier * _SPARE)
    total = cells * record + stream.gaussians(cells.size).reshape(cells.shape)
    rounded: Integers = (total + record // 2) // record
    return rounded


def at_most(cells: int, noise_multiplier: float, chance: float) -> int:
    """Return what the noise of `cells` counts together exceeds with at most that chance.

    It falls below the negative of that as rarely. Exact up to the rounding of float64: the noise of
    one count is a rounded Gaussian, and that of several is convolved, by a Fourier transform.

    >>> at_most(1, 4.0, 0.025), at_most(4, 4.0, 0.025)
    (8, 16)
    """
    from scipy.stats import norm

    spread = math.sqrt(cells * (noise_multiplier**2 + 1 / 12))
    # Beyond 12 deviations is less than 10^-32; what the transform folds back is of that size.
    reach = math.ceil(12 * spread) + cells + 1
    whole = np.arange(-reach, reach + 1)
    one = np.diff(norm.cdf((np.arange(-reach, reach + 2) - 0.5) / noise_multiplier))
    size = len(whole)
    wave = np.fft.rfft(np.fft.ifftshift(one))
    several = np.fft.fftshift(np.fft.irfft(wave**cells, size))
    above = np.cumsum(several[::-1])[::-1]
    # `above` at k is the chance of k or more. A millionth is left for the ties of rounding.
    fits = np.flatnonzero(above <= chance * (1 - 1e-6))
    return int(whole[fits[0]]) - 1 if len(fits) else reach
