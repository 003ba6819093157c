"""A part of a vector that travels alone, where both ends know which part it is.

Of what is not in it nothing is said and nothing forgotten: a residual there stays as it is.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import feedback
from fedlite.compression.batch import Packing
from fedlite.compression.feedback import Cut, Residual, Sent
from fedlite.compression.interface import NOTHING, Compressor, Context, Decoded


@dataclass(frozen=True, eq=False)
class Part:
    """The body of some of a vector's values, whichever compressor wrote it.

    The body is the codec of that compressor (u8), and its body.

    Attributes:
        size: of the whole vector.
        moving: which of its values travel, int64[m], ascending.
        inner: what compresses them.

    >>> from fedlite.compression import make
    >>> part = Part(4, np.array([1, 3]), make("dense"))
    >>> body = part.compress(np.array([1, 2, 3, 4], np.float32))
    >>> len(body), part.decompress(body, 4).dense()
    (9, array([0., 2., 0., 4.], dtype=float32))
    """

    size: int
    moving: NDArray[np.int64]
    inner: Compressor
    name: ClassVar[str] = "part"
    codec: ClassVar[int] = 13

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return the body for the part of a finite float32[n]; ValueError as its compressor."""
        self._check(vector.size)
        return self._body(self.inner.compress(vector[self.moving], context))

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
        """Return the update in a possibly hostile `body`; ValueError unless `compress` wrote it."""
        self._check(size)
        if body[:1] != bytes([self.inner.codec]):
            raise ValueError(
                f"part body: must begin with codec {self.inner.codec}, got {body[:1].hex() or '-'}"
            )
        return self._of_whole(self.inner.decompress(body[1:], self.moving.size, context))

    def limit(self, size: int) -> int:
        """Return the most bytes of the part, with 1 more."""
        self._check(size)
        return 1 + self.inner.limit(self.moving.size)

    def sending(
        self,
        delta: NDArray[np.float32],
        residual: Residual | None,
        context: Context,
        cut: Cut | None,
    ) -> Generator[Packing, bytes, Sent]:
        """Do what `feedback.compressing` does of the part, with the residual of all the rest."""
        self._check(delta.size)
        kept = np.zeros_like(delta) if residual is None else residual.value
        mine = None if residual is None else Residual(kept[self.moving])
        part = delta[self.moving]
        sent = yield from feedback.compressing(self.inner, part, mine, context=context, cut=cut)
        unsent, left = kept.copy(), kept.copy()
        unsent[self.moving], left[self.moving] = sent.unsent.value, sent.residual.value
        update = self._of_whole(sent.update)
        return Sent(self._body(sent.body), update, Residual(unsent), Residual(left))

    def _body(self, inner: bytes) -> bytes:
        return bytes([self.inner.codec]) + inner

    def _of_whole(self, part: Decoded) -> Decoded:
        where = self.moving if part.indices is None else self.moving[part.indices]
        return Decoded(self.size, where, part.values)

    def _check(self, size: int) -> None:
        if size != self.size:
            raise ValueError(f"vector must have {self.size} values, got {size}")
