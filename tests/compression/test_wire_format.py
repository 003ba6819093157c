"""The bytes in docs/wire-format.md are the bytes that the code writes, and can be read back.

The second half is another implementation: a slow decoder, bit by bit, written from the page alone.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite import compression
from fedlite.compression import (
    HEADER_BYTES,
    Context,
    Envelope,
    layers,
    make,
    pack,
    positions,
    selection,
)
from fedlite.messages import Hello, Instruction, LedgerHead, Receipt, Reply, site_id

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "wire-format.md").read_text("utf-8")
VECTORS = {
    name: bytes.fromhex(text) for name, text in re.findall(r"```hex (\S+)\n(.*?)```", PAGE, re.S)
}
VECTOR = np.array([0.0, 1.5, 0.0, -2.5, 0.0, 0.0, 0.5, 0.0], np.float32)
# A tensor of 3 and one of 5.
SECTIONS = (3, 5)
SEED, RUN, LAYOUT = 5, b"run-0001", bytes.fromhex("c88d2fc158f66166")
BEFORE, MODEL = bytes.fromhex("1112131415161718"), bytes.fromhex("0102030405060708")
SITE = site_id("site-01")
UPDATE = Envelope(run=RUN, round=3, site=SITE, layout=LAYOUT, base=MODEL, seed=SEED)
BROADCAST = Envelope(run=RUN, round=3, site=0, layout=LAYOUT, base=BEFORE, seed=SEED)


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


LARGEST = [0.0, 1.5, 0.0, -2.5, 0.0, 0.0, 0.0, 0.0]
# For each vector: its codec, the compressor, its settings, and what is decoded.
FRAMES: dict[str, tuple[int, str, dict[str, Any], list[float]]] = {
    "dense": (0, "dense", {"values": "fp32"}, VECTOR.tolist()),
    "sign": (1, "topk", {"density": 0.25, "values": "sign"}, [0.0, 2.0, 0.0, -2.0, *[0.0] * 4]),
    "fp32": (2, "topk", {"density": 0.25, "values": "fp32"}, LARGEST),
    "sign-per-chunk": (3, "topk", {"density": 0.25, "values": "sign-per-chunk"}, LARGEST),
    "sign-per-tensor": (
        *(11, "topk", {"density": 0.25, "values": "sign-per-tensor"}),
        [0.0, 1.4865088, 0.0, -2.5, *[0.0] * 4],
    ),
    "fp16": (4, "topk", {"density": 0.25, "values": "fp16"}, LARGEST),
    "levels": (
        *(5, "topk", {"density": 0.375, "values": "levels-2"}),
        [0.0, 1.0, 0.0, -2.5, 0.0, 0.0, 1.0, 0.0],
    ),
    "dense-fp16": (6, "dense", {"values": "fp16"}, VECTOR.tolist()),
    "randk": (
        *(7, "randk", {"density": 0.5, "values": "fp32"}),
        [0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    ),
    "eden": (
        *(8, "eden", {"bits": 1}),
        numbers("0.07219472 1.6027228 0.057755776 -2.4546206")
        + numbers("0.028877888 -0.11551155 0.4187294 0.014438944"),
    ),
    "eden-2": (
        *(8, "eden", {"bits": 2}),
        numbers("-0.005035508 1.5154806 -0.05312704 -2.501161")
        + numbers("-0.051112834 -0.11118272 0.4477522 0.08316198"),
    ),
    "rotated-topk": (
        *(10, "rotated-topk", {"density": 0.875}),
        numbers("1.1448594 1.7990645 0.16355118 -2.1261673")
        + numbers("0.16355148 -0.16355138 1.471962 -0.8177566"),
    ),
}
SETS = {
    "positions": [3, 14, 15, 92],
    "positions-thirds": [26, 35, 79, 82, 83, 85],
}
NESTED = np.array([1.0] * 10 + [-3.0] + [1.0] * 53, np.float32)
SPLIT, SPLIT_SECTIONS = [0, 1, 2, 3, 4, 5, 6, 7, 100], (8, 2, 118)


def test_the_page_has_a_vector_for_every_format() -> None:
    others = {"nested", "positions-split", "instruction", "receipt", "reply", "hello"}
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


# The other implementation. ---------------------------------------------------------------------


@dataclass
class Reader:
    """Bytes that are taken from the start."""

    data: bytes

    def take(self, length: int) -> bytes:
        assert length <= len(self.data)
        taken, self.data = self.data[:length], self.data[length:]
        return taken

    def number(self) -> int:
        """LEB128."""
        found, shift = 0, 0
        while True:
            (byte,) = self.take(1)
            found, shift = found | (byte & 127) << shift, shift + 7
            if byte < 128:
                return found

    def floats(self, count: int, form: str = "f") -> list[float]:
        return list(struct.unpack(f"<{count}{form}", self.take(struct.calcsize(form) * count)))

    def planes(self, count: int, bits: int) -> list[int]:
        stream = bits_of(self.take((count * bits + 7) // 8))
        found = [0] * count
        for plane in range(bits):
            for i in range(count):
                found[i] |= next(stream) << plane
        assert not any(stream)
        return found


@dataclass(frozen=True)
class Plan:
    """What both ends know."""

    kind: str
    sections: tuple[int, ...]
    density: float = 1.0
    values: str = "fp32"
    bits: int = 1
    unbiased: bool = True
    block: int = 2**24


def bits_of(data: bytes) -> Iterator[int]:
    return (byte >> bit & 1 for byte in data for bit in range(8))


def single(value: float) -> float:
    """Round to float32: of two float32, a double holds sum, difference and product well enough."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def ends_of(sections: tuple[int, ...]) -> list[int]:
    return [sum(sections[:i]) for i in range(len(sections) + 1)]


def read_positions(data: bytes, n: int, k: int) -> list[int]:
    if k in (0, n):
        assert not data
        return list(range(k))
    shift, odd = divmod(data[0], 2)
    stream = bits_of(data[1:])
    gaps = [0] * k
    for plane in range(shift):
        for i in range(k):
            gaps[i] |= next(stream) << plane
    if odd:
        for i in [i for i in range(k) if next(stream)]:
            gaps[i] += (1 + next(stream)) << shift
    for i in range(k):
        while not next(stream):
            gaps[i] += (3 if odd else 1) << shift
    assert not any(stream) and data[-1]
    return [sum(gaps[: i + 1]) + i for i in range(k)]


def read_layers(reader: Reader, n: int, k: int, starts: list[int]) -> list[int]:
    length, split = divmod(reader.number(), 2)
    part = Reader(reader.take(length))
    if not split:
        return read_positions(part.data, n, k)
    counts = [part.number() for _ in starts[1:]]
    lengths = [part.number() for _ in starts[1:]]
    counts.append(k - sum(counts))
    lengths.append(len(part.data) - sum(lengths))
    found: list[int] = []
    for (start, stop), count, taken in zip(pairwise([*starts, n]), counts, lengths, strict=True):
        found += [start + i for i in read_positions(part.take(taken), stop - start, count)]
    return found


def read_values(reader: Reader, form: str, at: list[int], ends: list[int]) -> list[float]:
    """Values of the coordinates `at`, in tensors that begin and end at `ends`."""
    k = len(at)
    if form in ("fp32", "fp16"):
        return reader.floats(k, "f" if form == "fp32" else "e")
    if form.startswith("levels-"):
        return read_levels(reader, k, int(form.removeprefix("levels-")))
    if form == "sign":
        ends = [ends[0], ends[-1]]
    tensor = [max(t for t in range(len(ends) - 1) if ends[t] <= i) for i in at]
    if form == "sign-per-tensor":
        magnitudes = read_scaled(reader, sorted(set(tensor)))
    else:
        magnitudes = dict(enumerate(reader.floats(len(ends) - 1)))
    signs = reader.planes(k, 1)
    return [-magnitudes[t] if s else magnitudes[t] for t, s in zip(tensor, signs, strict=True)]


def read_scaled(reader: Reader, sent: list[int]) -> dict[int, float]:
    (largest,) = reader.floats(1) if sent else (0.0,)
    (listed,) = re.findall(r"number c mod 8 of ([\d., ]+) \(that", PAGE)
    roots = [single(float(text)) for text in listed.split(", ")]
    found = {}
    for tensor, c in zip(sent, reader.take(len(sent)), strict=True):
        found[tensor] = (
            single(single(largest * roots[c % 8]) * 2.0 ** -(c // 8)) if c < 255 else 0.0
        )
    return found


def read_levels(reader: Reader, k: int, levels: int) -> list[float]:
    centroids, signs = reader.floats(levels), reader.planes(k, 1)
    if reader.take(1) == b"\0":
        reached = reader.planes(k, (levels - 1).bit_length())
    else:
        width = (k.bit_length() + 7) // 8
        reached, inside = [0] * k, list(range(k))
        for level in range(1, levels):
            if not inside:
                break
            number = int.from_bytes(reader.take(width), "little")
            if 0 < number < len(inside):
                code = reader.take(int.from_bytes(reader.take(width), "little"))
                smaller = min(number, len(inside) - number)
                named = read_positions(code, len(inside), smaller)
                keep = [i for i in range(len(inside)) if (i in named) == (smaller == number)]
                inside = [inside[i] for i in keep]
            elif not number:
                inside = []
            for i in inside:
                reached[i] = level
    return [-centroids[r] if s else centroids[r] for r, s in zip(reached, signs, strict=True)]


def words(number: int) -> Iterator[int]:
    """Run `run-0001`, round 3; 0 for the shared stream, 1 + the site number for its own."""
    name = struct.pack("<IQIQ", 12, SEED, 3, number)
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    low, counter = 2**64 - 1, 0
    while True:
        counter += 1
        c, k0, k1 = (counter, 0, 0, 0), key & low, key >> 64
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = (b >> 64 ^ c[1] ^ k0, b & low, a >> 64 ^ c[3] ^ k1, a & low)
            k0, k1 = k0 + 0x9E3779B97F4A7C15 & low, k1 + 0xBB67AE8584CAA73B & low
        yield from c


def signs_of(stream: Iterator[int], count: int) -> list[int]:
    drawn = [next(stream) for _ in range(-(-count // 64))]
    return [-1 if drawn[j // 64] >> (j % 64) & 1 else 1 for j in range(count)]


def transform(x: list[Any], rounded: Any) -> list[Any]:
    h = len(x) // 2
    while h:
        for i in range(len(x)):
            if not i & h:
                x[i], x[i + h] = rounded(x[i] + x[i + h]), rounded(x[i] - x[i + h])
        h //= 2
    return x


def decode(body: bytes, plan: Plan) -> list[float]:
    reader = Reader(body)
    n = sum(plan.sections)
    own = words(1 + SITE)
    if plan.kind == "dense":
        found = read_values(reader, plan.values, list(range(n)), [0, n])
    elif plan.kind == "topk":
        found = decode_topk(reader, plan, plan.sections)
    elif plan.kind == "randk":
        found = decode_randk(reader, plan)
    elif plan.kind == "eden":
        found = decode_eden(reader, plan, own)
    else:
        chunks = chunks_of(plan)
        found = decode_topk(reader, replace(plan, values="sign-per-chunk"), chunks, rotated=True)
        for start, stop in pairwise(ends_of(chunks)):
            found[start:stop] = unrotate(found[start:stop], own)
    assert not reader.data
    return found


def starts_of(sections: tuple[int, ...]) -> list[int]:
    n = sum(sections)
    large = [e for e, s in zip(ends_of(sections), sections, strict=False) if 128 * s >= n]
    return sorted({0, *large})


def share_of(density: float, m: int) -> int:
    return max(1, math.ceil(Fraction(str(density)) * m))


def decode_topk(
    reader: Reader, plan: Plan, sections: tuple[int, ...], rotated: bool = False
) -> list[float]:
    n = sum(sections)
    out = [0.0] * n
    for start, stop in blocks_of(plan, rotated):
        cut = [e for e in starts_of(sections) if start < e < stop]
        ends = [start, *(e for e in ends_of(sections) if start < e < stop), stop]
        m = stop - start
        k = max(share_of(plan.density, m), len(ends) - 1 if rotated else 0)
        at = read_layers(reader, m, k, [0, *(e - start for e in cut)])
        at = [start + i for i in at]
        for i, value in zip(at, read_values(reader, plan.values, at, ends), strict=True):
            out[i] = value
    return out


def blocks_of(plan: Plan, rotated: bool) -> list[tuple[int, int]]:
    n = sum(plan.sections)
    edges = [*range(0, n, plan.block), n]
    if rotated and len(edges) > 2 and edges[-1] - edges[-2] < 128:
        del edges[-2]
    return list(pairwise(edges))


def decode_randk(reader: Reader, plan: Plan) -> list[float]:
    n = sum(plan.sections)
    k = share_of(plan.density, n)
    edges = [i * n // k for i in range(k + 1)]
    drawn = zip(edges[:-1], edges[1:], words(0), strict=False)
    at = [start + (word * (stop - start) >> 64) for start, stop, word in drawn]
    out = [0.0] * n
    values = read_values(reader, plan.values, at, ends_of(plan.sections))
    for i, value, (start, stop) in zip(at, values, pairwise(edges), strict=True):
        out[i] = single(value * single(stop - start)) if plan.unbiased else value
    return out


def decode_eden(reader: Reader, plan: Plan, own: Iterator[int]) -> list[float]:
    (row,) = re.findall(rf"^\| {plan.bits} \| ([\d ]+) \|$", PAGE, re.M)
    positive = [int(text) for text in row.split()]
    table = [-c for c in reversed(positive)] + positive
    out: list[float] = []
    n = sum(plan.sections)
    while (left := n - len(out)) > 0:
        length = min(65536, max(256, 1 << (left.bit_length() - 1)))
        first, second = signs_of(own, length), signs_of(own, length)
        (scale,) = reader.floats(1)
        t = [table[number] for number in reader.planes(length, plan.bits)]
        for signs in (second, first):
            t = [x * s for x, s in zip(transform(t, int), signs, strict=True)]
        out += [single(single(single(x) / length) * scale) for x in t][:left]
    return out


def chunks_of(plan: Plan) -> tuple[int, ...]:
    edges = [0]
    for _, stop in blocks_of(plan, True):
        for start in starts_of(plan.sections):
            if edges[-1] + 128 <= start <= stop - 128:
                edges.append(start)
        edges.append(stop)
    found: list[int] = []
    for start, stop in pairwise(edges):
        m = stop - start
        p = -(-m // 65536)
        found += [(i + 1) * m // p - i * m // p for i in range(p)]
    return tuple(found)


def unrotate(x: list[float], own: Iterator[int]) -> list[float]:
    m = len(x)
    length = 1 << (m.bit_length() - 1)
    turns = 4 if m < 4096 else 1 if m == length else 2
    signs = signs_of(own, 2 * turns * length)
    for turn in reversed(range(turns)):
        for number, start in ((2 * turn + 1, m - length), (2 * turn, 0)):
            part = transform(x[start : start + length], single)
            for i, v, s in zip(range(start, m), part, signs[number * length :], strict=False):
                x[i] = single(v * single(1 / math.sqrt(length))) * s
        if turn:
            before = [*range(0, m, 2), *range(1, m, 2)]
            x = [x[before.index(i)] for i in range(m)]
    return x


@pytest.mark.parametrize("name", FRAMES)
def test_the_other_implementation_reads_the_page(name: str) -> None:
    _, kind, settings, expected = FRAMES[name]
    found = decode(VECTORS[name][HEADER_BYTES:], Plan(kind, SECTIONS, **settings))
    assert found == np.array(expected, np.float32).tolist()


def test_the_other_implementation_reads_sets_levels_and_words() -> None:
    for name, indices in SETS.items():
        assert read_positions(VECTORS[name], 100, len(indices)) == indices
    assert [VECTORS[name][0] % 2 for name in SETS] == [0, 1]
    reader = Reader(VECTORS["positions-split"])
    assert read_layers(reader, 128, len(SPLIT), starts_of(SPLIT_SECTIONS)) == SPLIT
    assert read_values(Reader(VECTORS["nested"]), "levels-2", list(range(64)), [0, 64]) == [
        *NESTED.tolist()
    ]
    shared, own = words(0), words(1 + SITE)
    said = [next(shared), next(shared), next(own), next(own)]
    assert re.findall(r"\b\d{17,20}\b", PAGE) == [str(word) for word in said]


# Small ones at the start and in between, and one that is just large enough to begin a layer: 7.
TENSORS = (2, 40, 3, 611, 2, 7, 9, 1, 155, 66)
# Layers that begin 128 and 127 after the cut before, and 128 before the end.
EDGES = (128, 127, 513, 128)
PLANS: list[dict[str, Any]] = [
    {"kind": "dense", "values": "fp16"},
    *({"kind": "topk", "density": d, "values": "sign"} for d in (0.004, 0.07, 0.3, 0.9, 1.0)),
    *(
        {"kind": kind, "density": 0.1, "values": values}
        for kind in ("topk", "randk")
        for values in (
            *("sign", "fp32", "sign-per-tensor", "sign-per-chunk", "fp16", "levels-2", "levels-7"),
        )
    ),
    {"kind": "randk", "density": 0.3, "values": "fp32", "unbiased": False},
    *({"kind": "eden", "bits": bits} for bits in range(1, 9)),
    {"kind": "rotated-topk", "density": 0.03},
    {"kind": "rotated-topk", "density": 0.001},
    {"kind": "rotated-topk", "density": 0.3, "unbiased": False},
]


def update(seed: int, sections: tuple[int, ...]) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    scale = np.repeat(np.exp(2 * rng.normal(size=len(sections))), sections)
    vector: NDArray[np.float32] = (rng.laplace(size=scale.size) * scale).astype(np.float32)
    return vector


@pytest.mark.parametrize("block", [2**24, 300, 400])
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "-".join(map(str, plan.values())))
def test_the_other_implementation_gets_the_same_bits(
    plan: dict[str, Any], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With short blocks, too, as no test can wait for two of 2**24; of 896, 400 leave 96."""
    monkeypatch.setattr(compression.topk, "BLOCK", block)
    settings = {key: value for key, value in plan.items() if key != "kind"}
    for seed, sections in enumerate((TENSORS, TENSORS, EDGES)):
        vector, n = update(seed, sections), sum(sections)
        # A zero that is negative, among the sent ones of a dense plan.
        vector[3] = -0.0
        compressor = make(plan["kind"], **settings, sections=sections)
        body = compressor.compress(vector, UPDATE.context)
        exact = compressor.decompress(body, n, UPDATE.context).dense()
        found = decode(body, Plan(sections=sections, block=block, **plan))
        assert struct.pack(f"<{n}f", *found) == exact.astype("<f4").tobytes()


def test_the_other_implementation_meets_every_kind_of_positions() -> None:
    """Even and odd modes, split and not, all from the code's own encoder."""
    seen = set()
    rng = np.random.default_rng(0)
    starts = starts_of(TENSORS)
    n = sum(TENSORS)
    assert starts == layers.begins(TENSORS, n)
    for _ in range(60):
        k = int(rng.integers(1, n // 2))
        weight = np.repeat(rng.exponential(size=len(TENSORS)), TENSORS)
        chosen = rng.choice(n, k, replace=False, p=weight / weight.sum())
        indices = np.sort(chosen).astype(np.int64)
        blob = layers.encode(indices, n, starts)
        reader = Reader(blob)
        assert read_layers(reader, n, k, starts) == indices.tolist() and not reader.data
        whole = positions.encode(indices, n)
        assert read_positions(whole, n, k) == indices.tolist()
        seen.add(("split", blob[0] & 1))
        seen.add(("mode", whole[0] & 1))
    assert len(seen) == 4


def test_other_choices_of_the_sender_are_taken() -> None:
    """Frames are not canonical: whole or split, in another mode, planes for sets, -0 for 0."""
    starts = starts_of(SPLIT_SECTIONS)
    modes = [positions.encode(np.array(SPLIT), 128), *(even_mode(SPLIT, s) for s in (3, 4))]
    bodies = {bytes([2 * len(code)]) + code for code in modes} | {VECTORS["positions-split"]}
    assert len(bodies) >= 3
    for body in bodies:
        found, used = layers.decode(memoryview(body), 128, len(SPLIT), starts)
        assert found.tolist() == SPLIT and used == len(body)
    form = compression.quantization.quantizer("levels-2")
    planes = VECTORS["nested"][:16] + b"\0" + np.packbits(NESTED < 0, bitorder="little").tobytes()
    assert form.decode(planes, 64)[0].tolist() == NESTED.tolist()
    sign = compression.quantization.quantizer("sign-per-chunk")
    splits = np.array([0, 2, 2])
    for none_sent in (0.0, -0.0):
        data = struct.pack("<2f", 1.0, none_sent) + b"\0"
        assert sign.decode(data, 2, splits)[0].tolist() == [1.0, 1.0]


def even_mode(indices: list[int], shift: int) -> bytes:
    gaps = np.diff([-1, *indices]) - 1
    bits = [int(gap) >> plane & 1 for plane in range(shift) for gap in gaps]
    for gap in gaps:
        bits += [0] * (int(gap) >> shift) + [1]
    return bytes([2 * shift]) + np.packbits(bits, bitorder="little").tobytes()


def test_a_density_is_its_shortest_decimal() -> None:
    """0.07 is a float64 a little above 7 / 100; and 0.1 has 17 digits and more that name it."""
    for density, n in ((0.07, 100), (0.1, 1000), (0.10000000000000001, 1000), (0.29, 100)):
        assert selection.count(n, density) == share_of(density, n) == round(density * n)


def test_the_streams_are_those_of_the_code() -> None:
    for number, shared in ((0, True), (1 + SITE, False)):
        raw = Context(struct.pack("<QI", SEED, 3), SITE).random(shared=shared).random_raw(9)
        assert [word for word, _ in zip(words(number), range(9), strict=False)] == raw.tolist()


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
