"""Values of a selected set: formats written by hand, and what a decoder must refuse.

Covers fedlite/compression/levels.py, fedlite/compression/signs.py.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fedlite.compression import positions
from fedlite.compression.levels import Levels, pack_planes, unpack_planes
from fedlite.compression.quantization import QUANTIZERS, Exact, Half, Sign, quantizer

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40)


@settings(deadline=None)
@given(values=FLOATS)
def test_exact_values_come_back_bit_for_bit(values: list[float]) -> None:
    vector = np.array(values, dtype=np.float32)
    decoded, used = Exact().decode(Exact().encode(vector) + b"rest", vector.size)
    assert decoded.tobytes() == vector.tobytes()
    assert used == 4 * vector.size


@settings(deadline=None)
@given(values=FLOATS)
def test_sign_keeps_every_sign_and_the_mean_magnitude(values: list[float]) -> None:
    vector = np.array(values, dtype=np.float32)
    data = Sign().encode(vector)
    decoded, used = Sign().decode(data + b"rest", vector.size)
    assert used == len(data) == Sign().limit(vector.size)
    mean = sum(abs(float(v)) for v in vector) / max(1, len(values))
    np.testing.assert_allclose(np.abs(decoded), mean, rtol=1e-6, atol=1e-44)
    np.testing.assert_array_equal(np.signbit(decoded), vector < 0)


def test_sign_format_is_magnitude_then_signs_from_the_lowest_bit() -> None:
    vector = np.array([1, -2, 3, -2, 1, 1, 1, 1, -5, 3], dtype=np.float32)
    assert Sign().encode(vector) == struct.pack("<fBB", 2.0, 0b1010, 0b1)


def test_the_mean_of_the_largest_values_does_not_overflow() -> None:
    vector = np.full(1000, np.finfo(np.float32).max, dtype=np.float32)
    decoded, _ = Sign().decode(Sign().encode(vector), 1000)
    np.testing.assert_array_equal(decoded, vector)


@pytest.mark.parametrize("magnitude", [np.nan, np.inf, -np.inf, -1.0])
def test_sign_refuses_a_bad_magnitude(magnitude: float) -> None:
    with pytest.raises(ValueError, match="magnitude must be finite and 0 or more"):
        Sign().decode(struct.pack("<fB", magnitude, 0), 3)


def test_sign_refuses_pad_bits() -> None:
    with pytest.raises(ValueError, match="pad bits after 3 signs"):
        Sign().decode(struct.pack("<fB", 1.0, 0b1000), 3)


def test_exact_refuses_values_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="values must be finite"):
        Exact().decode(struct.pack("<ff", 1.0, np.nan), 2)


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_truncated_values_are_refused(name: str) -> None:
    data = QUANTIZERS[name].encode(np.ones(9, dtype=np.float32))
    for length in range(len(data)):
        with pytest.raises(ValueError, match="truncated"):
            QUANTIZERS[name].decode(data[:length], 9)


def test_codec_numbers_are_fixed() -> None:
    """What levels there are is in the plan, so that all numbers of levels share one codec."""
    codecs = {name: q.codec for name, q in QUANTIZERS.items() if not name.startswith("levels-")}
    assert codecs == {"sign": 1, "fp32": 2, "sign-per-chunk": 3, "fp16": 4, "sign-per-tensor": 11}
    levels = {name: q.codec for name, q in QUANTIZERS.items() if name not in codecs}
    assert levels == {f"levels-{number}": 5 for number in range(2, 17)}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    known = "fp16, fp32, sign, sign-per-chunk, sign-per-tensor, levels-2 to levels-16"
    with pytest.raises(ValueError, match=f"values must be one of {known}; got 'levels-17'"):
        quantizer("levels-17")
    for levels in (1, 17):
        with pytest.raises(ValueError, match=r"levels must be in \[2, 16\]"):
            Levels(levels)


@settings(deadline=None)
@given(values=FLOATS)
def test_halves_are_the_nearest_ones_and_the_largest_is_the_end(values: list[float]) -> None:
    data = Half().encode(np.array(values, dtype=np.float32))
    assert len(data) == Half().limit(len(values))
    decoded, used = Half().decode(data + b"rest", len(values))
    assert used == len(data)
    for value, got in zip(values, decoded, strict=True):
        # Python's own half, from the struct module.
        clipped = max(-65504.0, min(65504.0, value))
        assert struct.unpack("<e", struct.pack("<e", clipped))[0] == got


@pytest.mark.parametrize("bad", [0x7C00, 0xFC00, 0x7E00])
def test_halves_that_are_not_finite_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="values must be finite"):
        Half().decode(struct.pack("<HH", 0x3C00, bad), 2)


def nearest(values: NDArray[np.float32], centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    gaps = np.abs(np.abs(values.astype(np.float64))[:, None] - centroids)
    return gaps.min(axis=1)


@settings(deadline=None, max_examples=200)
@given(values=FLOATS, levels=st.integers(2, 16))
def test_levels_keep_signs_and_stay_within_the_magnitudes(values: list[float], levels: int) -> None:
    vector = np.array(values, dtype=np.float32)
    quantizer = Levels(levels)
    data = quantizer.encode(vector)
    assert len(data) <= quantizer.limit(vector.size)
    decoded, used = quantizer.decode(data + b"rest", vector.size)
    assert used == len(data)
    assert decoded.dtype == np.float32
    magnitudes = np.unique(np.abs(decoded))
    assert magnitudes.size <= levels
    np.testing.assert_array_equal(np.signbit(decoded), vector < 0)
    if vector.size:
        assert magnitudes.max() <= np.abs(vector).max()
        assert magnitudes.min() >= np.abs(vector).min() * (1 - 1e-6)


@pytest.mark.parametrize("levels", [2, 3, 4, 7, 16])
def test_levels_are_lloyds(levels: int) -> None:
    """Every value has the nearest centroid, every centroid is the mean of its values."""
    vector = np.random.default_rng(1).laplace(size=5000).astype(np.float32)
    decoded, _ = Levels(levels).decode(Levels(levels).encode(vector), 5000)
    magnitudes = np.abs(vector.astype(np.float64))
    centroids = np.unique(np.abs(decoded)).astype(np.float64)
    assert centroids.size == levels
    for centroid in centroids:
        np.testing.assert_allclose(magnitudes[np.abs(decoded) == centroid].mean(), centroid, 1e-6)
    # Values are told apart up to 1 in 256, and 60 rounds may leave a little to gain.
    error = np.abs(magnitudes - np.abs(decoded))
    best = nearest(vector, centroids)
    assert np.mean(error > best + 1e-7) < 0.01
    assert (error**2).sum() < 1.001 * (best**2).sum()


@pytest.mark.parametrize(("levels", "distortion"), [(2, 0.1175), (4, 0.03454), (8, 0.009497)])
def test_levels_reach_the_distortion_of_max_1960(levels: int, distortion: float) -> None:
    """With a sign, L levels are the 2L-level quantizer of the normal distribution."""
    vector = np.random.default_rng(2).normal(size=200_000).astype(np.float32)
    decoded, _ = Levels(levels).decode(Levels(levels).encode(vector), vector.size)
    assert np.mean((vector - decoded) ** 2) == pytest.approx(distortion, rel=0.02)


@pytest.mark.parametrize("levels", [2, 3, 4, 8, 16])
def test_levels_are_written_near_their_entropy(levels: int) -> None:
    rng = np.random.default_rng(3)
    vector = ((3.5 + rng.exponential(size=100_000)) * rng.choice([-1, 1], 100_000)).astype("f4")
    data = Levels(levels).encode(vector)
    decoded, _ = Levels(levels).decode(data, vector.size)
    _, counts = np.unique(np.abs(decoded), return_counts=True)
    share = counts / vector.size
    entropy = vector.size * (1 - (share * np.log2(share)).sum())
    assert 8 * len(data) < 1.02 * entropy


def test_values_too_many_for_sets_are_written_as_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random k writes its values at once, without blocks: they may be more than a set may be."""
    vector = np.where(np.arange(100) == 9, 3, 1).astype(np.float32)
    nested = Levels(2).encode(vector)
    monkeypatch.setattr(positions, "SIZES", 100)
    planes = Levels(2).encode(vector)
    assert (nested[21], planes[21]) == (1, 0)
    np.testing.assert_array_equal(Levels(2).decode(planes, 100)[0], vector)
    # Another test may have asked for the same set, when it was not too large.
    positions.limit.cache_clear()
    with pytest.raises(ValueError, match="size below 100"):
        Levels(2).decode(nested, 100)


def test_few_distinct_values_come_back_exactly() -> None:
    vector = np.array([0, 1, -2, 4, 0, -1, 4, 4, -8] * 5, dtype=np.float32)
    decoded, _ = Levels(5).decode(Levels(5).encode(vector), vector.size)
    np.testing.assert_array_equal(decoded, vector)


def test_levels_format_by_hand() -> None:
    """Levels 0 2 1 as planes; then nested sets: value 3 of 4 reaches level 1, and none level 2."""
    plain = struct.pack("<3f", 1.0, 2.0, 4.0) + bytes([0b101]) + b"\0" + bytes([0b010_100])
    decoded, used = Levels(3).decode(plain, 3)
    assert decoded.tolist() == [-1.0, 4.0, -2.0]
    assert used == len(plain)

    code = positions.encode(np.array([3]), 4)
    head = struct.pack("<3f", 1.0, 2.0, 4.0) + bytes([0b0001])
    nested = head + b"\1" + bytes([1, len(code)]) + code + bytes([0])
    decoded, used = Levels(3).decode(nested + b"rest", 4)
    assert decoded.tolist() == [-1.0, 1.0, 1.0, 2.0]
    assert used == len(nested)
    # The same the other way round: three of four reach level 1, and all of these level 2.
    swapped = head + b"\1" + bytes([3, len(code)]) + code + bytes([3])
    assert Levels(3).decode(swapped, 4)[0].tolist() == [-4.0, 4.0, 4.0, 1.0]


def levels_body(*, centroids: tuple[float, ...] = (1.0, 2.0), tail: bytes = b"\0\6") -> bytes:
    """Four values, all positive, of two levels."""
    return struct.pack("<2f", *centroids) + b"\0" + tail


@pytest.mark.parametrize(
    "centroids", [(2.0, 1.0), (-1.0, 2.0), (1.0, np.inf), (np.nan, 2.0), (1.0, np.nan)]
)
def test_bad_centroids_are_refused(centroids: tuple[float, ...]) -> None:
    assert Levels(2).decode(levels_body(), 4)[0].tolist() == [1.0, 2.0, 2.0, 1.0]
    with pytest.raises(ValueError, match="centroids must be finite, 0 or more and not decreasing"):
        Levels(2).decode(levels_body(centroids=centroids), 4)


@pytest.mark.parametrize(
    ("tail", "text"),
    [
        (b"\2\6", "mode must be 0 or 1"),
        (b"\0", "truncated"),
        (b"\0\x16", "pad bits"),
        (b"\1\5", "at most 4 values reach level 1, got 5"),
        (b"\1\2\xff", "truncated"),
        (b"\1\2\0", "positions"),
    ],
)
def test_bad_level_numbers_are_refused(tail: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Levels(2).decode(levels_body(tail=tail), 4)


def test_a_level_beyond_the_last_is_refused() -> None:
    body = struct.pack("<3f", 1, 2, 3) + b"\0\0" + bytes([0b11])
    with pytest.raises(ValueError, match="level must be below 3, got 3"):
        Levels(3).decode(body, 1)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 5, 8, 33])
def test_planes_come_back(bits: int, count: int) -> None:
    rng = np.random.default_rng(bits)
    index = rng.integers(0, 1 << bits, size=(3, count), dtype=np.uint8)
    packed = pack_planes(index, bits)
    assert packed.shape == (3, (bits * count + 7) // 8)
    np.testing.assert_array_equal(unpack_planes(packed, bits, count), index)


PER_CHUNK, PER_TENSOR = QUANTIZERS["sign-per-chunk"], QUANTIZERS["sign-per-tensor"]
TENSORS = st.lists(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=9), min_size=1, max_size=6
)


@settings(deadline=None)
@given(tensors=TENSORS)
def test_every_tensor_keeps_its_own_mean_magnitude(tensors: list[list[float]]) -> None:
    vector = np.array([v for tensor in tensors for v in tensor], dtype=np.float32)
    splits = np.cumsum([0, *map(len, tensors)])
    data = PER_CHUNK.encode(vector, splits)
    decoded, used = PER_CHUNK.decode(data + b"rest", vector.size, splits)
    assert used == len(data) == PER_CHUNK.limit(vector.size, len(tensors))
    for tensor, begin, end in zip(tensors, splits, splits[1:], strict=False):
        mean = sum(abs(float(np.float32(v))) for v in tensor) / max(1, len(tensor))
        np.testing.assert_allclose(np.abs(decoded[begin:end]), mean, rtol=1e-6, atol=1e-44)
    np.testing.assert_array_equal(np.signbit(decoded), vector < 0)


@settings(deadline=None)
@given(values=FLOATS)
def test_one_tensor_takes_the_bytes_of_one_magnitude(values: list[float]) -> None:
    vector = np.array(values, dtype=np.float32)
    assert PER_CHUNK.encode(vector, np.array([0, vector.size])) == Sign().encode(vector)


def test_a_magnitude_for_a_tensor_of_which_nothing_is_sent_is_refused() -> None:
    splits = np.array([0, 2, 2, 3])
    good = struct.pack("<fffB", 1.0, 0.0, 3.0, 0b10)
    decoded, _ = PER_CHUNK.decode(good, 3, splits)
    assert decoded.tolist() == [1.0, -1.0, 3.0]
    with pytest.raises(ValueError, match="nothing is sent"):
        PER_CHUNK.decode(struct.pack("<fffB", 1.0, 2.0, 3.0, 0), 3, splits)
    with pytest.raises(ValueError, match="magnitude must be finite"):
        PER_CHUNK.decode(struct.pack("<fffB", 1.0, 0.0, np.nan, 0), 3, splits)
    with pytest.raises(ValueError, match="truncated"):
        PER_CHUNK.decode(good[:-1], 3, splits)


@settings(deadline=None)
@given(tensors=TENSORS)
def test_a_byte_says_a_tensors_magnitude_nearly(tensors: list[list[float]]) -> None:
    """Within half a step of 2 ** (1 / 8), or nothing where it is 2 ** -31 of the largest."""
    vector = np.array([v for tensor in tensors for v in tensor], dtype=np.float32)
    splits = np.cumsum([0, *map(len, tensors)])
    data = PER_TENSOR.encode(vector, splits)
    decoded, used = PER_TENSOR.decode(data + b"rest", vector.size, splits)
    sent = sum(1 for tensor in tensors if tensor)
    assert used == len(data) <= PER_TENSOR.limit(vector.size, len(tensors))
    assert used == (4 + sent + (vector.size + 7) // 8 if sent else 0)
    means = [
        sum(abs(float(np.float32(v))) for v in tensor) / max(1, len(tensor)) for tensor in tensors
    ]
    for mean, begin, end in zip(means, splits, splits[1:], strict=False):
        if mean > 2.0**-31 * max(means):
            # A subnormal number has fewer digits.
            np.testing.assert_allclose(np.abs(decoded[begin:end]), mean, rtol=0.0443, atol=1e-44)
        else:
            assert (np.abs(decoded[begin:end]) <= 2.0**-31 * max(means)).all()
    np.testing.assert_array_equal(np.signbit(decoded), vector < 0)


def test_the_sign_of_every_tensor_by_hand() -> None:
    """Largest mean 8; then 1 is 24 steps of an eighth octave below it, and 0 is none of it."""
    vector = np.array([8, 1, -1, 0, 0], np.float32)
    splits = np.array([0, 1, 1, 3, 5])
    data = PER_TENSOR.encode(vector, splits)
    assert data == struct.pack("<fBBBB", 8.0, 0, 24, 255, 0b00100)
    assert PER_TENSOR.decode(data, 5, splits)[0].tolist() == vector.tolist()
    halfway = struct.pack("<fBBBB", 8.0, 4, 12, 254, 0)
    expected = [8 * 2**-0.5, *[8 * 2**-1.5] * 2, *[8 * 2**-31.75] * 2]
    np.testing.assert_allclose(PER_TENSOR.decode(halfway, 5, splits)[0], expected, rtol=1e-7)
    for bad in (np.nan, np.inf, -1.0):
        with pytest.raises(ValueError, match="magnitude must be finite"):
            PER_TENSOR.decode(struct.pack("<f", bad) + data[4:], 5, splits)
    with pytest.raises(ValueError, match="pad bits"):
        PER_TENSOR.decode(data[:-1] + b"\xff", 5, splits)
    zeros = PER_TENSOR.encode(np.zeros(5, np.float32), splits)
    assert not PER_TENSOR.decode(zeros, 5, splits)[0].any()
