"""A support that is common to all sites of a round: public, and chosen by no record.

`randk` without values: which coordinates are summed, where their values are not to be seen. Density
may differ from tensor to tensor: a small tensor that every input passes needs more of its
coordinates than a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.interface import Context
from fedlite.compression.randk import below, strata
from fedlite.compression.selection import count


@dataclass(frozen=True, eq=False)
class Support:
    """Which coordinates a round sums, and how each is scaled.

    indices: ascending, int64 [k]. factors: float64 [k], the root of one over the chance with which
    a coordinate is drawn. A gradient is multiplied by them before it is clipped, and its sum again
    afterwards: the mean over the draw is then the gradient itself, and noise of one size on what is
    clipped is noise of one size a touched coordinate of a tensor.
    """

    indices: NDArray[np.int64]
    factors: NDArray[np.float64]


def support_size(sizes: Sequence[int], densities: Sequence[float]) -> int:
    """Return k for tensors of these sizes and densities."""
    return sum(count(size, share) for size, share in zip(sizes, densities, strict=True))


def common_support(sizes: Sequence[int], densities: Sequence[float], context: Context) -> Support:
    """Return the support of a round: of each tensor one coordinate out of each of equal stretches.

    sizes, densities: of the tensors, in the order of the vector. context: the round's; only what is
    the same for all sites is drawn from.

    >>> found = common_support((10, 4), (0.3, 1.0), Context(b"round 1"))
    >>> len(found.indices), found.indices[3:].tolist(), found.factors[3:].tolist()
    (7, [10, 11, 12, 13], [1.0, 1.0, 1.0, 1.0])
    """
    random, start = context.random(shared=True), 0
    indices, factors = [], []
    for size, share in zip(sizes, densities, strict=True):
        edges = strata(size, count(size, share))
        lengths = np.diff(edges)
        indices.append(start + edges[:-1] + below(random.random_raw(lengths.size), lengths))
        factors.append(np.sqrt(lengths.astype(np.float64)))
        start += size
    return Support(np.concatenate(indices), np.concatenate(factors))
