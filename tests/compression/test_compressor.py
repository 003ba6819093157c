"""Compressors end to end: what comes back, how many bytes it took, and mutated updates.

Covers fedlite/compression/dense.py, fedlite/compression/interface.py.
"""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedlite.compression import Compressor, Decoded, Dense, TopK, make
from fedlite.compression.compressor import COMPRESSORS
from fedlite.compression.eden import Eden
from fedlite.compression.frame import HEADER_BYTES, Envelope, pack
from fedlite.compression.quantization import QUANTIZERS
from fedlite.compression.randk import RandK
from fedlite.compression.rotated import RotatedTopK
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
EVERY: list[Compressor] = [
    *ALL,
    Dense("fp16"),
    TopK(0.3, "fp16"),
    TopK(0.3, "levels-2"),
    TopK(0.3, "levels-5"),
    TopK(1.0, "levels-16"),
    RandK(0.01, "fp32"),
    RandK(0.3, "fp16"),
    RandK(0.3, "fp32", unbiased=False),
    RandK(0.5, "levels-4", unbiased=False),
    RandK(1.0, "sign"),
    Eden(1),
    Eden(3),
    Eden(8),
    Eden(2, unbiased=False),
]
MEDIUM = hnp.arrays(
    np.float32, st.integers(0, 80), elements=st.floats(-(2.0**80), 2.0**80, width=32)
)
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


@pytest.mark.long
@settings(deadline=None, max_examples=400)
@given(vector=MEDIUM, compressor=st.sampled_from(EVERY))
def test_what_every_compressor_writes_it_reads(
    vector: NDArray[np.float32], compressor: Compressor
) -> None:
    before = vector.copy()
    body = compressor.compress(vector)
    assert len(body) <= compressor.limit(vector.size)
    np.testing.assert_array_equal(vector, before)
    assert compressor.compress(vector) == body
    decoded = compressor.decompress(body, vector.size)
    assert decoded.size == vector.size
    assert decoded.values.dtype == np.float32
    assert np.isfinite(decoded.values).all()
    if decoded.indices is None:
        assert decoded.values.shape == vector.shape
    else:
        k = count(vector.size, getattr(compressor, "density", 1.0))
        assert decoded.indices.shape == decoded.values.shape == (k,)
        assert np.all(np.diff(decoded.indices) > 0)
    again = compressor.decompress(body, vector.size)
    assert again.values.tobytes() == decoded.values.tobytes()


@pytest.mark.parametrize("compressor", EVERY, ids=repr)
@pytest.mark.parametrize("n", [0, 1, 2, 100, 1000])
def test_zeros_stay_zeros(compressor: Compressor, n: int) -> None:
    """Whatever the density: one coordinate at least is sent of every vector that has one."""
    vector = np.zeros(n, dtype=np.float32)
    decoded = compressor.decompress(compressor.compress(vector), n)
    assert decoded.values.size >= min(1, n)
    np.testing.assert_array_equal(decoded.dense(), vector)


@pytest.mark.parametrize("compressor", EVERY, ids=repr)
def test_no_vector_makes_a_body_longer_than_the_limit(compressor: Compressor) -> None:
    rng = np.random.default_rng(6)
    for n in (1, 3, 257, 3000):
        for vector in (rng.normal(size=n), np.arange(n), rng.random(n) < 0.5, 1e-42 * np.ones(n)):
            body = compressor.compress(vector.astype(np.float32))
            assert len(body) <= compressor.limit(n)


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


@pytest.mark.parametrize("compressor", EVERY, ids=repr)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(compressor: Compressor, bad: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        compressor.compress(np.array([1.0, bad, 2.0], dtype=np.float32))


def test_a_dense_body_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Dense().decompress(np.array([1.0, np.nan], dtype="<f4").tobytes(), 2)


@pytest.mark.parametrize("compressor", EVERY, ids=repr)
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
@pytest.mark.parametrize("compressor", EVERY, ids=repr)
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
    assert set(COMPRESSORS) == {"dense", "topk", "randk", "rotated-topk", "eden"}
    assert make("topk", density=0.1, values="fp32") == TopK(0.1, "fp32")
    assert make("dense", density=0.1, values="fp16") == Dense("fp16")
    plain = make("randk", density=0.2, values="levels-4", unbiased=False)
    assert plain == RandK(0.2, "levels-4", unbiased=False)
    assert make("eden", bits=3, density=0.5, unbiased=False) == Eden(3, unbiased=False)
    for name in COMPRESSORS:
        assert make(name).name == name
    known = "one of dense, eden, randk, rotated-topk, topk, or file.py:function or "
    known += "package.module:function, got 'zip'"
    with pytest.raises(ValueError, match=known):
        make("zip", density=0.1, values="sign")


def test_defaults_are_the_compressors_own() -> None:
    assert make("dense") == Dense("fp32")
    assert make("topk", sections=(1, 2)) == TopK(0.03, "sign", (1, 2))
    assert make("randk") == RandK(0.1, "fp16", unbiased=True)
    assert make("eden") == Eden(1, unbiased=True)


def test_settings_are_checked_when_the_compressor_is_made() -> None:
    with pytest.raises(ValueError, match="density must be in"):
        make("topk", density=0.0, values="sign")
    with pytest.raises(ValueError, match=r"must be one of fp16, fp32, sign, .*; got 'int8'"):
        make("topk", density=0.1, values="int8")
    with pytest.raises(ValueError, match=r"must be one of fp16, fp32, sign, .*; got 'int8'"):
        make("dense", values="int8")
    # A user may try dense on a scenario that says how selected values are written.
    assert make("dense", values="sign-per-tensor") == Dense("fp32")
    with pytest.raises(ValueError, match="bits must be in"):
        make("eden", bits=16)


def test_codec_numbers_are_fixed() -> None:
    """A number once given to a format is never given to another."""
    names = ("sign", "fp32", "sign-per-chunk", "fp16", "levels-2", "levels-16", "sign-per-tensor")
    codecs = [TopK(0.1, values).codec for values in names]
    assert codecs == [1, 2, 3, 4, 5, 5, 11]
    assert (Dense.codec, Dense().codec, Dense("fp16").codec) == (0, 0, 6)
    assert {RandK(0.1, values).codec for values in QUANTIZERS} == {7}
    assert Eden().codec == 8
    assert RotatedTopK(0.1).codec == 10


def test_a_half_is_half_and_carries_what_it_can() -> None:
    vector = np.array([1.0, -1e6, 1e-9, 0.1], dtype=np.float32)
    body = Dense("fp16").compress(vector)
    assert len(body) == Dense("fp16").limit(4) == 8
    decoded = Dense("fp16").decompress(body, 4).values
    np.testing.assert_array_equal(decoded, [1.0, -65504.0, 0.0, np.float16(0.1)])


def test_a_tensor_of_small_values_keeps_its_own_scale() -> None:
    vector = np.array([100.0, -100.0, 0.01, -0.02, 0.01, 0.0], dtype=np.float32)
    compressor = make("topk", density=0.8, values="sign-per-tensor", sections=(2, 4))
    body = compressor.compress(vector)
    assert len(body) <= compressor.limit(6)
    decoded = compressor.decompress(body, 6).dense()
    np.testing.assert_allclose(decoded[:2], [100, -100])
    np.testing.assert_allclose(np.abs(decoded[decoded != 0][2:]), 0.04 / 3, rtol=0.045)


@pytest.mark.parametrize("sections", [(2, 3), (7,), (3, 4)])
def test_sections_of_another_model_are_refused(sections: tuple[int, ...]) -> None:
    compressor = make("topk", density=0.5, values="sign-per-tensor", sections=sections)
    with pytest.raises(ValueError, match="sections must add up to the vector's 6 values"):
        compressor.compress(np.ones(6, np.float32))
