"""What server and site say to each other, as bytes; Flower carries them as one blob a message.

A server asks a site to take part in a round with an `Instruction`; the site answers with one update
frame (`fedlite.compression.frame`). Before that, the server asks every new site for its `Hello`.
Errors travel as one of the `Code`s and nothing else: an exception's text may quote a record.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from enum import StrEnum

MAGIC = b"FLIN"
VERSION = 1
_HEAD = struct.Struct("<4sB8sIIIH8s")


class Code(StrEnum):
    """Why a site did not send an update, or why the server did not use one."""

    DATA = "data"  # the site's data is missing, empty or unusable
    BUDGET = "budget"  # the site's privacy plan has no steps left
    NEED_FULL_MODEL = "need-full-model"  # the chain does not start at the model the site has
    BAD_INSTRUCTION = "bad-instruction"  # the server's message is malformed or for another model
    CONFIG = "config"  # the scenario is wrong, or asks for what the site cannot do
    FAILED = "failed"  # anything else; the site's own log has the text
    BAD_UPDATE = "bad-update"  # server side: the reply is no valid update for this round


@dataclass(frozen=True)
class Instruction:
    """One site's invitation to one round.

    run: 8 bytes that name the run. round: from 1. site: `site_id` of the invited site.
    acknowledged: the last round whose update from this site was used (0: none yet).
    model: digest of the model to train from, after all `frames` have been applied in order.
    """

    run: bytes
    round: int
    site: int
    acknowledged: int
    model: bytes
    frames: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the wire form: a 35-byte head, then each frame after its length (u32)."""
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
        return head + b"".join(struct.pack("<I", len(f)) + f for f in self.frames)

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
        if offset != len(blob):
            raise ValueError(f"instruction: {len(blob) - offset} bytes too many")
        return cls(run, number, site, acknowledged, model, tuple(frames))


@dataclass(frozen=True)
class Hello:
    """What a site says of itself before its first round: a name, and its model's layout."""

    site: str
    layout: str
    version: str

    def encode(self) -> bytes:
        """Return canonical JSON."""
        body = {"layout": self.layout, "site": self.site, "version": self.version}
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, blob: bytes) -> Hello:
        """Read it; raises ValueError when it is malformed or the name is not short and plain."""
        try:
            body = json.loads(blob)
            hello = cls(site=body["site"], layout=body["layout"], version=body["version"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("hello: not the expected JSON object") from None
        for value in (hello.site, hello.layout, hello.version):
            if not (isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable()):
                raise ValueError("hello: every value must be printable text of 1 to 64 characters")
        if "/" in hello.site or hello.site.startswith("."):
            raise ValueError("hello: a site's name may hold no '/' and not start with a dot")
        return hello


def site_id(name: str) -> int:
    """Return the 32-bit number that binds a frame to a site, from its name; never 0."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") or 1
