"""Random coordinates that both ends draw from the same public seed: no index is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import layers
from fedlite.compression.interface import NOTHING, Context, Decoded
from fedlite.compression.quantization import quantizer
from fedlite.compression.selection import count, require_finite


@dataclass(frozen=True)
class RandK:
    """One random coordinate out of each of k nearly equal stretches of the vector; only values.

    The draw follows from run and round and is the same for every site, so updates add up on the
    same coordinates. With `unbiased` a value counts times the length of its stretch: the mean over
    the draw is the update, the squared error n/k - 1 times its squared norm. Such an update must
    not be fed back: its error grows instead of shrinking. Without `unbiased` a value counts as it
    is, which is what error feedback needs. Quantizers that do not keep the mean ("sign", "levels")
    add their own bias.

    Attributes:
        density: the fraction that is sent, in (0, 1]; `count` turns it into k.
        values: a name in `quantization.QUANTIZERS`.
        sections: sizes of the model's tensors, for "sign-per-tensor"; empty stands for one.
        unbiased: whether a value counts times the length of its stretch.

    Raises:
        ValueError: `density` is out of range or `values` is not known.

    Source: Konecny, McMahan, Yu, Richtarik, Suresh, Bacon 2016, "Federated learning: strategies for
    improving communication efficiency" (random mask from a seed); Stich, Cordonnier, Jaggi 2018,
    "Sparsified SGD with memory" (rand-k and its contraction).

    >>> compressor = RandK(density=0.5, values="fp32")
    >>> body = compressor.compress(np.array([1.0, 1.0, 2.0, 2.0], dtype=np.float32))
    >>> len(body), compressor.decompress(body, 4).values
    (8, array([2., 4.], dtype=float32))
    """

    name: ClassVar[str] = "randk"
    codec: ClassVar[int] = 7
    density: float
    values: str = "fp16"
    sections: tuple[int, ...] = ()
    unbiased: bool = True

    def __post_init__(self) -> None:
        """Check density and values."""
        count(0, self.density)
        quantizer(self.values)

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return the values of the drawn coordinates of a finite float32[n]; ValueError if huge."""
        require_finite(vector)
        indices, lengths = self._draw(vector.size, context)
        values = vector[indices]
        if values.size and self.unbiased:
            largest = float(np.abs(values).max()) * int(lengths.max())
            if largest > float(np.finfo(np.float32).max):
                raise ValueError(
                    f"vector must be finite after scaling by {int(lengths.max())}, got up to "
                    f"{largest}; drop this update"
                )
        return quantizer(self.values).encode(values, self._splits(indices, vector.size))

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
        """Return the sparse update; ValueError unless `body` has exactly the planned form."""
        if len(body) > self.limit(size):
            raise ValueError(
                f"a random-k body of {size} values at density {self.density} takes at most "
                f"{self.limit(size)} bytes, got {len(body)}"
            )
        indices, lengths = self._draw(size, context)
        splits = self._splits(indices, size)
        values, used = quantizer(self.values).decode(body, indices.size, splits)
        if used != len(body):
            raise ValueError(f"a random-k body has {used} bytes, got {len(body)}; trailing bytes")
        if self.unbiased:
            with np.errstate(over="ignore"):
                values = values * lengths.astype(np.float32)
            if not np.isfinite(values).all():
                raise ValueError("values must be finite after scaling; the update is refused")
        return Decoded(size, indices, values)

    def limit(self, size: int) -> int:
        """Return the most bytes for any vector of `size` coordinates."""
        return quantizer(self.values).limit(count(size, self.density), max(1, len(self.sections)))

    def _draw(self, size: int, context: Context) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        edges = strata(size, count(size, self.density))
        lengths = np.diff(edges)
        words = context.random(shared=True).random_raw(lengths.size)
        return edges[:-1] + below(words, lengths), lengths

    def _splits(self, indices: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        ends = layers.ends(self.sections, size)
        return np.concatenate(([0], np.searchsorted(indices, ends)))


def strata(size: int, k: int) -> NDArray[np.int64]:
    """Return the int64[k + 1] edges of k stretches of [0, size): edge i is floor(i * size / k).

    >>> strata(10, 3)
    array([ 0,  3,  6, 10])
    """
    edges = np.arange(k + 1)
    edges *= size
    edges //= max(1, k)
    return edges


def below(words: NDArray[np.uint64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return floor(word * length / 2**64) for uint64[..., k] and int64[k] in [1, 2**32).

    Every number below a length is equally likely, up to length / 2**64.
    Source: Lemire 2019, "Fast random integer generation in an interval", without the rejection.

    >>> below(np.array([0, 2**63, 2**64 - 1], dtype=np.uint64), np.array([10, 10, 10]))
    array([0, 5, 9])
    """
    length = lengths.view(np.uint64)
    low = words & np.uint64(2**32 - 1)
    low *= length
    low >>= np.uint64(32)
    high = words >> np.uint64(32)
    high *= length
    high += low
    high >>= np.uint64(32)
    return high.view(np.int64)
