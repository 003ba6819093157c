"""Compressors end to end: what comes back, how many bytes it took, and mutated updates."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedlite.compression import Compressor, Decoded, Dense, TopK, make
from fedlite.compression.compressor import COMPRESSORS
from fedlite.compression.frame import HEADER_BYTES, Envelope, pack, unpack
from fedlite.compression.quantization import QUANTIZERS
from fedlite.compression.selection import count

ENVELOPE = Envelope(run=b"run-0001", round=2, site=1, layout=b"layout-1", base=b"model-at")
ALL: list[Compressor] = [
    Dense(),
    TopK(0.01, "sign"),
    TopK(0.01, "fp32"),
    TopK(0.3, "sign"),
    TopK(0.3, "fp32"),
    TopK(1.0, "sign"),
    TopK(1.0, "fp32"),
]
VECTORS = hnp.arrays(
    np.float32,
    st.integers(0, 80),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def reference(compressor: Compressor, vector: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the receiver should hold, from the definitions alone."""
    exact = vector.astype(np.float64)
    if not isinstance(compressor, TopK):
        return exact
    out = np.zeros(vector.size)
    order = np.lexsort((np.arange(vector.size), -np.abs(exact)))
    chosen = order[: count(vector.size, compressor.density)]
    if compressor.values == "fp32":
        out[chosen] = exact[chosen]
    elif chosen.size:
        magnitude = np.abs(exact[chosen]).mean()
        out[chosen] = np.where(exact[chosen] < 0, -magnitude, magnitude)
    return out


@settings(deadline=None, max_examples=150)
@given(vector=VECTORS, compressor=st.sampled_from(ALL))
def test_round_trip_equals_the_definition(
    vector: NDArray[np.float32], compressor: Compressor
) -> None:
    body = compressor.compress(vector)
    assert len(body) <= compressor.limit(vector.size)
    decoded = compressor.decompress(body, vector.size)
    assert decoded.values.dtype == np.float32
    np.testing.assert_allclose(
        decoded.dense(), reference(compressor, vector), rtol=1e-6, atol=1e-44
    )


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(0, dtype=np.float32),
        np.zeros(1, dtype=np.float32),
        np.full(1, -2.5, dtype=np.float32),
        np.zeros(50, dtype=np.float32),
        np.full(50, 1e-45, dtype=np.float32),
        np.full(50, -np.finfo(np.float32).max, dtype=np.float32),
    ],
    ids=["empty", "zero", "one", "zeros", "subnormal", "largest"],
)
def test_extreme_vectors_come_back(compressor: Compressor, vector: NDArray[np.float32]) -> None:
    """All magnitudes are equal here, so what was selected comes back exactly."""
    decoded = compressor.decompress(compressor.compress(vector), vector.size)
    sent = np.arange(vector.size) if decoded.indices is None else decoded.indices
    assert sent.size >= min(1, vector.size)
    np.testing.assert_array_equal(decoded.dense()[sent], vector[sent])


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(compressor: Compressor, bad: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        compressor.compress(np.array([1.0, bad, 2.0], dtype=np.float32))


def test_a_dense_body_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Dense().decompress(np.array([1.0, np.nan], dtype="<f4").tobytes(), 2)


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_truncated_and_trailing_bodies_are_refused(compressor: Compressor) -> None:
    vector = np.random.default_rng(0).normal(size=97).astype(np.float32)
    body = compressor.compress(vector)
    for length in range(len(body)):
        with pytest.raises(ValueError, match=r"truncated|got|number"):
            compressor.decompress(body[:length], 97)
    for extra in (b"\0", b"\1", b"\xff", bytes(1000)):
        with pytest.raises(ValueError, match=r"got|trailing|number"):
            compressor.decompress(body + extra, 97)


def test_another_density_at_the_other_end_is_refused() -> None:
    vector = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    body = TopK(0.03).compress(vector)
    for density in (0.01, 0.029, 0.031, 0.1):
        with pytest.raises(ValueError, match=r"top-k body|Rice|positions|pad bits"):
            TopK(density).decompress(body, 5000)


@pytest.mark.parametrize("compressor", ALL[1:5], ids=repr)
def test_mutated_frames_are_refused_or_legal(compressor: Compressor) -> None:
    """The CRC is fresh each time, so the decoder itself is what stands in the way."""
    rng = np.random.default_rng(5)
    n = 700
    k = count(n, compressor.density) if isinstance(compressor, TopK) else n
    limit = compressor.limit(n)
    body = compressor.compress(rng.laplace(size=n).astype(np.float32))
    outcomes = {"refused": 0, "legal": 0}
    for _ in range(2500):
        mutant = bytearray(body)
        kind = rng.integers(4)
        if kind == 0:
            for at in rng.integers(0, 8 * len(mutant), size=rng.integers(1, 4)):
                mutant[at // 8] ^= 1 << (at % 8)
        elif kind == 1:
            mutant[rng.integers(len(mutant))] = rng.integers(256)
        elif kind == 2:
            del mutant[rng.integers(len(mutant)) :]
        else:
            at = rng.integers(len(mutant))
            mutant[at:at] = rng.bytes(int(rng.integers(1, 6)))
        try:
            codec, _, got = unpack(
                pack(ENVELOPE, compressor.codec, bytes(mutant)), ENVELOPE, limit=limit
            )
            decoded = compressor.decompress(got, n)
        except ValueError:
            outcomes["refused"] += 1
            continue
        outcomes["legal"] += 1
        assert codec == compressor.codec
        assert decoded.indices is not None
        assert decoded.indices.shape == decoded.values.shape == (k,)
        assert np.all(np.diff(decoded.indices) > 0)
        assert decoded.indices[0] >= 0
        assert decoded.indices[-1] < n
        assert np.isfinite(decoded.values).all()
    assert min(outcomes.values()) > 25


def test_decoding_hostile_bodies_takes_little_memory() -> None:
    compressor = TopK(0.01)
    body = bytes(4) + b"\xff" * 10_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="at most"):
            compressor.decompress(body, 20_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(("density", "ratio"), [(0.01, 300), (0.03, 130), (0.1, 53)])
@pytest.mark.parametrize("n", [20_640, 32_324])
def test_whole_frames_reach_their_ratio_to_dense(n: int, density: float, ratio: float) -> None:
    compressor = TopK(density, "sign")
    vector = np.random.default_rng(2).laplace(size=n).astype(np.float32)
    blob = pack(ENVELOPE, compressor.codec, compressor.compress(vector), records=100)
    assert 4 * n / len(blob) > ratio
    k = count(n, density)
    entropy = math.log2(math.comb(n, k)) + k
    assert len(blob) - HEADER_BYTES - 4 < 1.03 * entropy / 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_add_to_adds_the_weighted_dense_update(
    compressor: Compressor, dtype: type[np.floating]
) -> None:
    rng = np.random.default_rng(4)
    vector = rng.normal(size=60).astype(np.float32)
    decoded = compressor.decompress(compressor.compress(vector), 60)
    start = rng.normal(size=60).astype(dtype)
    out = start.copy()
    decoded.add_to(out, 0.25)
    np.testing.assert_allclose(out, start + 0.25 * decoded.dense().astype(dtype), rtol=1e-6)
    assert out.dtype == dtype


def test_dense_does_not_share_memory_with_the_update() -> None:
    decoded = Dense().decompress(Dense().compress(np.ones(3, dtype=np.float32)), 3)
    decoded.dense()[:] = 7
    np.testing.assert_array_equal(decoded.values, np.ones(3))


def test_add_to_refuses_what_it_cannot_add_to() -> None:
    decoded = Decoded(3, None, np.ones(3, dtype=np.float32))
    for out in (np.zeros(4), np.zeros(3, dtype=np.int64), np.zeros((3, 1))):
        with pytest.raises(ValueError, match=r"float32 or float64 of shape \(3,\)"):
            decoded.add_to(out, 1.0)
    with pytest.raises(ValueError, match="weight must be finite"):
        decoded.add_to(np.zeros(3), math.nan)


def test_the_registry_makes_what_it_names() -> None:
    assert make("dense", density=0.1, values="sign") == Dense()
    assert make("topk", density=0.1, values="fp32") == TopK(0.1, "fp32")
    for name in COMPRESSORS:
        assert make(name, density=0.1, values="sign").name == name
    with pytest.raises(ValueError, match="one of dense, topk; got 'zip'"):
        make("zip", density=0.1, values="sign")


def test_settings_are_checked_when_the_compressor_is_made() -> None:
    with pytest.raises(ValueError, match="density must be in"):
        make("topk", density=0.0, values="sign")
    with pytest.raises(ValueError, match="values must be one of fp32, sign, sign-per-tensor; got"):
        make("topk", density=0.1, values="int8")


def test_codec_numbers_are_fixed_and_distinct() -> None:
    names = ("sign", "fp32", "sign-per-tensor")
    codecs = [Dense().codec, *(TopK(0.1, values).codec for values in names)]
    assert codecs == [0, 1, 2, 3]
    assert set(QUANTIZERS) == set(names)


def test_a_tensor_of_small_values_keeps_its_own_scale() -> None:
    vector = np.array([100.0, -100.0, 0.01, -0.02, 0.01, 0.0], dtype=np.float32)
    compressor = make("topk", density=0.8, values="sign-per-tensor", sections=(2, 4))
    body = compressor.compress(vector)
    assert len(body) <= compressor.limit(6)
    decoded = compressor.decompress(body, 6).dense()
    np.testing.assert_allclose(decoded[:2], [100, -100])
    np.testing.assert_allclose(np.abs(decoded[decoded != 0][2:]), 0.04 / 3, rtol=1e-6)


@pytest.mark.parametrize("sections", [(2, 3), (7,), (3, 4)])
def test_sections_of_another_model_are_refused(sections: tuple[int, ...]) -> None:
    compressor = make("topk", density=0.5, values="sign-per-tensor", sections=sections)
    with pytest.raises(ValueError, match="sections must add up to the vector's 6 values"):
        compressor.compress(np.ones(6, np.float32))
