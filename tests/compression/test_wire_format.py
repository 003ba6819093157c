"""The bytes in docs/wire-format.md are the bytes that the code writes, and can be read back."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite import compression
from fedlite.compression import (
    HEADER_BYTES,
    layers,
    make,
    pack,
    positions,
)
from fedlite.messages import Hello, Instruction, LedgerHead, Receipt, Reply
from tests.compression.page import (
    BROADCAST,
    FRAMES,
    LAYOUT,
    MODEL,
    NESTED,
    RUN,
    SECTIONS,
    SETS,
    SITE,
    SPLIT,
    SPLIT_SECTIONS,
    UPDATE,
    VECTOR,
    VECTORS,
)


def test_the_page_has_a_vector_for_every_format() -> None:
    others = {
        "nested",
        "positions-split",
        "instruction",
        "receipt",
        "reply",
        "hello",
        "joined",
        "part",
    }
    assert set(VECTORS) == {*FRAMES, *SETS, *others}
    assert {codec for codec, *_ in FRAMES.values()} == set(range(12)) - {9}
    assert SITE == 2642780990
    assert VECTORS["dense"][12:20] == UPDATE.binding


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_is_the_documented_one(name: str) -> None:
    number, kind, settings, expected = FRAMES[name]
    compressor = make(kind, **settings, sections=SECTIONS)
    frame = pack(UPDATE, compressor.codec, compressor.compress(VECTOR, UPDATE.context))
    assert frame.hex() == VECTORS[name].hex()
    codec, records, body = compression.unpack(VECTORS[name], UPDATE, limit=compressor.limit(8))
    assert (codec, records) == (number, 0)
    assert len(body) == len(frame) - HEADER_BYTES
    decoded = compressor.decompress(body, 8, UPDATE.context).dense()
    assert decoded.tolist() == np.array(expected, np.float32).tolist()


def test_joined_stretches_are_the_documented_ones() -> None:
    parts = (
        make("topk", density=0.25, values="sign", sections=SECTIONS),
        make("dense", values="fp16"),
    )
    joined = compression.Joined(tuple((8, part) for part in parts))
    both = np.concatenate([VECTOR, VECTOR])
    frame = pack(UPDATE, joined.codec, joined.compress(both, UPDATE.context))
    assert (joined.codec, frame.hex()) == (12, VECTORS["joined"].hex())
    _, _, body = compression.unpack(VECTORS["joined"], UPDATE, limit=joined.limit(16))
    decoded = joined.decompress(body, 16, UPDATE.context).dense()
    assert decoded[:8].tolist() == FRAMES["sign"][3] and decoded[8:].tolist() == VECTOR.tolist()


def test_a_part_is_the_documented_one() -> None:
    inner = make("topk", density=0.4, values="sign", sections=SECTIONS[1:])
    part = compression.Part(8, np.arange(3, 8), inner)
    frame = pack(UPDATE, part.codec, part.compress(VECTOR, UPDATE.context))
    assert (part.codec, frame.hex()) == (13, VECTORS["part"].hex())
    _, _, body = compression.unpack(VECTORS["part"], UPDATE, limit=part.limit(8))
    decoded = part.decompress(body, 8, UPDATE.context).dense()
    assert decoded.tolist() == [0.0, 0.0, 0.0, -1.5, 0.0, 0.0, 1.5, 0.0]


@pytest.mark.parametrize("name", SETS)
def test_positions_are_the_documented_ones(name: str) -> None:
    indices = np.array(SETS[name])
    assert positions.encode(indices, 100).hex() == VECTORS[name].hex()
    assert positions.decode(VECTORS[name], 100, indices.size).tolist() == SETS[name]


def test_split_positions_are_the_documented_ones() -> None:
    starts = layers.begins(SPLIT_SECTIONS, 128)
    assert starts == [0, 8, 10]
    blob = VECTORS["positions-split"]
    assert layers.encode(np.array(SPLIT), 128, starts).hex() == blob.hex()
    found, used = layers.decode(memoryview(blob), 128, len(SPLIT), starts)
    assert (found.tolist(), used) == (SPLIT, len(blob))


def test_nested_levels_are_the_documented_ones() -> None:
    form = compression.quantization.quantizer("levels-2")
    assert form.encode(NESTED).hex() == VECTORS["nested"].hex()
    found, used = form.decode(VECTORS["nested"], 64)
    assert (found.tolist(), used) == (NESTED.tolist(), len(VECTORS["nested"]))


def test_the_instruction_is_the_documented_one() -> None:
    compressor = make("topk", density=0.25, values="sign", sections=SECTIONS)
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


def test_limits_are_the_documented_ones() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        m = int(rng.integers(1, 5000))
        k = int(rng.integers(0, m + 1))
        most = 0
        if 0 < k < m:
            steps = range((m // k).bit_length() + 1)
            most = 1 + (min(k * (s + 1) + ((m - k) >> s) for s in steps) + 7) // 8
        assert positions.limit(m, k) == most
        leb = 1 + max(0, (2 * most + 1).bit_length() - 1) // 7
        assert layers.limit(m, k) == leb + most
    # Of 2 values in 2 tensors.
    most_of = {"fp32": 8, "fp16": 4, "sign": 5, "sign-per-tensor": 7, "sign-per-chunk": 9}
    most_of["levels-5"] = 23
    for values, most in most_of.items():
        topk = make("topk", density=0.25, values=values, sections=SECTIONS)
        assert topk.limit(8) == layers.limit(8, 2) + most
