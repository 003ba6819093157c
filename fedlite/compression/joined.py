"""Several vectors that travel as one: the model's, and behind it what goes with it.

Each stretch has a compressor of its own, and its body its own place in the frame's. So frames,
digests, broadcasts and checkpoints see one vector and need not know what it is made of.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import feedback
from fedlite.compression.batch import Packing
from fedlite.compression.feedback import Cut, Residual, Sent
from fedlite.compression.interface import NOTHING, Compressor, Context, Decoded
from fedlite.compression.part import Part
from fedlite.steps import by_itself

_PART = struct.Struct("<BI")


@dataclass(frozen=True, eq=False)
class Stretch:
    """Values that travel behind the model's.

    Attributes:
        name: what they are, in the layout of what travels.
        initial: float32[m], before the first round; both ends know them.
        up, down: what compresses their changes. What `up` leaves out is not kept for later.
        per_site: every site has values of its own, as the server has heard of them, and the
            server the mean of those over all `federation.sites`. Otherwise the server moves by the
            mean change of the sites that came.
        least: what no value may fall below, float32[m]; None for no bound.
        apart: which values are of another unit than the rest, as counts are beside variances, so
            that no length tells of both, bool[m]; None for none.
    """

    name: str
    initial: NDArray[np.float32]
    up: Compressor
    down: Compressor
    per_site: bool = False
    least: NDArray[np.float32] | None = None
    apart: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Joined:
    """The bodies of several stretches, one after the other.

    The body is, for each stretch, its codec (u8), the length of its body (u32) and that body.
    Public randomness of a stretch behind the first is its own.

    Attributes:
        parts: size and compressor of each stretch.

    >>> from fedlite.compression import make
    >>> both = Joined(((2, make("dense")), (1, make("dense", values="fp16"))))
    >>> body = both.compress(np.array([1, 2, 3], np.float32))
    >>> len(body), both.decompress(body, 3).values
    (20, array([1., 2., 3.], dtype=float32))
    """

    parts: tuple[tuple[int, Compressor], ...]
    name: ClassVar[str] = "joined"
    codec: ClassVar[int] = 12

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each stretch has."""
        return tuple(size for size, _ in self.parts)

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return the stretches' bodies for a finite float32[n]; ValueError as each's compressor."""
        self._check(vector.size)
        pieces = zip(self.parts, pieces_of(vector, self.sizes), strict=True)
        return self.body(
            [
                compressor.compress(piece, _own(context, number))
                for number, ((_, compressor), piece) in enumerate(pieces)
            ]
        )

    def body(self, bodies: Sequence[bytes]) -> bytes:
        """Return the whole body, from those of the stretches in their order."""
        parts = zip(self.parts, bodies, strict=True)
        return b"".join(_PART.pack(c.codec, len(body)) + body for (_, c), body in parts)

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
        """Return the update in a possibly hostile `body`; ValueError unless `compress` wrote it."""
        self._check(size)
        at, found = 0, []
        for number, (length, compressor) in enumerate(self.parts):
            if len(body) < at + _PART.size:
                raise ValueError(f"joined body: stretch {number} is missing; it is truncated")
            codec, taken = _PART.unpack_from(body, at)
            at += _PART.size
            if codec != compressor.codec:
                raise ValueError(
                    f"joined body: stretch {number} must have codec {compressor.codec}, got {codec}"
                )
            if taken > min(compressor.limit(length), len(body) - at):
                raise ValueError(
                    f"joined body: stretch {number} must have at most {compressor.limit(length)} "
                    f"of the {len(body) - at} bytes that are left, got {taken}"
                )
            inner = body[at : at + taken]
            found.append(compressor.decompress(inner, length, _own(context, number)))
            at += taken
        if at != len(body):
            raise ValueError(f"joined body: {len(body) - at} bytes too many after its stretches")
        return _together(found)

    def limit(self, size: int) -> int:
        """Return the most bytes of all stretches together, with 5 more for each."""
        self._check(size)
        return sum(_PART.size + compressor.limit(length) for length, compressor in self.parts)

    def _check(self, size: int) -> None:
        if size != sum(self.sizes):
            raise ValueError(f"vector must have {sum(self.sizes)} values in all, got {size}")


def pieces_of(vector: NDArray[np.float32], sizes: Sequence[int]) -> tuple[NDArray[np.float32], ...]:
    """Return a vector's stretches of the given sizes, as views."""
    return tuple(
        vector[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)
    )


def split(update: Decoded, sizes: Sequence[int]) -> tuple[Decoded, ...]:
    """Return an update's stretches, each an update of its own; what is sparse stays so.

    >>> update = Decoded(5, np.array([1, 3]), np.array([2.0, -2.0], dtype=np.float32))
    >>> [(part.indices.tolist(), part.values.tolist()) for part in split(update, (2, 3))]
    [([1], [2.0]), ([1], [-2.0])]
    """
    if update.indices is None:
        return tuple(Decoded(len(p), None, p) for p in pieces_of(update.values, sizes))
    found = []
    for end, size in zip(accumulate(sizes), sizes, strict=True):
        low, high = np.searchsorted(update.indices, (end - size, end))
        inside = slice(int(low), int(high))
        found.append(Decoded(size, update.indices[inside] - (end - size), update.values[inside]))
    return tuple(found)


def compressing(
    compressor: Compressor,
    delta: NDArray[np.float32],
    residual: Residual | None = None,
    *,
    reference: NDArray[np.float32] | None = None,
    context: Context = NOTHING,
    cut: Cut | None = None,
) -> Generator[Packing, bytes, Sent]:
    """Do what `feedback.compressing` does, stretch by stretch where there are several.

    `residual` and `cut` are for the first stretch, the model's: of the others nothing is kept. Of a
    vector of which only a part travels they are for that part, and there is no `reference`.
    """
    if isinstance(compressor, Part):
        if reference is not None:
            raise ValueError("reference: must be none where only a part travels, got one")
        return (yield from compressor.sending(delta, residual, context, cut))
    if not isinstance(compressor, Joined):
        sending = feedback.compressing(
            compressor, delta, residual, reference=reference, context=context, cut=cut
        )
        return (yield from sending)
    sizes, sent = compressor.sizes, []
    deltas = pieces_of(delta, sizes)
    references = (None,) * len(sizes) if reference is None else pieces_of(reference, sizes)
    for number, (_, inner) in enumerate(compressor.parts):
        first = number == 0
        one = yield from feedback.compressing(
            inner,
            deltas[number],
            Residual(residual.value[: sizes[0]]) if first and residual else None,
            reference=references[number],
            context=_own(context, number),
            cut=cut if first else None,
        )
        sent.append(one)
    nothing = np.zeros(sum(sizes[1:]), np.float32)
    return Sent(
        compressor.body([one.body for one in sent]),
        _together([one.update for one in sent]),
        Residual(np.concatenate((sent[0].unsent.value, nothing))),
        Residual(np.concatenate((sent[0].residual.value, nothing))),
    )


compress = by_itself(compressing)


def _own(context: Context, number: int) -> Context:
    """The context of a stretch: two of them with one rotation would err alike."""
    return Context(context.seed + bytes([number]), context.sender) if number else context


def _together(parts: Sequence[Decoded]) -> Decoded:
    size = sum(part.size for part in parts)
    if any(part.indices is None for part in parts):
        return Decoded(size, None, np.concatenate([part.dense() for part in parts]))
    ends = accumulate(part.size for part in parts)
    indices = [
        np.asarray(part.indices, np.int64) + (end - part.size)
        for part, end in zip(parts, ends, strict=True)
    ]
    return Decoded(size, np.concatenate(indices), np.concatenate([part.values for part in parts]))
