"""The versioned binary frame around one update: what it is for, checked before what it says.

Header, 28 bytes, little-endian::

    magic "FL" | version u8 | codec u8 | layout 4 B | round u32 |
    binding 8 B | records u32 | crc32 u32 over header and body

The binding is the start of a SHA-256 over run, round, site, base model and layout, so a frame that
was sent for another run, round, site or model is refused. Neither binding nor CRC is a secret: they
catch accidents and mix-ups, while authenticity is the transport's (TLS, signed messages).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

from fedlite.compression.interface import Context

MAGIC = b"FL"
VERSION = 1

_HEADER = struct.Struct("<2sBB4sI8sI")
_CRC = struct.Struct("<I")
_BINDING = struct.Struct("<8sII8s8s")
_PAD = struct.Struct("<I16s")
_U32, _U64 = 2**32, 2**64

HEADER_BYTES = _HEADER.size + _CRC.size
"""Bytes that a frame adds to its body: 28."""

PAD_BYTES = _PAD.size
"""Bytes that a padded body adds to the limit of a plain one: 20."""

SALT_BYTES = 16


@dataclass(frozen=True)
class Envelope:
    """What both ends know about an update before it is sent.

    Attributes:
        run: 8 bytes that name the run.
        round: the round, 0 to 2**32 - 1.
        site: the sending site, 1 to 2**32 - 1; 0 for a broadcast.
        layout: the 8-byte digest of the parameter layout.
        base: the 8-byte digest of the model the update starts from.
        seed: the federation's public seed, 0 to 2**64 - 1. All public randomness comes from it,
            the round and the sender; a run's number only says which run it is.

    Raises:
        ValueError: a field has the wrong length or range.

    >>> Envelope(run=b"run-0001", round=3, site=7, layout=bytes(8), base=bytes(8)).binding.hex()
    '36525540ba8df598'
    """

    run: bytes
    round: int
    site: int
    layout: bytes
    base: bytes
    seed: int = 0

    def __post_init__(self) -> None:
        """Check lengths and ranges."""
        for name in ("run", "layout", "base"):
            value = getattr(self, name)
            if not isinstance(value, bytes) or len(value) != 8:
                raise ValueError(f"{name} must be 8 bytes, got {value!r}; pass an 8-byte digest")
        for name in ("round", "site"):
            _require_u32(name, getattr(self, name))
        if not 0 <= self.seed < _U64:
            raise ValueError(f"seed must be from 0 to 2**64 - 1, got {self.seed}")

    @property
    def binding(self) -> bytes:
        """The 8 bytes that tie a frame to this run, round, site, base model and layout."""
        packed = _BINDING.pack(self.run, self.round, self.site, self.base, self.layout)
        return hashlib.sha256(packed).digest()[:8]

    @property
    def context(self) -> Context:
        """What sender and receiver both know, for compressors that draw public randomness."""
        name = self.seed.to_bytes(8, "little") + self.round.to_bytes(4, "little")
        return Context(name, self.site)


def pack(envelope: Envelope, codec: int, body: bytes, records: int = 0) -> bytes:
    """Return the frame: the 28-byte header and `body`.

    Args:
        envelope: what the update is for.
        codec: the compressor's number, 0 to 255.
        body: what the compressor wrote.
        records: how many training records stand behind the update; 0 means not disclosed.

    Raises:
        ValueError: `codec` or `records` is out of range.
    """
    if not 0 <= codec < 256:
        raise ValueError(f"codec must be in [0, 255], got {codec}; pass the compressor's own")
    _require_u32("records", records)
    head = _HEADER.pack(
        MAGIC,
        VERSION,
        codec,
        envelope.layout[:4],
        envelope.round,
        envelope.binding,
        records,
    )
    return b"".join((head, _CRC.pack(zlib.crc32(body, zlib.crc32(head))), body))


def unpack(blob: bytes, envelope: Envelope, *, limit: int) -> tuple[int, int, bytes]:
    """Check a received frame against `envelope` and return its codec, records and body.

    The caller compares the codec with its own compressor's before it decompresses the body, and
    caps `records` before it uses them as a weight: both are the sender's claims.

    Args:
        blob: what arrived.
        envelope: what the receiver expects.
        limit: the most bytes the body may have (`Compressor.limit`), header not counted.

    Raises:
        ValueError: length, magic, version, CRC, layout, round or binding differs, named as such.

    >>> envelope = Envelope(run=b"run-0001", round=3, site=7, layout=bytes(8), base=bytes(8))
    >>> unpack(pack(envelope, 1, b"body", records=120), envelope, limit=4)
    (1, 120, b'body')
    """
    if len(blob) > HEADER_BYTES + limit:
        raise ValueError(
            f"frame length must be at most {HEADER_BYTES + limit} bytes, got {len(blob)}; "
            "the sender's compressor differs from the plan"
        )
    if len(blob) < HEADER_BYTES:
        raise ValueError(
            f"frame length must be at least {HEADER_BYTES} bytes, got {len(blob)}; it is truncated"
        )
    magic, version, codec, layout, round_, binding, records = _HEADER.unpack_from(blob)
    if magic != MAGIC:
        raise ValueError(f"frame magic must be {MAGIC!r}, got {magic!r}; this is no fedlite update")
    if version != VERSION:
        raise ValueError(
            f"frame version must be {VERSION}, got {version}; install the same fedlite at both ends"
        )
    view = memoryview(blob)
    crc = zlib.crc32(view[HEADER_BYTES:], zlib.crc32(view[: _HEADER.size]))
    (claimed,) = _CRC.unpack_from(blob, _HEADER.size)
    if crc != claimed:
        raise ValueError(f"frame CRC must be {crc:08x}, got {claimed:08x}; it was damaged, resend")
    if layout != envelope.layout[:4]:
        raise ValueError(
            f"frame layout must be {envelope.layout[:4].hex()}, got {layout.hex()}; "
            "the sender trains another model"
        )
    if round_ != envelope.round:
        raise ValueError(
            f"frame round must be {envelope.round}, got {round_}; it is late, early or replayed"
        )
    if binding != envelope.binding:
        raise ValueError(
            f"frame binding must be {envelope.binding.hex()}, got {binding.hex()}; "
            "the run, the site or the base model differs from the plan"
        )
    return codec, records, blob[HEADER_BYTES:]


def with_body(frame: bytes, body: bytes) -> bytes:
    """Return a frame with the header of another and a body of its own; its CRC is made anew.

    frame: of at least `HEADER_BYTES`, as `round_and_codec` has read it.
    """
    head = frame[: _HEADER.size]
    return b"".join((head, _CRC.pack(zlib.crc32(body, zlib.crc32(head))), body))


def round_and_codec(frame: bytes) -> tuple[int, int]:
    """Return for which round a frame says that it is, and by which codec its body was written.

    For whoever knows no layout; `unpack` holds all of a header against an envelope. Raises
    ValueError where it has no header of this version.
    """
    if len(frame) < HEADER_BYTES or frame[:3] != MAGIC + bytes([VERSION]):
        raise ValueError(f"frame must begin with {MAGIC!r} version {VERSION}, got {frame[:3]!r}")
    _, _, codec, _, number, _, _ = _HEADER.unpack_from(frame)
    return number, codec


def pad(body: bytes, limit: int, salt: bytes = bytes(SALT_BYTES)) -> bytes:
    """Return length, `salt` (16 bytes), `body` and zeros: `PAD_BYTES + limit` bytes, always.

    For a body that is not noised. Its length would tell something of the records: the positions
    that a site selects by clean values are written in more or fewer bytes, and a message's length
    is seen by whoever sees the network or the record of the run. And a ledger holds the SHA-256 of
    what was sent, which without a secret salt would confirm a guess of the records.
    """
    return _PAD.pack(len(body), salt) + body + bytes(limit - len(body))


def unpad(padded: bytes) -> bytes:
    """Return the body; raises ValueError when it is not one that `pad` wrote.

    >>> unpad(pad(b"body", 9, b"sixteen bytes...")), unpad(pad(b"body", 9))
    (b'body', b'body')
    """
    if len(padded) < PAD_BYTES:
        raise ValueError(f"padded body: needs at least {PAD_BYTES} bytes, got {len(padded)}")
    length, _ = _PAD.unpack_from(padded)
    if length > len(padded) - PAD_BYTES or any(padded[PAD_BYTES + length :]):
        raise ValueError(f"padded body: its length must be true and zeros follow, got {length}")
    return padded[PAD_BYTES : PAD_BYTES + length]


def disclosed_records(frame: bytes) -> int:
    """Return the record count that a frame made here tells its receiver; 0 means none."""
    return int(_HEADER.unpack_from(frame)[-1])


def _require_u32(name: str, value: int) -> None:
    if not 0 <= value < _U32:
        raise ValueError(f"{name} must be in [0, {_U32 - 1}], got {value}")
