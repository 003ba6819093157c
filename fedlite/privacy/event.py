"""One step as accountants see it, and what its clip gives up for the grid of its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedlite.privacy.checks import check_count, check_positive, check_rate
from fedlite.privacy.grid import fine_cell

# What a clip gives up for arithmetic: sums and norms in float64, in the worst case of a million
# records a step, and the 2^-39 by which the discrete noise falls short of the continuous one.
_ARITHMETIC = 2.0**-16
# The most of a clip that rounding to the grid may take.
_MOST_ROUNDING = 0.1


@dataclass(frozen=True, order=True)
class Event:
    """One step, as accountants see it: a Poisson-subsampled Gaussian of sensitivity 1.

    noise_multiplier: sigma > 0, noise standard deviation / sensitivity; the sensitivity is that of
    the mechanism's own adjacency, so a mechanism with replace-one adjacency brings its factor 2.
    sampling_rate: q in (0, 1]; 1 is a plain Gaussian.

    Raises ValueError for a number outside its range.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        """Check both numbers."""
        check_positive("noise_multiplier", self.noise_multiplier)
        check_rate(self.sampling_rate)


def clip_bound(clip: float, noise_multiplier: float, coordinates: int) -> float:
    """Return the L2 norm to which what is summed is clipped: a little less than `clip`.

    noise_multiplier: of the noise whose fine grid the sum is rounded to, in units of `clip`.
    coordinates: length of the vector, at least 1. Raises ValueError where rounding would take more
    than a tenth of the clip.
    """
    check_count("coordinates", coordinates, 1)
    # In units of the sensitivity: 1 before rounding, and a cell for each coordinate in L2.
    rounding = math.sqrt(coordinates) * fine_cell(noise_multiplier)
    if not rounding <= _MOST_ROUNDING:
        raise ValueError(
            "noise_multiplier: must leave the clip room for rounding "
            f"{coordinates} values to the noise's grid, got {noise_multiplier!r}; "
            "use a smaller model or a larger epsilon"
        )
    return clip * (1.0 - rounding - _ARITHMETIC)
