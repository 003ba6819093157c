"""The model that a client remembers, and how the server's differences lead to the next one.

It is in the app's `context.state`, which lasts as long as the client's process does; a client that
lost it says so and gets the whole model.
"""

from __future__ import annotations

import struct
from functools import partial

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedlite.flower import frames
from fedlite.flower.offer import Offer, compressor
from fedlite.flower.tensors import Tensors, read, write
from fedlite.scenario.keys import Link
from fedlite.scenario.links import DOWN, SMALL

MISSING = "fedlite: whole model needed"
"""How the reason of an error begins by which a client asks for the whole model."""

STATE = "fedlite.replica"
KEY, HELD = "fedlite", "fedlite.held"

# One sender, so what is left out of a difference stays in the next: it may be biased.
choice = partial(compressor, Link(**DOWN), small=SMALL)
_LENGTH = struct.Struct("<I")


def chain(parts: list[bytes]) -> bytes:
    """Return several frames as one: their number, and each after its length, u32.

    >>> unchain(chain([b"one", b"two"]))
    [b'one', b'two']
    """
    pieces = [_LENGTH.pack(len(parts))]
    for part in parts:
        pieces += [_LENGTH.pack(len(part)), part]
    return b"".join(pieces)


def unchain(blob: bytes) -> list[bytes]:
    """Return the frames of a chain; raises ValueError when it is none."""
    parts, at = [], _LENGTH.size
    try:
        for _ in range(*_LENGTH.unpack_from(blob)):
            (length,) = _LENGTH.unpack_from(blob, at)
            at += _LENGTH.size + length
            parts.append(blob[at - length : at])
    except struct.error:
        raise ValueError("chain: is cut short") from None
    if at != len(blob):
        raise ValueError(f"chain: must end after {at} bytes, got {len(blob)}")
    return parts


def restore(
    content: RecordDict, offer: Offer, message: Message, context: Context
) -> RecordDict | None:
    """Return the content with its model whole, and remember that; None where it cannot be had."""
    for key, record in content.items():
        blob = frames.of_record(record)
        if blob is None and not isinstance(record, ArrayRecord):
            continue
        whole = record if blob is None else _follow(key, blob, offer, message, context)
        if not isinstance(whole, ArrayRecord):
            return None
        # The app may take arrays out of its own record.
        context.state[STATE] = whole.copy()
        return RecordDict({name: whole if name == key else r for name, r in content.items()})
    return None


def _follow(
    key: str, blob: bytes, offer: Offer, message: Message, context: Context
) -> ArrayRecord | None:
    """Return the model that frames lead to from the one that is remembered, or None."""
    held = context.state.get(STATE)
    if not isinstance(held, ArrayRecord):
        return None
    try:
        parts, arrays = unchain(blob), read(held)
        for number, frame in enumerate(parts, start=offer.version - len(parts) + 1):
            tensors = Tensors.of(key, arrays, offer.exact)
            told = frames.envelope(
                message.metadata.run_id,
                number,
                0,
                offer.seed,
                tensors,
                tensors.values_digest(arrays),
            )
            arrays = frames.unseal(tensors, arrays, frame, choice, told)
        if Tensors.of(key, arrays).values_digest(arrays).hex() != offer.model:
            return None
    except ValueError:
        return None
    return held if not parts else write(arrays)


def acknowledged(content: RecordDict, offer: Offer) -> RecordDict:
    """Return a reply's content with the digest of the model that this client now remembers."""
    told = ConfigRecord({HELD: bytes.fromhex(offer.model)})
    return RecordDict({**dict(content.items()), KEY: told})


def take_acknowledgement(content: RecordDict) -> tuple[RecordDict, bytes]:
    """Return a reply's content without its acknowledgement, and the digest in it, or b""."""
    rest = dict(content.items())
    record = rest.get(KEY)
    if record is None or list(record.keys()) != [HELD]:
        return content, b""
    del rest[KEY]
    digest = record[HELD]
    return RecordDict(rest), digest if isinstance(digest, bytes) else b""
