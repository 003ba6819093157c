"""The steps of a round as bytes: a head of 16 bytes that says what for, then what it says.

Head, little-endian::

    magic "FS" | version u8 | step u8 | round u32 | binding 8 B

The binding is the start of a SHA-256 over group, round and model. Lengths follow from the group,
and are checked before anything is read.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from fedlite.secure.group import MOST_GROUP_BYTES, MOST_MEMBERS
from fedlite.secure.rules import Refused

MAGIC = b"FS"
VERSION = 1
_HEAD = struct.Struct("<2sBBI8s")
HEAD_BYTES = _HEAD.size
SIGNATURE_BYTES = 64
SUMMED = 64
"""The codec of a frame whose body is a masked vector."""
# A group is the longest of them; a proof has a signature a member.
MOST_BYTES = HEAD_BYTES + max(MOST_GROUP_BYTES, MOST_MEMBERS * (SIGNATURE_BYTES + 1))


class Step(IntEnum):
    """What a server asks; the answer bears the same number."""

    CARD = 1  # who are you in this run? -> a card
    JOIN = 2  # this is the group -> nothing
    SEEDS = 3  # these are left -> the seeds of the masks shared with those that are not
    SIGN = 4  # these will be summed -> a signature over them
    OPEN = 5  # these signatures say so -> the secret of the own mask
    SHARES = 6  # these have not answered -> the shares of their secrets


@dataclass(frozen=True)
class Note:
    """One message: a step of a round, and what it says."""

    step: Step
    round: int
    binding: bytes
    body: bytes = b""

    def encode(self) -> bytes:
        """Return the wire form."""
        return _HEAD.pack(MAGIC, VERSION, self.step, self.round, self.binding) + self.body

    @classmethod
    def decode(cls, blob: bytes) -> Note:
        """Read it; raises Refused "form"."""
        if not HEAD_BYTES <= len(blob) <= MOST_BYTES:
            raise Refused("form", f"{HEAD_BYTES} to {MOST_BYTES} bytes are read, got {len(blob)}")
        magic, version, step, number, binding = _HEAD.unpack_from(blob)
        if magic != MAGIC or version != VERSION or step not in set(Step):
            raise Refused("form", f"must be {MAGIC!r} version {VERSION}, got {blob[:4]!r}")
        return cls(Step(step), number, binding, blob[HEAD_BYTES:])


def is_note(blob: bytes) -> bool:
    """Whether bytes are meant for a member's state machine."""
    return blob[:2] == MAGIC


def context_of(group: bytes, number: int, model: bytes) -> bytes:
    """Return what everything of a round is bound to: the group's digest, the round, the model."""
    return group + number.to_bytes(4, "little") + model


def binding_of(context: bytes) -> bytes:
    """Return the 8 bytes by which a message says which round it is of."""
    return hashlib.sha256(context).digest()[:8]


def to_flags(members: Iterable[int], size: int) -> bytes:
    """Return a list of members as a bit each, low bit first.

    >>> to_flags([0, 3, 8], 9).hex()
    '0901'
    """
    return sum(1 << at for at in set(members)).to_bytes(-(-size // 8), "little")


def of_flags(data: bytes, size: int) -> tuple[int, ...]:
    """Return the list that `to_flags` wrote; raises Refused "form"."""
    found = int.from_bytes(data, "little")
    if len(data) != -(-size // 8) or found >> size:
        raise Refused("form", f"a list of {size} members has {-(-size // 8)} bytes")
    return tuple(at for at in range(size) if found >> at & 1)


def signed_list(context: bytes, flags: bytes) -> bytes:
    """Return what members sign when they agree to a list."""
    return b"fedlite secure sum, list 1\0" + context + flags


def pieces(body: bytes, size: int, count: int) -> list[bytes]:
    """Return `count` pieces of `size` bytes each; raises Refused "form" for another length."""
    if len(body) != size * count:
        raise Refused("form", f"must hold {count} x {size} bytes, got {len(body)}")
    return [body[at : at + size] for at in range(0, len(body), size)]
