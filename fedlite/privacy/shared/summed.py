"""A site's part of a shared sum: clipped, cut, noised and rounded to whole units; and back.

What leaves a site is whole numbers modulo 2^b under masks (`fedlite.secure`), so that nobody sees
them but in sum. The noise is the exact discrete Gaussian of `fedlite.privacy.noise`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlite.privacy.dpsgd import Gradients, clipped_sum
from fedlite.privacy.gradients import Rows
from fedlite.privacy.mechanism import SharedMechanism
from fedlite.privacy.noise import Integers, Stream
from fedlite.privacy.shared.lattice import UNIT_CELLS


def contribution(
    gradients: Gradients, rows: Rows, mechanism: SharedMechanism, noise: Stream
) -> Integers:
    """Return the whole units of one site's part of a sum, int64 [k], with its own noise in them.

    The privacy unit is one record. It protects as `mechanism` says once it is added to the others'
    parts, and alone only as `mechanism.seen_with(1)` does.
    """
    total = clipped_sum(gradients, rows, mechanism.clip_bound(gradients.size))
    return rounded(total, mechanism, noise)


def whole_contribution(
    update: NDArray[np.float64], mechanism: SharedMechanism, noise: Stream
) -> Integers:
    """Return the whole units of one site's update, float64 [k] on the support, with its noise.

    The privacy unit is the site. The update may have been made in any way: it is clipped as a
    whole, and one that is not finite counts as zero, as its failure would tell of the records.
    """
    return rounded(clipped_update(update, mechanism), mechanism, noise)


def clipped_update(update: NDArray[np.float64], mechanism: SharedMechanism) -> NDArray[np.float64]:
    """Return a whole update cut to the norm that the mechanism allows, float64 [k], not noised."""
    bound, norm = mechanism.clip_bound(update.size), float(np.sqrt(np.square(update).sum()))
    return update * (bound / max(norm, bound)) if np.isfinite(norm) else np.zeros_like(update)


def rounded(total: NDArray[np.float64], mechanism: SharedMechanism, noise: Stream) -> Integers:
    """Return a clean sum, float64 [k], cut to what the modulus has room for, noised, in units.

    Raises ValueError when a coordinate is not a number.
    """
    return noised_units(clean_cells(total, mechanism), noise)


def noised_units(cells: Integers, noise: Stream) -> Integers:
    """Return whole fine cells, int64 [k], with a site's own noise, rounded to whole units."""
    noised = noise.gaussians(cells.size)
    noised += cells
    noised += UNIT_CELLS // 2
    noised //= UNIT_CELLS
    return noised


def clean_cells(total: NDArray[np.float64], mechanism: SharedMechanism) -> Integers:
    """Return a clean sum in whole fine cells, int64 [k], cut to the public bound of a site.

    Cutting brings two sums no further apart, rounding by one cell a coordinate at most. Raises
    ValueError when a coordinate is not a number.
    """
    if np.isnan(total).any():
        raise ValueError("total: every coordinate must be a number, got NaN; see the model")
    cells = total * (UNIT_CELLS / mechanism.unit_width)
    np.clip(cells, -mechanism.most_cells, mechanism.most_cells, out=cells)
    return np.rint(cells).astype(np.int64)


def residues(units: Integers, bits: int) -> NDArray[np.uint32]:
    """Return whole numbers modulo 2^bits, uint32 [k]. bits: from 1 to 32."""
    found: NDArray[np.uint32] = (units & (2**bits - 1)).astype(np.uint32)
    return found


def values(total: NDArray[np.uint32], mechanism: SharedMechanism) -> NDArray[np.float64]:
    """Return the sum that residues modulo 2^bits stand for, float64 [k], in the gradients' units.

    >>> mechanism = SharedMechanism(clip=0.1, noise_multiplier=8.0, sampling_rate=1.0, steps=30,
    ...                             expected_batch=287, coordinates=600, sites=5, least=4, honest=4)
    >>> whole = values(residues(np.array([3, -64, 63]), mechanism.bits), mechanism)
    >>> np.rint(whole / mechanism.unit_width).tolist()
    [3.0, -64.0, 63.0]
    """
    half = 2 ** (mechanism.bits - 1)
    whole = ((total.astype(np.int64) + half) & (2 * half - 1)) - half
    found: NDArray[np.float64] = whole.astype(np.float64) * mechanism.unit_width
    return found
