"""Top-k by blocks: against the definition, byte by byte, in its memory, and with hostile bodies."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedlite.compression import TopK, topk
from fedlite.compression.frame import HEADER_BYTES
from fedlite.compression.quantization import quantizer
from fedlite.compression.selection import count
from fedlite.compression.topk import Block

VALUES = ["sign", "sign-per-tensor", "sign-per-chunk", "fp32", "fp16", "levels-4"]
VECTORS = hnp.arrays(
    np.float32,
    st.integers(0, 90),
    elements=st.floats(-1e4, 1e4, width=32, allow_nan=False),
)


def definition(vector: NDArray[np.float32], density: float, block: int) -> NDArray[np.float64]:
    """Exact values where something is sent, NaN elsewhere; from a sort of every block."""
    out = np.full(vector.size, np.nan)
    for start in range(0, vector.size, block):
        part = vector[start : start + block].astype(np.float64)
        order = np.lexsort((np.arange(part.size), -np.abs(part)))[: count(part.size, density)]
        out[start + order] = part[order]
    return out


def cut(size: int, cuts: list[int]) -> tuple[int, ...]:
    """Tensor sizes that add up to `size`, some of them 0."""
    edges = [0, *sorted(min(c, size) for c in cuts), size]
    return tuple(int(d) for d in np.diff(edges))


@pytest.mark.long
@settings(deadline=None, max_examples=120)
@given(
    vector=VECTORS,
    density=st.sampled_from([0.001, 0.03, 0.1, 0.5, 0.99, 1.0]),
    block=st.sampled_from([1, 2, 7, 16, 30, 89, 90, 1000]),
    values=st.sampled_from(VALUES),
    cuts=st.lists(st.integers(0, 90), max_size=5),
)
def test_blocks_come_back_as_the_definition_says(
    vector: NDArray[np.float32], density: float, block: int, values: str, cuts: list[int]
) -> None:
    sections = cut(vector.size, cuts)
    compressor = TopK(density, values, sections)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "BLOCK", block)
        body = compressor.compress(vector)
        assert len(body) <= compressor.limit(vector.size)
        decoded = compressor.decompress(body, vector.size)
    wanted = definition(vector, density, block)
    sent = np.flatnonzero(~np.isnan(wanted))
    assert decoded.indices is not None
    assert decoded.indices.dtype == np.int32
    assert decoded.values.dtype == np.float32
    np.testing.assert_array_equal(decoded.indices, sent)
    if values == "fp32":
        np.testing.assert_array_equal(decoded.values, wanted[sent])
    elif values == "fp16":
        np.testing.assert_allclose(decoded.values, wanted[sent], rtol=1e-3, atol=1e-7)
    elif values.startswith("sign"):
        owner = np.repeat(np.arange(len(sections)), sections)
        group = sent // block * len(sections) + (owner[sent] if "per" in values else 0)
        # Of a byte, half a step; and nothing of a tensor that is small beside the largest.
        near = {"rtol": 1e-6, "atol": 1e-44}
        if values == "sign-per-tensor":
            near = {"rtol": 0.0443, "atol": 2.0**-31 * np.abs(wanted[sent]).max(initial=0) + 1e-44}
        for name in np.unique(group):
            mine = wanted[sent][group == name]
            mean = np.abs(mine).mean()
            expected = np.where(mine < 0, -mean, mean)
            np.testing.assert_allclose(decoded.values[group == name], expected, **near)


@pytest.mark.parametrize("values", VALUES)
def test_a_long_vector_is_the_blocks_one_after_the_other(
    values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks of 1000, a body is the bodies of the parts, each of which has one block."""
    rng = np.random.default_rng(3)
    vector = rng.laplace(size=3700).astype(np.float32)
    alone = TopK(0.05, values)
    parts = [alone.compress(vector[at : at + 1000]) for at in range(0, 3700, 1000)]
    monkeypatch.setattr(topk, "BLOCK", 1000)
    body = alone.compress(vector)
    assert body == b"".join(parts)
    decoded = alone.decompress(body, 3700)
    pieces = [alone.decompress(part, min(1000, 3700 - 1000 * i)) for i, part in enumerate(parts)]
    np.testing.assert_array_equal(decoded.dense(), np.concatenate([p.dense() for p in pieces]))


def test_only_tensors_in_the_block_have_a_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "BLOCK", 8)
    sections = (3, 0, 10, 3, 0)
    compressor = TopK(1.0, "sign-per-chunk", sections)
    body = compressor.compress(np.arange(1, 17, dtype=np.float32))
    # Each block: no bytes of positions, as all are sent; two magnitudes; one byte of signs.
    expected = np.array([2, 6, 11, 15], dtype="<f4").tobytes()
    assert body == b"\0" + expected[:8] + b"\0" + b"\0" + expected[8:] + b"\0"
    assert compressor.limit(16) == len(body)
    dense = compressor.decompress(body, 16).dense()
    np.testing.assert_array_equal(dense, [2] * 3 + [6] * 5 + [11] * 5 + [15] * 3)


@pytest.mark.parametrize(
    ("n", "density", "percent"),
    [
        (1_000_000, 0.001, 1.5),
        (1_000_000, 0.003, 1.5),
        (1_000_000, 0.01, 1.0),
        (1_000_000, 0.03, 1.5),
        (1_000_000, 0.06, 1.5),
        (1_000_000, 0.1, 1.5),
        (3_000_000, 0.01, 1.0),
    ],
)
def test_bytes_are_near_the_entropy(
    n: int, density: float, percent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topk, "BLOCK", 2**20)
    vector = np.random.default_rng(2).laplace(size=n).astype(np.float32)
    body = TopK(density, "sign").compress(vector)
    k = count(n, density)
    logs = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    bound = logs / math.log(2) + k
    assert bound / 8 < len(body) < (1 + percent / 100) * bound / 8
    if density == 0.01:
        assert HEADER_BYTES + len(body) < 0.0029 * 4 * n


@pytest.mark.parametrize("density", [0.001, 0.01, 0.03, 0.1])
def test_memory_is_bounded_by_the_block(density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 4_000_000
    monkeypatch.setattr(topk, "BLOCK", 2**19)
    compressor = TopK(density, "sign")
    vector = np.random.default_rng(0).laplace(size=n).astype(np.float32)
    tracemalloc.start()
    try:
        body = compressor.compress(vector)
        compressing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        compressor.decompress(body, n)
        decompressing = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert compressing < 0.35 * vector.nbytes
    assert decompressing < 0.35 * vector.nbytes
    assert compressing - len(body) < 1.25 * 4 * 2**19


def small(values: str) -> tuple[TopK, bytes]:
    """A compressor with three blocks of 100, and a legal body of it."""
    vector = np.random.default_rng(7).laplace(size=250).astype(np.float32)
    compressor = TopK(0.1, values, (30, 150, 70))
    return compressor, compressor.compress(vector)


@pytest.mark.parametrize("values", VALUES)
def test_truncated_and_longer_bodies_are_refused(
    values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topk, "BLOCK", 100)
    compressor, body = small(values)
    for length in range(len(body)):
        with pytest.raises(ValueError, match=r"truncated|got"):
            compressor.decompress(body[:length], 250)
    for extra in (b"\0", b"\1", b"\xff", bytes(1000)):
        with pytest.raises(ValueError, match=r"trailing|at most"):
            compressor.decompress(body + extra, 250)


@pytest.mark.parametrize("values", VALUES)
def test_mutated_bodies_are_refused_or_legal(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "BLOCK", 100)
    rng = np.random.default_rng(5)
    compressor, body = small(values)
    outcomes = {"refused": 0, "legal": 0}
    for _ in range(1000):
        mutant = bytearray(body)
        kind = rng.integers(4)
        if kind == 0:
            for at in rng.integers(0, 8 * len(mutant), size=rng.integers(1, 3)):
                mutant[at // 8] ^= 1 << (at % 8)
        elif kind == 1:
            mutant[rng.integers(len(mutant))] = rng.integers(256)
        elif kind == 2:
            del mutant[rng.integers(len(mutant)) :]
        else:
            at = rng.integers(len(mutant))
            mutant[at:at] = rng.bytes(int(rng.integers(1, 6)))
        try:
            decoded = compressor.decompress(bytes(mutant), 250)
        except ValueError:
            outcomes["refused"] += 1
            continue
        outcomes["legal"] += 1
        assert decoded.indices is not None
        assert decoded.indices.shape == decoded.values.shape == (25,)
        assert np.all(np.diff(decoded.indices) > 0)
        np.testing.assert_array_equal(np.bincount(decoded.indices // 100), [10, 10, 5])
        assert np.isfinite(decoded.values).all()
    assert min(outcomes.values()) > 25


def test_hostile_bodies_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "BLOCK", 10_000)
    compressor = TopK(0.01)
    limit = compressor.limit(30_000)
    bodies = [bytes(4) + b"\xff" * 10_000_000, b"\xff" * limit, b"\x7f" * limit]
    bodies += [bytes([100, mode]) + b"\xff" * (limit - 2) for mode in (0, 7, 8, 16, 255)]
    tracemalloc.start()
    try:
        for body in bodies:
            with pytest.raises(ValueError, match=r"at most|positions|length"):
                compressor.decompress(body, 30_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50_000


def test_a_value_that_is_not_finite_is_refused_in_any_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topk, "BLOCK", 100)
    for at in (0, 99, 100, 249):
        vector = np.ones(250, dtype=np.float32)
        vector[[at, 249]] = np.nan
        bad = 1 if at == 249 else 2
        with pytest.raises(ValueError, match=f"{bad} of 250 values are NaN or infinite"):
            TopK(0.1).compress(vector)


def test_sections_of_another_model_are_refused() -> None:
    compressor = TopK(0.5, "sign-per-tensor", (2, 3))
    body = TopK(0.5, "sign-per-tensor", (2, 4)).compress(np.ones(6, np.float32))
    for call in (
        lambda: compressor.compress(np.ones(6, np.float32)),
        lambda: compressor.decompress(body, 6),
        lambda: compressor.limit(6),
    ):
        with pytest.raises(ValueError, match="sections must add up to the vector's 6 values"):
            call()


def test_other_types_and_shapes_are_refused() -> None:
    for vector in (np.ones(3), np.ones((2, 2), dtype=np.float32), np.ones(0)):
        with pytest.raises(ValueError, match="float32 with one dimension"):
            TopK(0.5).compress(vector)


@pytest.mark.parametrize("values", VALUES)
def test_the_limit_holds_for_the_longest_positions(
    values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything selected at the far end of every block: the longest gap there is."""
    monkeypatch.setattr(topk, "BLOCK", 400)
    vector = np.tile(np.arange(400, dtype=np.float32), 3)[:1100]
    vector[1000:] = np.arange(100)
    for density in (0.003, 0.02, 0.3, 0.9):
        compressor = TopK(density, values)
        body = compressor.compress(vector)
        assert len(body) <= compressor.limit(1100)
        assert compressor.decompress(body, 1100).indices.size == 3 * count(400, density) - (
            count(400, density) - count(300, density)
        )


def test_each_quantizer_keeps_its_codec() -> None:
    for values in VALUES:
        assert TopK(0.1, values).codec == quantizer(values).codec
    with pytest.raises(ValueError, match="values must be one of"):
        TopK(0.1, "int8")


def test_positions_beyond_two_to_the_31st_come_back() -> None:
    """Built from its parts: the dense vector would take 8 GB."""
    size = 2**31 + 2**24
    compressor = TopK(1e-9, "sign")

    def parts() -> Iterator[tuple[Block, NDArray[np.int32], NDArray[np.float32]]]:
        for block in compressor.blocks(size):
            yield block, np.array([block.size - 1], np.int32), np.ones(1, np.float32)

    decoded = compressor.decompress(compressor.write(parts()), size)
    assert decoded.indices is not None and decoded.indices.dtype == np.int64
    np.testing.assert_array_equal(decoded.indices, np.arange(1, 130) * 2**24 - 1)
