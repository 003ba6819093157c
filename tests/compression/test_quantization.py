"""Values of a selected set: formats written by hand, and what a decoder must refuse."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.compression.quantization import QUANTIZERS, Exact, Sign

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


def test_every_quantizer_has_its_own_codec_number() -> None:
    codecs = [quantizer.codec for quantizer in QUANTIZERS.values()]
    assert len(set(codecs)) == len(codecs)
    assert 0 not in codecs


PER_TENSOR = QUANTIZERS["sign-per-tensor"]
TENSORS = st.lists(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=9), min_size=1, max_size=6
)


@settings(deadline=None)
@given(tensors=TENSORS)
def test_every_tensor_keeps_its_own_mean_magnitude(tensors: list[list[float]]) -> None:
    vector = np.array([v for tensor in tensors for v in tensor], dtype=np.float32)
    splits = np.cumsum([0, *map(len, tensors)])
    data = PER_TENSOR.encode(vector, splits)
    decoded, used = PER_TENSOR.decode(data + b"rest", vector.size, splits)
    assert used == len(data) == PER_TENSOR.limit(vector.size, len(tensors))
    for tensor, begin, end in zip(tensors, splits, splits[1:], strict=False):
        mean = sum(abs(float(np.float32(v))) for v in tensor) / max(1, len(tensor))
        np.testing.assert_allclose(np.abs(decoded[begin:end]), mean, rtol=1e-6, atol=1e-44)
    np.testing.assert_array_equal(np.signbit(decoded), vector < 0)


@settings(deadline=None)
@given(values=FLOATS)
def test_one_tensor_takes_the_bytes_of_one_magnitude(values: list[float]) -> None:
    vector = np.array(values, dtype=np.float32)
    assert PER_TENSOR.encode(vector, np.array([0, vector.size])) == Sign().encode(vector)


def test_a_magnitude_for_a_tensor_of_which_nothing_is_sent_is_refused() -> None:
    splits = np.array([0, 2, 2, 3])
    good = struct.pack("<fffB", 1.0, 0.0, 3.0, 0b10)
    decoded, _ = PER_TENSOR.decode(good, 3, splits)
    assert decoded.tolist() == [1.0, -1.0, 3.0]
    with pytest.raises(ValueError, match="nothing is sent"):
        PER_TENSOR.decode(struct.pack("<fffB", 1.0, 2.0, 3.0, 0), 3, splits)
    with pytest.raises(ValueError, match="magnitude must be finite"):
        PER_TENSOR.decode(struct.pack("<fffB", 1.0, 0.0, np.nan, 0), 3, splits)
    with pytest.raises(ValueError, match="truncated"):
        PER_TENSOR.decode(good[:-1], 3, splits)
