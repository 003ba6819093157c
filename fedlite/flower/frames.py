"""Changes of tensors in fedlite's frame: bound to run, round, sender, layout and base."""

from __future__ import annotations

from collections.abc import Collection, Container
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from numpy.typing import NDArray

from fedlite.compression import Compressor, Envelope, pack, unpack
from fedlite.flower import blob as blobs
from fedlite.flower.change import Choice, decode, encode
from fedlite.flower.tensors import Arrays, Tensors

ENTRY = "fedlite.frame"
STYPE = "fedlite.frame.v1"


def envelope(
    run_id: int, number: int, sender: int, seed: int, tensors: Tensors, base: bytes
) -> Envelope:
    """Return what both ends know of a frame; `base`: digest of the model that it starts from."""
    return Envelope(run_id.to_bytes(8, "little"), number, sender, tensors.digest, base, seed)


def seal(tensors: Tensors, base: Arrays, new: Arrays, choice: Choice, told: Envelope) -> bytes:
    """Return the frame that leads from `base` to `new`; raises ValueError as `encode` does."""
    body = encode(tensors, base, new, choice, told.context)
    return pack(told, _codec(tensors, choice), body)


def unseal(
    tensors: Tensors, onto: Arrays, frame: bytes, choice: Choice, told: Envelope
) -> dict[str, NDArray[Any]]:
    """Return `onto` with a received frame applied; raises ValueError as `unpack` and `decode`."""
    codec, _, body = unpack(frame, told, limit=tensors.limit)
    if codec != (wanted := _codec(tensors, choice)):
        raise ValueError(f"codec: must be {wanted}, got {codec}")
    return decode(tensors, onto, body, choice, told.context)


def _codec(tensors: Tensors, choice: Choice) -> int:
    made: Compressor = choice(tuple(t.size for t in tensors.entries if not t.exact))
    return made.codec


def base_of(key: str, sent: Collection[str], replied: Container[str]) -> str | None:
    """Return which of the records that were `sent` the record `key` of a reply starts from.

    The one of its name; for one of another name the only one, unless the reply has that itself.

    >>> base_of("a", ["a", "b"], ["a"]), base_of("new", ["a"], ["new"])
    ('a', 'a')
    >>> base_of("new", ["a", "b"], ["new"]), base_of("new", ["a"], ["new", "a"])
    (None, None)
    """
    if key in sent:
        return key
    (only, *others) = sent
    return None if others or only in replied else only


def to_record(frame: bytes) -> ConfigRecord | ArrayRecord:
    """Return the record that carries a frame, or several packed as one, in place of the arrays."""
    return blobs.to_record(frame, ENTRY, STYPE)


def of_record(record: ArrayRecord | ConfigRecord | MetricRecord) -> bytes | None:
    """Return the frame that a record carries; None for a record of the app's own."""
    return blobs.of_record(record, ENTRY, STYPE)
