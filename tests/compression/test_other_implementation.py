"""What is written from docs/wire-format.md alone gets the same bits as the code."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite import compression
from fedlite.compression import (
    HEADER_BYTES,
    Context,
    layers,
    make,
    positions,
    selection,
)
from tests.compression.decoder import (
    Plan,
    Reader,
    decode,
    read_layers,
    read_positions,
    read_values,
    share_of,
    starts_of,
    words,
)
from tests.compression.page import (
    FRAMES,
    NESTED,
    PAGE,
    SECTIONS,
    SEED,
    SETS,
    SITE,
    SPLIT,
    SPLIT_SECTIONS,
    UPDATE,
    VECTORS,
)


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
    # What was planned for another length of blocks must not be found.
    monkeypatch.setattr(compression.rotated, "_planned", compression.rotated._planned.__wrapped__)
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
