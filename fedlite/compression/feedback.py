"""What surrounds a compressor: the stages that keep what it loses from being lost for good.

**Error feedback**: what compression left out of one update is added to the next. It costs a site a
vector of memory, and is stale when the site was not asked for a while. Source: Seide, Fu, Droppo,
Li, Yu 2014, "1-bit stochastic gradient descent"; Karimireddy, Rebjock, Stich, Jaggi 2019, "Error
feedback fixes SignSGD and other gradient compression schemes"; Sattler, Wiedemann, Mueller, Samek
2019, "Robust and communication-efficient federated learning from non-IID data".

**Aggregate feedback**: the site subtracts what the server has just broadcast, which both ends know,
and compresses the rest. It needs no memory at the site, so it serves sites that come once. Source:
Ortega, Huang, Li, Jafarkhani 2025, "Communication compression for distributed learning with
aggregate and server-guided feedback", arXiv 2512.22623 (CAFe).

**A bound.** A receiver that cuts long updates would take off from the largest coordinates what the
residual thinks was said. The sender knows the bound, so it shortens all that it wants to say by the
factor that its message would be cut by: the message then arrives as it is, and what was cut, the
same share of every coordinate, is in neither. Keeping it would let residuals grow for ever.

Privacy: under record-level privacy the delta must be the noised one. A residual of clean deltas
would carry unprotected information into later messages. Under central client-level privacy error
feedback is not used. What the server has broadcast is public, so subtracting it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.batch import Packing
from fedlite.compression.interface import NOTHING, Compressor, Context, Decoded
from fedlite.compression.selection import require_finite
from fedlite.steps import by_itself

Cut = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Residual:
    """What earlier updates wanted to say and could not.

    Attributes:
        value: float32[n], in the units of the delta.

    Raises:
        ValueError: `value` is not a one-dimensional float32 array.

    >>> Residual(np.zeros(3, dtype=np.float32)).value
    array([0., 0., 0.], dtype=float32)
    """

    value: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Check shape and type."""
        if self.value.ndim != 1 or self.value.dtype != np.float32:
            raise ValueError(
                f"residual must be float32 with one dimension, got {self.value.dtype} of shape "
                f"{self.value.shape}"
            )


@dataclass(frozen=True, eq=False)
class Sent:
    """One update as it goes out.

    Attributes:
        body: what the compressor wrote.
        update: float32[n], the update as the receiver will use it.
        unsent: the residual if this body does not get through: nothing of it was said.
        residual: the residual if it does. Up to rounding, update plus residual is unsent, or,
            where the update would have been cut, unsent times a factor.
    """

    body: bytes
    update: Decoded
    unsent: Residual
    residual: Residual


def compressing(
    compressor: Compressor,
    delta: NDArray[np.float32],
    residual: Residual | None = None,
    *,
    reference: NDArray[np.float32] | None = None,
    context: Context = NOTHING,
    cut: Cut | None = None,
) -> Generator[Packing, bytes, Sent]:
    """Compress `delta` plus `residual` minus `reference`, and say what is left in either case.

    Yields what is to be written and is sent the bytes; `compress` does both at once. Nothing that
    is passed in is changed: the caller keeps both residuals until the receiver has
    acknowledged the update or not.

    Args:
        compressor: the stage that loses something.
        delta: float32[n], finite.
        residual: of the last acknowledged update, or None at the start.
        reference: float32[n] that the receiver will add again, or None.
        context: what both ends know of this message.
        cut: what the receiver makes of the values of an update: themselves where they are within
            its bound, else a multiple of them (`privacy.client.clip`); None if it has no bound.

    Raises:
        ValueError: the shapes differ, or the sum is not a finite float32[n].

    >>> from fedlite.compression.topk import TopK
    >>> delta = np.array([4.0, 1.0, -2.0], dtype=np.float32)
    >>> sent = compress(TopK(0.3, "fp32"), delta)
    >>> sent.update.dense(), sent.residual.value
    (array([4., 0., 0.], dtype=float32), array([ 0.,  1., -2.], dtype=float32))
    """
    for name, other in (
        ("residual", residual.value if residual else None),
        ("reference", reference),
    ):
        if other is not None and other.shape != delta.shape:
            raise ValueError(
                f"{name} must have the shape of the delta, got {other.shape} and {delta.shape}; "
                "a new model starts without one"
            )
    # An overflow becomes infinite here and is refused by the compressor.
    with np.errstate(over="ignore", invalid="ignore"):
        unsent = delta.copy() if residual is None else delta + residual.value
    body, update = yield from _say(compressor, unsent, reference, context)
    left = unsent.copy()
    if cut is not None and (kept := cut(update.values)) is not update.values:
        factor = _norm(kept) / _norm(update.values)
        left = (unsent.astype(np.float64) * factor).astype(np.float32)
        body, update = yield from _say(compressor, left, reference, context)
        # What a reference or rounded values still have too much is not taken off the residual.
        update = replace(update, values=cut(update.values))
    update.add_to(left, -1.0)
    return Sent(body, update, Residual(unsent), Residual(left))


compress = by_itself(compressing)


def _say(
    compressor: Compressor,
    vector: NDArray[np.float32],
    reference: NDArray[np.float32] | None,
    context: Context,
) -> Generator[Packing, bytes, tuple[bytes, Decoded]]:
    """Return the body for `vector`, and the update before any bound."""
    with np.errstate(over="ignore", invalid="ignore"):
        target = vector if reference is None else vector - reference
    body = yield Packing(compressor, target, context)
    return body, restore(compressor.decompress(body, vector.size, context), reference)


def _norm(values: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))


def restore(update: Decoded, reference: NDArray[np.float32] | None) -> Decoded:
    """Return `update` with the reference that its sender subtracted added again.

    Raises:
        ValueError: the sum is not finite, or the shapes differ.
    """
    if reference is None:
        return update
    if reference.shape != (update.size,):
        raise ValueError(f"reference must have {update.size} values, got {reference.shape}")
    total = reference.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        update.add_to(total, 1.0)
    require_finite(total)
    return Decoded(update.size, None, total)
