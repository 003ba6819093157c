"""Updates of many sites compressed, or read, in one go where their compressor can.

What comes out is, bit for bit, what one by one comes to; so are the errors, each of its own update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.interface import Compressor, Context, Decoded

MOST = 64
"""The most updates that are worked on at once."""

# And the most values of them in all, so that memory does not grow with the sites.
_VALUES = 2**22

Result = TypeVar("Result")
Refusal = TypeVar("Refusal", bound=Exception)


class Batching(Protocol):
    """A compressor that knows a quicker way for many updates of one size."""

    def compress_many(
        self, vectors: NDArray[np.float32], contexts: Sequence[Context]
    ) -> list[bytes]:
        """Return what `compress` does of each row; ValueError where it would raise for any."""
        ...

    def decompress_many(
        self, bodies: Sequence[bytes], size: int, contexts: Sequence[Context]
    ) -> Sequence[Decoded | ValueError]:
        """Return what `decompress` does of each body, or the error that it would raise for it.

        ValueError where it would raise for any, and it is not known yet for which.
        """
        ...


@dataclass(frozen=True, eq=False)
class Packing:
    """What a site asks of compression: a change, float32[n], in few bytes."""

    compressor: Compressor
    change: NDArray[np.float32]
    context: Context

    def alone(self) -> bytes:
        """Compress this one by itself."""
        return self.compressor.compress(self.change, self.context)


def knows_many(compressor: Compressor) -> TypeGuard[Batching]:
    """Whether a compressor has a way for many."""
    return hasattr(compressor, "compress_many") and hasattr(compressor, "decompress_many")


def most(compressor: Compressor, size: int) -> int:
    """Return how many updates of `size` values are worth being worked on at once, from 1."""
    if not knows_many(compressor):
        return 1
    return max(1, min(MOST, _VALUES // max(1, size)))


def compress_many(
    compressor: Compressor, vectors: Sequence[NDArray[np.float32]], contexts: Sequence[Context]
) -> list[bytes | Exception]:
    """Return the body of each float32[n], all of one size, or the error of the one that has none.

    An error of any kind is that of its update alone: a compressor may be somebody's own.

    >>> from fedlite.compression import NOTHING, make
    >>> twice = [np.array([1.5], np.float32), np.array([np.nan], np.float32)]
    >>> body, error = compress_many(make("dense"), twice, [NOTHING, NOTHING])
    >>> len(body), type(error)
    (4, <class 'ValueError'>)
    """

    def some(at: slice) -> list[bytes]:
        if not knows_many(compressor):
            raise ValueError("compressor: has no way for many")
        return compressor.compress_many(np.stack(vectors[at]), contexts[at])

    def one(at: int) -> bytes:
        return compressor.compress(vectors[at], contexts[at])

    size = vectors[0].size if vectors else 0
    return _in_groups(len(vectors), most(compressor, size), some, one, Exception)


def decompress_many(
    compressor: Compressor, bodies: Sequence[bytes], size: int, contexts: Sequence[Context]
) -> list[Decoded | ValueError]:
    """Return the update in each possibly hostile body, or the error for which it is refused."""

    def some(at: slice) -> Sequence[Decoded | ValueError]:
        if not knows_many(compressor):
            raise ValueError("compressor: has no way for many")
        return compressor.decompress_many(bodies[at], size, contexts[at])

    def one(at: int) -> Decoded:
        return compressor.decompress(bodies[at], size, contexts[at])

    return _in_groups(len(bodies), most(compressor, size), some, one, ValueError)


def _in_groups(
    number: int,
    at_once: int,
    some: Callable[[slice], Sequence[Result | Refusal]],
    one: Callable[[int], Result],
    refusal: type[Refusal],
) -> list[Result | Refusal]:
    """Return what each comes to, or its `refusal`; of what is at fault in a group, halves tell."""

    def of(start: int, stop: int) -> list[Result | Refusal]:
        if stop - start == 1:
            try:
                return [one(start)]
            except refusal as error:
                return [error]
        if (found := _whole(some, slice(start, stop))) is not None:
            return found
        middle = (start + stop) // 2
        return of(start, middle) + of(middle, stop)

    groups = (of(start, min(number, start + at_once)) for start in range(0, number, at_once))
    return [result for group in groups for result in group]


def _whole(some: Callable[[slice], Sequence[Result]], at: slice) -> list[Result] | None:
    """Return what a group comes to; None where any of it is at fault, whatever is raised for it."""
    try:
        found = list(some(at))
    except Exception:  # each by itself says what is wrong with it
        return None
    return found if len(found) == at.stop - at.start else None
