"""What a compressor is: the interface, what both ends know, and what arrives."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Context:
    """What both ends of one message know beside the compressor: where public randomness comes from.

    Nothing here is secret, and nothing drawn from it protects anybody.

    Attributes:
        seed: names the federation's seed and the round, the same for every site of the round,
            so that all of them can draw the same random support.
        sender: number of the site, 0 for the server, so that rotations differ between sites and
            their errors average out.

    >>> context = Context(b"run-0001", 7)
    >>> context.random(shared=True).random_raw() == Context(b"run-0001").random(
    ...     shared=True
    ... ).random_raw()
    True
    """

    seed: bytes = b""
    sender: int = 0

    def random(self, *, shared: bool) -> np.random.Philox:
        """Return a generator of raw 64-bit words: one for the round, or one for this sender in it.

        Only `random_raw` may be used: NumPy keeps raw streams the same for ever, its
        distributions not.
        """
        name = hashlib.sha256(
            len(self.seed).to_bytes(4, "little")
            + self.seed
            + (0 if shared else 1 + self.sender).to_bytes(8, "little")
        ).digest()
        return np.random.Philox(key=int.from_bytes(name[:16], "little"))


NOTHING = Context()


@dataclass(frozen=True, eq=False)
class Decoded:
    """An update as it arrived: every coordinate, or some indices and their values.

    Attributes:
        size: the length n of the vector.
        indices: int32[k] or int64[k], strictly increasing and below `size`; None when all are
            present.
        values: float32[k], finite; float32[n] when `indices` is None.

    >>> update = Decoded(4, np.array([1, 3]), np.array([2.0, -2.0], dtype=np.float32))
    >>> update.dense()
    array([ 0.,  2.,  0., -2.], dtype=float32)
    """

    size: int
    indices: NDArray[np.int32] | NDArray[np.int64] | None
    values: NDArray[np.float32]

    def add_to(self, out: NDArray[Any], weight: float) -> None:
        """Add `weight` times this update to `out`, in place and in the precision of `out`.

        Args:
            out: float32[n] or float64[n].
            weight: finite.

        Raises:
            ValueError: `out` has another shape or type, or `weight` is not finite.
        """
        if out.shape != (self.size,) or out.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"out must be float32 or float64 of shape ({self.size},), got {out.dtype} of "
                f"shape {out.shape}"
            )
        if not math.isfinite(weight):
            raise ValueError(f"weight must be finite, got {weight}")
        scaled = self.values.astype(out.dtype, copy=False) * weight
        if self.indices is None:
            out += scaled
        else:
            # Of indices that are all different it does what `out[...] += ...` does, in a third of
            # the time.
            np.add.at(out, self.indices, scaled)

    def dense(self) -> NDArray[np.float32]:
        """Return the update as a new float32[n], zero where nothing was sent."""
        if self.indices is None:
            return self.values.copy()
        out = np.zeros(self.size, dtype=np.float32)
        out[self.indices] = self.values
        return out


@runtime_checkable
class Compressor(Protocol):
    """Turns a float32[n] into the body of a frame, and a body back into an update.

    Both ends hold the same compressor and context: nothing that shapes the result is read from the
    body.
    """

    @property
    def name(self) -> str:
        """The name in the registry."""
        ...

    @property
    def codec(self) -> int:
        """The number in the frame, 0 to 255, that says which format the body has."""
        ...

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return the body for a finite float32[n].

        Raises:
            ValueError: `vector` is not one-dimensional, not float32 or not finite.
        """
        ...

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
        """Return the update in a possibly hostile `body` for a vector of `size` coordinates.

        Two machines decode the same body to the same bits.

        Raises:
            ValueError: `body` is not what `compress` writes for a vector of that size.
        """
        ...

    def limit(self, size: int) -> int:
        """Return the most bytes that `compress` writes for a vector of `size` coordinates."""
        ...
