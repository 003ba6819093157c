"""The public grid on which private sums are rounded, noised and released.

Why these numbers: see the proof in `fedlite.privacy.noise`.
"""

from __future__ import annotations

import math

TABLE_STD = 2048
"""Standard deviation of one draw from the table, in integers."""

RADIX = 819
SPREAD: float = TABLE_STD * math.sqrt(RADIX**2 + 1)
"""Standard deviation of `Stream.gaussians`, in fine cells; about 1.6 x 2^20."""

COARSE_BITS = 11
"""A released cell holds 2^11 fine ones, and is therefore 1 / 819 of a deviation."""


def fine_cell(noise_std: float) -> float:
    """Return the width of the cells to which a clean sum is rounded."""
    return noise_std / SPREAD


def grid(noise_std: float) -> float:
    """Return the width of the cells on which a release lies: about `noise_std` / 819."""
    return 2.0**COARSE_BITS * fine_cell(noise_std)
