"""The bytes in docs/wire-format.md are the bytes that the code writes, and can be read back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fedlite.compression import HEADER_BYTES, Envelope, make, pack, positions, unpack
from fedlite.messages import Hello, Instruction, LedgerHead, Receipt, Reply, site_id

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wire-format.md"
VECTORS = {
    name: bytes.fromhex(text)
    for name, text in re.findall(r"```hex (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
}
VECTOR = np.array([0.0, 1.5, 0.0, -2.5, 0.0, 0.0, 0.5, 0.0], np.float32)
RUN, LAYOUT = b"run-0001", bytes.fromhex("c88d2fc158f66166")
BEFORE, MODEL = bytes.fromhex("1112131415161718"), bytes.fromhex("0102030405060708")
SITE = site_id("site-01")
UPDATE = Envelope(run=RUN, round=3, site=SITE, layout=LAYOUT, base=MODEL)
BROADCAST = Envelope(run=RUN, round=3, site=0, layout=LAYOUT, base=BEFORE)
FRAMES = {
    "dense": ("dense", 1.0, "sign", VECTOR.tolist()),
    "sign": ("topk", 0.25, "sign", [0.0, 2.0, 0.0, -2.0, 0.0, 0.0, 0.0, 0.0]),
    "fp32": ("topk", 0.25, "fp32", [0.0, 1.5, 0.0, -2.5, 0.0, 0.0, 0.0, 0.0]),
    "sign-per-tensor": (
        "topk",
        0.25,
        "sign-per-tensor",
        [0.0, 1.5, 0.0, -2.5, 0.0, 0.0, 0.0, 0.0],
    ),
}
# As if the 8 values were a tensor of 3 and one of 5.
SECTIONS = (3, 5)


def test_the_page_has_a_vector_for_every_format() -> None:
    assert set(VECTORS) == {*FRAMES, "positions", "instruction", "receipt", "reply", "hello"}
    assert SITE == 2642780990
    assert VECTORS["dense"][12:20] == UPDATE.binding


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_is_the_documented_one(name: str) -> None:
    kind, density, values, decoded = FRAMES[name]
    compressor = make(kind, density=density, values=values, sections=SECTIONS)
    frame = pack(UPDATE, compressor.codec, compressor.compress(VECTOR))
    assert frame.hex() == VECTORS[name].hex()
    codec, records, body = unpack(VECTORS[name], UPDATE, limit=compressor.limit(8))
    assert (codec, records) == (list(FRAMES).index(name), 0)
    assert len(body) == len(frame) - HEADER_BYTES
    assert compressor.decompress(body, 8).dense().tolist() == decoded


def test_positions_are_the_documented_ones() -> None:
    indices = np.array([3, 14, 15, 92])
    assert positions.encode(indices, 100).hex() == VECTORS["positions"].hex()
    assert positions.decode(VECTORS["positions"], 100, 4).tolist() == indices.tolist()


def test_the_encoder_has_no_use_for_the_bitmap() -> None:
    """As the page says: a Rice code with b = 0 is the bitmap, cut off after its last one."""
    size = 9
    for mask in range(1, 2**size - 1):
        indices = np.flatnonzero([mask >> bit & 1 for bit in range(size)])
        assert positions.encode(indices, size)[0] != 255


def test_the_instruction_is_the_documented_one() -> None:
    compressor = make("topk", density=0.25, values="sign")
    frame = pack(BROADCAST, compressor.codec, compressor.compress(VECTOR))
    instruction = Instruction(
        run=RUN, round=3, site=SITE, acknowledged=2, model=MODEL, frames=(frame,)
    )
    assert instruction.encode().hex() == VECTORS["instruction"].hex()
    assert Instruction.decode(VECTORS["instruction"]) == instruction


def test_the_hello_is_the_documented_one() -> None:
    hello = Hello("site-01", LAYOUT.hex(), "0.1.0")
    assert hello.encode() == VECTORS["hello"]
    assert Hello.decode(VECTORS["hello"]) == hello


def test_a_receipt_follows_the_frames() -> None:
    receipt = Receipt(b"\xaa" * 32, 7, b"\xbb" * 64)
    plain = Instruction.decode(VECTORS["instruction"])
    blob = VECTORS["instruction"] + VECTORS["receipt"]
    assert Instruction.decode(blob).receipt == receipt
    assert Instruction.decode(blob).frames == plain.frames
    assert Instruction.decode(blob).encode() == blob


def test_a_reply_is_the_documented_one() -> None:
    reply = Reply(VECTORS["sign"], LedgerHead(7, b"\xcc" * 32, b"\xdd" * 64))
    assert reply.encode().hex() == VECTORS["reply"].hex()
    assert Reply.decode(VECTORS["reply"]) == reply
    assert Reply(VECTORS["sign"]).encode() == VECTORS["sign"]
