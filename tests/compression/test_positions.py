"""Positions: round trips, size against the entropy bound, and hostile bytes."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fedlite.compression import positions


def subset(size: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(size, size=count, replace=False, shuffle=False)).astype(np.int64)


def golomb_bytes(indices: NDArray[np.int64], mode: int) -> int:
    """Length of the code by its definition, one gap at a time."""
    shift, odd = divmod(mode, 2)
    bits = 0
    for before, after in itertools.pairwise([-1, *indices.tolist()]):
        gap = after - before - 1
        bits += shift + gap // ((1 + 2 * odd) << shift) + 1
        if odd:
            bits += 1 + ((gap >> shift) % 3 > 0)
    return -(-bits // 8)


def slow_decode(data: bytes, count: int) -> list[int]:
    """Read a code bit by bit, as the documented layout says."""
    bits = iter([byte >> at & 1 for byte in data[1:] for at in range(8)])
    shift, odd = divmod(data[0], 2)
    gaps = [0] * count
    for plane in range(shift):
        for i in range(count):
            gaps[i] += next(bits) << plane
    if odd:
        digits = [next(bits) for _ in range(count)]
        digits = [digit + next(bits) if digit else 0 for digit in digits]
        gaps = [gap + (digit << shift) for gap, digit in zip(gaps, digits, strict=True)]
    for i in range(count):
        while not next(bits):
            gaps[i] += (1 + 2 * odd) << shift
    assert not any(bits)
    return [total - 1 for total in itertools.accumulate(gap + 1 for gap in gaps)]


@settings(deadline=None, max_examples=300)
@given(size=st.integers(0, 300), data=st.data())
def test_round_trip(size: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, size - 1)) if size else st.just(set()))
    indices = np.array(sorted(chosen), dtype=np.int64)
    encoded = positions.encode(indices, size)
    assert encoded == positions.encode(indices.astype(np.int32), size)
    assert len(encoded) <= positions.limit(size, indices.size)
    decoded = positions.decode(memoryview(encoded), size, indices.size)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, indices)


@pytest.mark.long
@settings(deadline=None, max_examples=300)
@given(
    size=st.integers(2, 300),
    mode=st.integers(0, 20),
    data=st.data(),
)
def test_every_mode_is_read_as_a_slow_reader_reads_it(
    size: int, mode: int, data: st.DataObject
) -> None:
    """Also modes that are not the shortest: what the sender may choose, the receiver takes."""
    chosen = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=size - 1))
    indices = np.array(sorted(chosen), dtype=np.int32)
    gaps = np.diff(indices, prepend=np.int32(-1)) - 1
    packed = np.packbits(positions._encode(gaps, mode), bitorder="little").tobytes()
    encoded = bytes([mode]) + packed
    assert len(packed) == golomb_bytes(indices, mode)
    assert slow_decode(encoded, indices.size) == indices.tolist()
    if mode > positions._last_mode(size, indices.size):
        with pytest.raises(ValueError, match=r"mode must be at most|at most \d+ bytes"):
            positions.decode(encoded, size, indices.size)
    elif len(encoded) > positions.limit(size, indices.size):
        with pytest.raises(ValueError, match="at most"):
            positions.decode(encoded, size, indices.size)
    else:
        decoded = positions.decode(encoded, size, indices.size)
        np.testing.assert_array_equal(decoded, indices)


@pytest.mark.parametrize("count", [1, 9, 200, 3000, 15_000])
def test_long_sets_are_read_as_a_slow_reader_reads_them(count: int) -> None:
    size = 40_000
    indices = subset(size, count)
    encoded = positions.encode(indices, size)
    assert slow_decode(encoded, count) == indices.tolist()
    np.testing.assert_array_equal(positions.decode(encoded, size, count), indices)


def test_every_subset_of_a_small_range_has_its_own_code() -> None:
    for count in range(9):
        codes = set()
        for chosen in itertools.combinations(range(8), count):
            indices = np.array(chosen, dtype=np.int64)
            encoded = positions.encode(indices, 8)
            np.testing.assert_array_equal(positions.decode(encoded, 8, count), indices)
            codes.add(encoded)
        assert len(codes) == math.comb(8, count)


@pytest.mark.parametrize(
    ("density", "percent"),
    [(d / 1000, 1.5) for d in (1, 1.4, 2, 3, 5, 7, 15, 20, 30, 45, 60, 70, 85, 100)]
    + [(0.01, 1.0), (0.2, 1.5), (0.3, 1.5), (0.4, 2.5), (0.5, 1.5)],
)
def test_length_is_near_the_entropy_of_positions_and_signs(density: float, percent: float) -> None:
    size = 1_000_000
    count = round(size * density)
    bound = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    bits = bound / math.log(2)
    indices = subset(size, count)
    encoded = positions.encode(indices, size)
    assert bits - 64 < 8 * len(encoded) < bits + percent / 100 * (bits + count)
    np.testing.assert_array_equal(positions.decode(encoded, size, count), indices)


@pytest.mark.parametrize("count", [1, 5, 40, 300, 1500, 3000])
def test_the_shortest_code_is_chosen(count: int) -> None:
    size = 4000
    clustered = np.arange(count, dtype=np.int64)
    at_the_end = np.arange(size - count, size, dtype=np.int64)
    for indices in (subset(size, count), clustered, at_the_end):
        lengths = [golomb_bytes(indices, mode) for mode in range(26)]
        assert len(positions.encode(indices, size)) == 1 + min(lengths)


def test_a_sample_that_misleads_costs_bytes_but_not_the_limit() -> None:
    """Where the divisor is chosen by sample, all other gaps may be quite different."""
    count = 4 * positions._SAMPLE
    gaps = np.zeros(count, dtype=np.int64)
    rare = np.zeros(count, dtype=np.int64)
    sampled = slice(None, None, (count // positions._SAMPLE) | 1)
    rare[sampled] = 100
    gaps[:] = 100
    gaps[sampled] = 0
    for case in (gaps, rare):
        indices = np.cumsum(case + 1) - 1
        size = int(indices[-1]) + 1
        encoded = positions.encode(indices, size)
        assert len(encoded) <= positions.limit(size, count)
        np.testing.assert_array_equal(positions.decode(encoded, size, count), indices)


def test_the_longest_code_reaches_the_limit() -> None:
    """The limit is tight: some subset needs all of it, so no legal update is refused."""
    for size, count in [(12, 1), (12, 5), (13, 3), (14, 7)]:
        longest = max(
            len(positions.encode(np.array(chosen, dtype=np.int64), size))
            for chosen in itertools.combinations(range(size), count)
        )
        assert longest <= positions.limit(size, count) <= longest + 1


@pytest.mark.parametrize("count", [0, 9])
def test_empty_and_full_sets_take_no_bytes(count: int) -> None:
    indices = np.arange(count, dtype=np.int64)
    assert positions.encode(indices, 9) == b""
    np.testing.assert_array_equal(positions.decode(b"", 9, count), indices)
    with pytest.raises(ValueError, match="at most 0 bytes"):
        positions.decode(b"\0", 9, count)


@pytest.mark.parametrize(
    "bad", [[1, 1, 2], [2, 1, 3], [-1, 0, 1], [0, 1, 10], [0, 2, 1, 3, 4, 5, 6, 7, 8, 9]]
)
def test_indices_out_of_order_or_range_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        positions.encode(np.array(bad, dtype=np.int64), 10)


def test_other_index_types_and_impossible_counts_are_refused() -> None:
    for dtype in (np.uint32, np.int16, np.float64):
        with pytest.raises(ValueError, match="int32 or int64"):
            positions.encode(np.array([1, 2], dtype=dtype), 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cut a longer vector into blocks"):
        positions.encode(np.array([1, 2]), 2**28)
    with pytest.raises(ValueError, match="count must be in"):
        positions.encode(np.arange(11), 10)
    with pytest.raises(ValueError, match="count must be in"):
        positions.decode(b"", 10, -1)


@pytest.mark.parametrize("size", [2**24, 2**28 - 1])
@pytest.mark.parametrize("indices", [[0], [-1], [0, -1], [-2, -1], [1, 2, 3, -5]])
def test_the_largest_sizes_do_not_leave_32_bits(size: int, indices: list[int]) -> None:
    chosen = np.array([i % size for i in indices], dtype=np.int64)
    encoded = positions.encode(chosen, size)
    np.testing.assert_array_equal(positions.decode(encoded, size, chosen.size), chosen)


# Legal codes, written by hand. Gaps of 3, 14, 15, 92 are 3, 10, 0, 76. With divisor 16 (mode 8) the
# remainders are 3, 10, 0, 12 (planes 1000 1100 0001 0101) and the quotients 0, 0, 0, 4 (bits
# 1 1 1 00001). With divisor 24 (mode 7) the low three bits are 3, 2, 0, 4 (planes 1000 1100 0001),
# the digits 0, 1, 0, 0 (0100, then 0 for the second), and the quotients 0, 0, 0, 3 (1 1 1 0001).
LEGAL = bytes([8, 0b00110001, 0b10101000, 0b10000111])
THIRDS = bytes([7, 0b00110001, 0b00101000, 0b10001110])


def test_the_format_is_the_documented_one() -> None:
    indices = np.array([3, 14, 15, 92])
    assert positions.encode(indices, 100) == LEGAL
    assert slow_decode(LEGAL, 4) == slow_decode(THIRDS, 4) == indices.tolist()
    np.testing.assert_array_equal(positions.decode(THIRDS, 100, 4), indices)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (LEGAL[:3], "at least 20 bits, got 16; they are truncated"),
        (LEGAL[:1], "at least 20 bits, got 0; they are truncated"),
        (THIRDS[:3], "at least 20 bits, got 16; they are truncated"),
        (THIRDS[:2], "at least 20 bits, got 8; they are truncated"),
        (bytes([7, 0, 0xF0, 1]), "must be 4 in number, got 0"),
        (bytes([7, 0, 0xF0]), "at least 20 bits, got 16; they are truncated"),
        (bytes([1, 0b11111111, 1]), "must be 4 in number, got 1"),
        (LEGAL + b"\0", "trailing bytes"),
        (LEGAL + b"\1", "must be 4 in number, got 5"),
        (LEGAL + bytes(20), "at most"),
        (bytes([11]) + LEGAL[1:], "mode must be at most 10 for 4 out of 100, got 11"),
        (bytes([254]) + LEGAL[1:], "mode must be at most 10"),
        (bytes([255]) + LEGAL[1:], "mode must be at most 10"),
        (bytes([8, 0, 0, 0b10000011]), "must be 4 in number, got 3"),
        (bytes([8, 0, 0, 0b11000111]), "must be 4 in number, got 5"),
        (bytes([8, 0, 0, 0b00000111, 0b1000]), "below 100, got 128"),
        (bytes([8, 0, 0, 0b00000111, 0b0100]), "below 100, got 112"),
        (bytes([8, 1, 0, 0b00000111, 0b0010]), "below 100, got 100"),
        (bytes([8, 0, 0, 0]), "trailing bytes"),
        (bytes([8, 1, 1, 0]), "trailing bytes"),
        (bytes([10, 255, 255, 255]), "below 100, got 127"),
    ],
)
def test_hostile_codes_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        positions.decode(data, 100, 4)


def test_pad_bits_are_refused() -> None:
    encoded = positions.encode(np.array([3, 50, 70]), 100)
    assert encoded[-1] < 0x80
    with pytest.raises(ValueError, match="must be 3 in number, got 4"):
        positions.decode(encoded[:-1] + bytes([encoded[-1] | 0x80]), 100, 3)


@pytest.mark.long
def test_what_is_accepted_is_what_the_sender_writes_in_that_mode() -> None:
    """One byte string for a set and a mode: whatever decodes, encodes to itself."""
    rng = np.random.default_rng(8)
    accepted = 0
    for _ in range(6000):
        size = int(rng.integers(1, 40))
        count = int(rng.integers(0, size + 1))
        data = bytearray(positions.encode(subset(size, count, int(rng.integers(100))), size))
        for at in rng.integers(0, max(1, 8 * len(data)), size=rng.integers(1, 4) if data else 0):
            data[at // 8] ^= 1 << (at % 8)
        try:
            indices = positions.decode(bytes(data), size, count)
        except ValueError:
            continue
        assert indices.shape == (count,)
        assert np.all(np.diff(indices) > 0)
        assert count == 0 or (indices[0] >= 0 and indices[-1] < size)
        if data:
            accepted += 1
            gaps = np.diff(indices, prepend=np.int32(-1)) - 1
            again = np.packbits(positions._encode(gaps, data[0]), bitorder="little").tobytes()
            assert again == data[1:]
    assert accepted > 100


def test_memory_follows_the_plan_and_not_the_payload() -> None:
    hostile = [bytes([0]) + b"\xff" * 5_000_000, bytes([255]) + bytes(5_000_000)]
    hostile += [bytes([mode]) + b"\xff" * 218 for mode in (*range(18), 255)]
    tracemalloc.start()
    try:
        for data in hostile:
            with pytest.raises(ValueError, match="positions"):
                positions.decode(data, 20_000, 200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50_000
