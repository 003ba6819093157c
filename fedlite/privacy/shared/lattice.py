"""The coarse grid on which sites round their noised sums, and why rounding costs nothing.

A site's own noise has a standard deviation of two units of this grid. Let `y_k = G_k + z_k` be the
sums of m honest sites in units, z_k Gaussian of deviation s, and `n_k` the nearest integers. Who
sees `N = n_1 + ... + n_m` sees no more than who sees `S = y_1 + ... + y_m`, up to a distance in
total variation of `rounding_distance(m)` a coordinate:

    With r_k = y_k - n_k in [-1/2, 1/2), N is S - (r_1 + ... + r_{m-1}), rounded. So N is a function
    of S and of R = (r_1, ..., r_{m-1}). Given S, (y_1, ..., y_{m-1}) is Gaussian with covariance
    s^2 (I - J/m), J all ones, and R is its residue modulo 1. By Poisson summation the density of R
    on the torus is 1 + sum over integer vectors x other than 0 of exp(-2 pi^2 s^2 q(x)) times a
    phase, with q(x) = |x|^2 - (sum x)^2 / m, whatever the G_k and S are. So R is uniform, and
    independent of all else, up to half of that sum.

    q(x) is the squared distance of (x, 0) in Z^m from the line of all ones, and does not change
    when all m entries are shifted by one integer. Shift by a median: at most m / 2 entries are then
    positive and at most m / 2 negative, so (sum x)^2 <= (m / 2) |x|^2 by Cauchy and Schwarz, and
    q(x) >= |x|^2 / 2. The sum is therefore at most (1 + 2 sum_{j > 0} exp(-pi^2 s^2 j^2))^m - 1.

For two honest sites the bound is twice the truth at most, and with s = 2 it is 7.2e-18 times m.
Method of Canonne, Kamath, Steinke 2020 and of Kairouz, Liu, Steinke 2021 (discrete Gaussians that
are summed), whose bound for rounding per record or per site grows with the dimension; this one is
of the sum alone.
"""

from __future__ import annotations

import math

from fedlite.privacy.checks import odds
from fedlite.privacy.grid import SPREAD

UNIT_CELLS = 838_656
"""Fine cells in a unit of the grid: half a site's standard deviation, rounded down."""

OWN_UNITS: float = SPREAD / UNIT_CELLS
"""Standard deviation of a site's own noise in units: 2, and a little more."""

OWN_ROUNDED: float = math.sqrt(OWN_UNITS**2 + 1.0 / 12.0)
"""The same with what rounding adds, which is uniform within a unit."""

REACH = 7.0
"""Deviations of a sum's noise beyond which the sites together cut a coordinate of a clean sum."""

TAIL = 6.0
"""Deviations of the noise for which the modulus leaves room: exceeded once in 5e8 draws."""


def rounding_distance(honest: int, own: float = OWN_UNITS) -> float:
    """Return the bound on the distance in total variation that rounding costs a coordinate.

    honest: sites whose noise is in the sum, at least 1; own: the deviation of each one's noise, in
    units. Of a single site rounding is a function of what it noised, and costs nothing.

    >>> 1.4e-17 < rounding_distance(2) < 1.5e-17, rounding_distance(1)
    (True, 0.0)
    """
    if honest == 1:
        return 0.0
    # Terms beyond the second are smaller by a factor of 1e-50 and more.
    side = 2.0 * (math.exp(-((math.pi * own) ** 2)) + math.exp(-4.0 * (math.pi * own) ** 2))
    return 0.5 * math.expm1(honest * math.log1p(1.001 * side))


def rounding_slack(epsilon: float, honest: int, coordinates: int, sums: int) -> float:
    """Return the delta that rounding at the sites adds over a run, at `epsilon`.

    What is seen is within `rounding_distance(honest)` a coordinate and sum of a function of the
    Gaussian mechanism's releases, on either of two adjacent data sets: as for `cut_slack`, the
    distance counts 1 + e^epsilon times.
    """
    return odds(epsilon) * rounding_distance(honest) * coordinates * sums


def width(bound: float) -> int:
    """Return the bits b of a modulus in which whole numbers of at most `bound` do not wrap.

    >>> width(63), width(64), width(127.2)
    (7, 8, 8)
    """
    return math.ceil(math.log2(2.0 * math.floor(bound) + 2.0))
