"""Client-level privacy: a whole update clipped, and noise on every coordinate of it or of a sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlite.parameters import Vector
from fedlite.privacy.mechanism import ClientMechanism
from fedlite.privacy.noise import Stream, release

# Rounding to float32 may lengthen a vector by a hair; the bound must hold after it.
_MARGIN = 1.0 - 1e-6


def entropy(simulate_seed: int, *keys: int) -> Stream:
    """Return the stream for client-level noise, keyed by the operating system.

    Only `simulate_seed` >= 0 makes it repeatable; a run that does so may not claim privacy.
    """
    if simulate_seed >= 0:
        return Stream.seeded("client", simulate_seed, *keys)
    return Stream.fresh()


def clip(update: Vector, bound: float) -> Vector:
    """Return `update`, float32 [n], scaled down if its L2 norm is more than `bound`.

    Raises ValueError unless every value is finite.
    """
    exact = _cut(update, bound)
    clipped: Vector = update if exact is None else exact.astype(np.float32)
    return clipped


def _cut(update: Vector, bound: float) -> NDArray[np.float64] | None:
    """Return the update cut to the bound, float64 [n], or None when it is short enough."""
    exact = update.astype(np.float64)
    # Not by a dot product, whose threads wait for each other on a busy machine.
    norm = float(np.sqrt(np.square(exact).sum()))
    if not np.isfinite(norm):
        raise ValueError("update: every value must be finite, got NaN or infinity")
    # In float64 throughout: a tiny factor would lose its digits in float32.
    return None if norm <= bound * _MARGIN else exact * (bound / norm * _MARGIN)


def privatize(update: Vector, mechanism: ClientMechanism, noise: Stream) -> Vector:
    """Return one site's noised release of its whole update, float32 [n], rounded from the grid.

    The privacy unit is everything the site holds; replacing all of it moves the clipped update by
    at most `mechanism.sensitivity`, which is twice the clip. An update that is not finite counts as
    zero: its failure would tell something of the records.
    """
    exact = update.astype(np.float64)
    if np.isfinite(exact).all():
        cut = _cut(update, mechanism.clip_bound(update.size))
        exact = exact if cut is None else cut
    else:
        exact = np.zeros_like(exact)
    return release(exact, mechanism.noise_std, noise).astype(np.float32)


def noised_mean(
    total: NDArray[np.float64], cohort: float, mechanism: ClientMechanism, noise: Stream
) -> Vector:
    """Return the server's release of a round, float32 [n], from the sum of clipped updates.

    total: the sum, float64 [n], of updates cut to `mechanism.clip_bound(n)`. The divisor is the
    planned number of sites (with sampling the mean of it), a public constant: dividing by how many
    answered would make every coordinate depend on one site's presence. McMahan et al. 2018,
    estimator f~.
    """
    return (release(total, mechanism.noise_std, noise) / cohort).astype(np.float32)
