"""The frame: its exact bytes, and one named error for everything that can differ."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fedlite.compression.frame import HEADER_BYTES, PAD_BYTES, Envelope, pack, pad, unpack, unpad

ENVELOPE = Envelope(run=b"run-0001", round=9, site=4, layout=b"layout-1", base=b"model-at")
BODY = b"some body"
U32 = st.integers(0, 2**32 - 1)
EIGHT = st.binary(min_size=8, max_size=8)


def with_crc(blob: bytes) -> bytes:
    """Return `blob` with the CRC that belongs to it."""
    crc = zlib.crc32(blob[28:], zlib.crc32(blob[:24]))
    return blob[:24] + struct.pack("<I", crc) + blob[28:]


@settings(deadline=None)
@given(
    envelope=st.builds(Envelope, run=EIGHT, round=U32, site=U32, layout=EIGHT, base=EIGHT),
    codec=st.integers(0, 255),
    body=st.binary(max_size=50),
    records=U32,
)
def test_round_trip(envelope: Envelope, codec: int, body: bytes, records: int) -> None:
    blob = pack(envelope, codec, body, records)
    assert len(blob) == HEADER_BYTES + len(body)
    assert unpack(blob, envelope, limit=len(body)) == (codec, records, body)


def test_the_bytes_are_the_documented_ones() -> None:
    bound = b"run-0001" + struct.pack("<II", 9, 4) + b"model-at" + b"layout-1"
    head = b"FL\x01\x02" + b"layo" + struct.pack("<I", 9) + hashlib.sha256(bound).digest()[:8]
    head += struct.pack("<I", 120)
    crc = struct.pack("<I", zlib.crc32(head + BODY))
    assert pack(ENVELOPE, 2, BODY, records=120) == head + crc + BODY
    assert len(head + crc) == HEADER_BYTES == 28


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": b"run-0002"}, "frame binding .* run, the site or the base model"),
        ({"site": 5}, "frame binding"),
        ({"base": b"model-bt"}, "frame binding"),
        ({"round": 8}, "frame round must be 8, got 9"),
        ({"layout": b"Layout-1"}, "frame layout"),
        ({"layout": b"layout-2"}, "frame binding"),
    ],
)
def test_a_frame_for_something_else_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(pack(ENVELOPE, 1, BODY), replace(ENVELOPE, **change), limit=100)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (0, "frame magic"),
        (1, "frame magic"),
        (2, "frame version must be 1, got 254"),
        (4, "frame layout"),
        (8, "frame round"),
        (12, "frame binding"),
        (19, "frame binding"),
    ],
)
def test_a_changed_header_is_named_even_with_a_fresh_crc(at: int, message: str) -> None:
    blob = bytearray(pack(ENVELOPE, 1, BODY))
    blob[at] ^= 0xFF
    with pytest.raises(ValueError, match=message):
        unpack(with_crc(bytes(blob)), ENVELOPE, limit=100)


def test_every_single_bit_flip_is_refused() -> None:
    blob = pack(ENVELOPE, 1, BODY, records=7)
    for bit in range(8 * len(blob)):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(ValueError, match=r"frame (magic|version|CRC)"):
            unpack(bytes(damaged), ENVELOPE, limit=100)


def test_truncated_and_extended_frames_are_refused() -> None:
    blob = pack(ENVELOPE, 1, BODY)
    for length in range(len(blob)):
        with pytest.raises(ValueError, match=r"frame (length|CRC)"):
            unpack(blob[:length], ENVELOPE, limit=100)
    with pytest.raises(ValueError, match="frame CRC"):
        unpack(blob + b"\0", ENVELOPE, limit=100)


def test_a_body_over_the_limit_is_refused_before_anything_else() -> None:
    blob = pack(ENVELOPE, 1, BODY)
    assert unpack(blob, ENVELOPE, limit=len(BODY))[2] == BODY
    with pytest.raises(ValueError, match="frame length must be at most 36 bytes, got 37"):
        unpack(blob, ENVELOPE, limit=len(BODY) - 1)
    with pytest.raises(ValueError, match="frame length"):
        unpack(bytes(1000), ENVELOPE, limit=100)


@pytest.mark.parametrize("name", ["run", "layout", "base"])
@pytest.mark.parametrize("value", [b"", b"short", b"nine long", "textual8"])
def test_digests_must_be_eight_bytes(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be 8 bytes"):
        replace(ENVELOPE, **{name: value})


@pytest.mark.parametrize("name", ["round", "site"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_numbers_must_fit_their_field(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 4294967295\]"):
        replace(ENVELOPE, **{name: value})  # type: ignore[arg-type]


def test_codec_and_records_must_fit_their_field() -> None:
    with pytest.raises(ValueError, match="codec must be in"):
        pack(ENVELOPE, 256, BODY)
    with pytest.raises(ValueError, match="records must be in"):
        pack(ENVELOPE, 1, BODY, records=-1)


@given(st.binary(max_size=30), st.integers(0, 30), st.binary(min_size=16, max_size=16))
def test_padded_bodies_come_back_and_have_the_length_of_the_limit(
    body: bytes, more: int, salt: bytes
) -> None:
    padded = pad(body, len(body) + more, salt)
    assert padded[4:20] == salt
    assert len(padded) == PAD_BYTES + len(body) + more
    assert unpad(padded) == body


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\1\0\0",
        bytes(19),
        b"\3\0\0\0" + bytes(16) + b"ab",
        b"\1\0\0\0" + bytes(16) + b"ab",
        b"\xff\xff\xff\xff" + bytes(25),
    ],
)
def test_a_padded_body_that_nobody_wrote_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="padded body"):
        unpad(wrong)
