"""What server and site say to each other, as bytes; Flower carries them as one blob a message.

A server asks a site to take part in a round with an `Instruction`; the site answers with a `Reply`:
one update frame (`fedlite.compression.frame`) and, when it keeps a privacy ledger, the ledger's
head. Before that, the server asks every new site for its `Hello`. Errors travel as one of the
`Code`s and nothing else: an exception's text may quote a record.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAGIC = b"FLIN"
VERSION = 1
_HEAD = struct.Struct("<4sB8sIIIH8s")
_RECEIPT = struct.Struct("<32sI64s")
_REPLY_MAGIC = b"FH"
_REPLY = struct.Struct("<2sBBI32s64s")
_LEDGER = struct.Struct("<32s32s")
# A ledger may be carried on under a new key; its rows prove that to a server that knew the old one.
_MOST_ROTATIONS = 16
_MOST_HELLO_BYTES = 32_768


class Code(StrEnum):
    """Why a site did not send an update, or why the server did not use one."""

    DATA = "data"  # the site's data is missing, empty or unusable
    BUDGET = "budget"  # the site's own privacy budget has nothing left for this run
    LEDGER = "ledger"  # site: its ledger is behind what the server has seen; server: the reverse
    POLICY = "policy"  # the site's policy does not allow what the server asks for
    NEED_FULL_MODEL = "need-full-model"  # the chain does not start at the model the site has
    BAD_INSTRUCTION = "bad-instruction"  # the server's message is malformed or for another model
    CONFIG = "config"  # the scenario is wrong, or asks for what the site cannot do
    UNAPPROVED = "unapproved"  # the site's operator has not approved this bundle and its settings
    PROTOCOL = "protocol"  # the releases at both ends understand each other no more
    FAILED = "failed"  # anything else; the site's own log has the text
    BAD_UPDATE = "bad-update"  # server side: the reply is no valid update for this round


@dataclass(frozen=True)
class Receipt:
    """The server's signature over a ledger head that it has seen from this site.

    witness: the server's Ed25519 public key, 32 bytes. seq: the row's number. signature: 64 bytes
    over what `fedlite.privacy.ledger` defines for a witness.
    """

    witness: bytes
    seq: int
    signature: bytes


@dataclass(frozen=True)
class Instruction:
    """One site's invitation to one round.

    run: 8 bytes that name the run. round: from 1. site: `site_id` of the invited site.
    acknowledged: the last round whose update from this site was used (0: none yet).
    model: digest of the model to train from, after all `frames` have been applied in order.
    receipt: for the last ledger head that the server has from this site, if it has one.
    """

    run: bytes
    round: int
    site: int
    acknowledged: int
    model: bytes
    frames: tuple[bytes, ...]
    receipt: Receipt | None = None

    def encode(self) -> bytes:
        """Return the wire form: a 35-byte head, each frame after its length (u32), the receipt."""
        head = _HEAD.pack(
            MAGIC,
            VERSION,
            self.run,
            self.round,
            self.site,
            self.acknowledged,
            len(self.frames),
            self.model,
        )
        frames = b"".join(struct.pack("<I", len(f)) + f for f in self.frames)
        receipt = b""
        if self.receipt is not None:
            receipt = _RECEIPT.pack(self.receipt.witness, self.receipt.seq, self.receipt.signature)
        return head + frames + receipt

    @classmethod
    def decode(cls, blob: bytes) -> Instruction:
        """Read the wire form; raises ValueError when it is malformed."""
        if len(blob) < _HEAD.size:
            raise ValueError(f"instruction: needs at least {_HEAD.size} bytes, got {len(blob)}")
        magic, version, run, number, site, acknowledged, count, model = _HEAD.unpack_from(blob)
        if magic != MAGIC or version != VERSION:
            raise ValueError(
                f"instruction: must be {MAGIC!r} version {VERSION}, got {magic!r} version {version}"
            )
        frames, offset = [], _HEAD.size
        for _ in range(count):
            if offset + 4 > len(blob):
                raise ValueError("instruction: cut off inside a frame's length")
            (length,) = struct.unpack_from("<I", blob, offset)
            offset += 4
            if offset + length > len(blob):
                raise ValueError("instruction: cut off inside a frame")
            frames.append(blob[offset : offset + length])
            offset += length
        receipt = None
        if len(blob) - offset == _RECEIPT.size:
            receipt = Receipt(*_RECEIPT.unpack_from(blob, offset))
        elif offset != len(blob):
            raise ValueError(f"instruction: {len(blob) - offset} bytes too many")
        return cls(run, number, site, acknowledged, model, tuple(frames), receipt)


@dataclass(frozen=True)
class LedgerHead:
    """The last row of a site's privacy ledger, signed by the site.

    ledger: hash of its first row, which names it. key: the site's Ed25519 public key. Both are 32
    bytes, or empty in a reply to a server that has shown by a receipt that it knows them.
    hash: 32 bytes. signature: 64 bytes.
    """

    seq: int
    hash: bytes
    signature: bytes
    ledger: bytes = b""
    key: bytes = b""


@dataclass(frozen=True)
class Reply:
    """A site's answer: one update frame, and the head of its privacy ledger if it keeps one.

    Without a head the wire form is the frame itself.
    """

    frame: bytes
    head: LedgerHead | None = None

    def encode(self) -> bytes:
        """Return the wire form: a head of 104 bytes (168 with the names), then the frame."""
        if self.head is None:
            return self.frame
        head = self.head
        named = bool(head.ledger)
        names = _LEDGER.pack(head.ledger, head.key) if named else b""
        fixed = _REPLY.pack(_REPLY_MAGIC, VERSION, named, head.seq, head.hash, head.signature)
        return fixed + names + self.frame

    @classmethod
    def decode(cls, blob: bytes) -> Reply:
        """Read the wire form; raises ValueError when it is malformed."""
        if blob[:2] != _REPLY_MAGIC:
            return cls(blob)
        if len(blob) < _REPLY.size:
            raise ValueError(f"reply: needs at least {_REPLY.size} bytes, got {len(blob)}")
        _, version, named, seq, digest, signature = _REPLY.unpack_from(blob)
        if version != VERSION or named > 1:
            raise ValueError(f"reply: must be version {VERSION}, got {version} (flags {named})")
        offset, names = _REPLY.size, (b"", b"")
        if named:
            if len(blob) < offset + _LEDGER.size:
                raise ValueError("reply: cut off inside the ledger's names")
            names = _LEDGER.unpack_from(blob, offset)
            offset += _LEDGER.size
        return cls(blob[offset:], LedgerHead(seq, digest, signature, *names))


@dataclass(frozen=True)
class Counted(Reply):
    """A site's answer when it is asked for its counts: they are in the frame, not an update.

    It looks like any other reply; that it is one of these settles what the site's policy must say.
    """


# What the messages that ask for counts are grouped by, and sites call their round.
COUNTS = "counts"

# What a reply adds to its frame where the server knows the ledger, and at most; a longer one is cut
# off before it is read.
HEAD_BYTES = _REPLY.size
REPLY_BYTES = _REPLY.size + _LEDGER.size


@dataclass(frozen=True)
class Hello:
    """What a site says of itself before its first round.

    site: its name. layout: digest of its model's layout. version: of fedlite there. head: of its
    privacy ledger, if it has one already. rotations: the ledger's rows by which it changed its key,
    oldest first, as JSON lines. protocol: what it speaks (`fedlite.deployment.protocol`), "" for a
    release that does not tell.
    """

    site: str
    layout: str
    version: str
    head: LedgerHead | None = None
    rotations: tuple[str, ...] = ()
    protocol: str = ""

    def encode(self) -> bytes:
        """Return canonical JSON."""
        body: dict[str, Any] = {"layout": self.layout, "site": self.site, "version": self.version}
        if self.protocol:
            body["protocol"] = self.protocol
        if self.head is not None:
            body["ledger"] = {
                name: value.hex() if isinstance(value, bytes) else value
                for name, value in vars(self.head).items()
            } | {"rotations": list(self.rotations)}
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, blob: bytes) -> Hello:
        """Read it; raises ValueError when it is malformed or the name is not short and plain."""
        if len(blob) > _MOST_HELLO_BYTES:
            raise ValueError(f"hello: must be at most {_MOST_HELLO_BYTES} bytes, got {len(blob)}")
        try:
            body = json.loads(blob)
            head, rotations = _ledger_part(body["ledger"]) if "ledger" in body else (None, ())
            protocol = body.get("protocol", "")
            hello = cls(body["site"], body["layout"], body["version"], head, rotations, protocol)
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
            raise ValueError("hello: not the expected JSON object") from None
        for value in (hello.site, hello.layout, hello.version, hello.protocol or "1"):
            if not (isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable()):
                raise ValueError("hello: every value must be printable text of 1 to 64 characters")
        if "/" in hello.site or hello.site.startswith("."):
            raise ValueError("hello: a site's name may hold no '/' and not start with a dot")
        return hello


def _ledger_part(body: dict[str, Any]) -> tuple[LedgerHead, tuple[str, ...]]:
    sizes = {"hash": 32, "signature": 64, "ledger": 32, "key": 32}
    parts = {name: bytes.fromhex(body[name]) for name in sizes}
    seq, rotations = body["seq"], body["rotations"]
    if any(len(parts[name]) != size for name, size in sizes.items()):
        raise ValueError("hello: a hash, key or signature has the wrong length")
    if type(seq) is not int or not 0 <= seq < 2**32:
        raise ValueError("hello: the row's number must be from 0 to 2**32 - 1")
    if len(rotations) > _MOST_ROTATIONS or not all(isinstance(line, str) for line in rotations):
        raise ValueError(f"hello: must have at most {_MOST_ROTATIONS} rotations, each one line")
    return LedgerHead(seq, **parts), tuple(rotations)


def site_id(name: str) -> int:
    """Return the 32-bit number that binds a frame to a site, from its name; never 0."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") or 1
