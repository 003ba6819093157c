"""Another implementation of docs/wire-format.md: slow, bit by bit, written from the page alone."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.compression.page import PAGE, SEED, SITE


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
