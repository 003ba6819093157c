"""What averaging costs where trained values are multiplied: the mean of products against theirs.

Of adapters B A, with both trained, a server that averages B and A apart applies mean(B) mean(A) and
not the mean of the sites' B A. The relative error of that, in the Frobenius norm, is estimated from
a few public probes: E |X omega|^2 = |X|^2 for a vector omega of standard normals. So a site's
product is never made, and what is held is as long as the factors, however many sites there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import Decoded
from fedlite.models.fixed import public_normal
from fedlite.parameters import Layout, Vector

PROBES = 16
"""A norm is found to about 1 / sqrt(2 PROBES) of itself, and the ratio of two alike ones closer."""

Values = NDArray[np.float64]


@dataclass(eq=False)
class _Pair:
    """B [out, r] and A [r, in] of one product, and what a round's sites have made of them."""

    names: tuple[str, str]
    left: slice
    right: slice
    shapes: tuple[tuple[int, int], tuple[int, int]]
    probes: Values = field(default_factory=lambda: np.zeros(0))
    sums: tuple[Values, ...] = ()
    weight: float = 0.0

    def factors(self, vector: Vector) -> tuple[Values, Values]:
        b, a = vector[self.left].astype(np.float64), vector[self.right].astype(np.float64)
        return b.reshape(self.shapes[0]), a.reshape(self.shapes[1])


class Products:
    """The products of a model's trained tensors, round by round.

    layout: of the model. pairs: for each product the names of its left and its right factor. Of
    those whose factors are not both trained the mean is exact.
    """

    def __init__(self, layout: Layout, pairs: Sequence[tuple[str, str]]) -> None:
        """Find the factors in the vector."""
        ends = np.cumsum(layout.sizes)
        at = {
            name: (slice(int(end) - size, int(end)), shape)
            for name, shape, size, end in zip(
                layout.names, layout.shapes, layout.sizes, ends, strict=True
            )
        }
        self._any = bool(pairs)
        self._pairs = [
            _Pair((b, a), at[b][0], at[a][0], (_two(at[b][1]), _two(at[a][1])))
            for b, a in pairs
            if a in at and b in at
        ]

    def start(self, base: Vector, round_number: int) -> None:
        """Begin a round in which sites train from `base`, float32 [n]."""
        self._base = base
        for number, pair in enumerate(self._pairs):
            (out, _), (_, into) = pair.shapes
            # Far from the numbers by which a model's own public values are told apart.
            pair.probes = public_normal((round_number << 20) + number, into, PROBES)
            pair.weight = 0.0
            pair.sums = (*(np.zeros(shape) for shape in pair.shapes), np.zeros((out, PROBES)))

    def add(
        self,
        update: Decoded,
        weight: float,
        held: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        """Count what one site has come to; held: the products that it trains, None for all."""
        if not self._pairs:
            return
        trained = self._base.copy()
        update.add_to(trained, 1.0)
        for pair in self._pairs:
            if held is not None and pair.names not in held:
                continue
            left, right = pair.factors(trained)
            for total, value in zip(
                pair.sums, (left, right, left @ (right @ pair.probes)), strict=True
            ):
                total += weight * value
            pair.weight += weight

    @property
    def error(self) -> float | None:
        """The round's relative error, the mean over the products; None where there are none.

        0 where all is exact, up to the rounding of float64.
        """
        if not self._any:
            return None
        found = []
        for pair in self._pairs:
            if not pair.weight:
                continue
            left, right, product = (total / pair.weight for total in pair.sums)
            length = float(np.linalg.norm(product))
            if length > 0.0:
                wrong = product - left @ (right @ pair.probes)
                found.append(float(np.linalg.norm(wrong)) / length)
        return round(float(np.mean(found)), 6) if found else 0.0


def _two(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a matrix; raises ValueError for that of anything else."""
    if len(shape) != 2:
        raise ValueError(f"model.products: factors must be matrices, got shape {list(shape)}")
    return shape[0], shape[1]
