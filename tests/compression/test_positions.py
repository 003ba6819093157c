"""Positions: round trips, size against the entropy bound, and hostile bytes."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlite.compression import positions


def subset(size: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(size, size=count, replace=False, shuffle=False)).astype(np.int64)


def rice_bytes(indices: NDArray[np.int64], b: int) -> int:
    """Length of the Rice code by its definition, one gap at a time."""
    gaps = [int(j - i - 1) for i, j in itertools.pairwise([-1, *indices.tolist()])]
    return -(-sum((gap >> b) + 1 + b for gap in gaps) // 8)


@settings(deadline=None, max_examples=300)
@given(size=st.integers(0, 300), data=st.data())
def test_round_trip(size: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, size - 1)) if size else st.just(set()))
    indices = np.array(sorted(chosen), dtype=np.int64)
    encoded = positions.encode(indices, size)
    assert len(encoded) <= positions.limit(size, indices.size)
    decoded = positions.decode(encoded, size, indices.size)
    assert decoded.dtype == np.int64
    np.testing.assert_array_equal(decoded, indices)


def test_every_subset_of_a_small_range_has_its_own_code() -> None:
    for count in range(9):
        codes = set()
        for chosen in itertools.combinations(range(8), count):
            indices = np.array(chosen, dtype=np.int64)
            encoded = positions.encode(indices, 8)
            np.testing.assert_array_equal(positions.decode(encoded, 8, count), indices)
            codes.add(encoded)
        assert len(codes) == math.comb(8, count)


@pytest.mark.parametrize("size", [100_000, 300_000, 1_000_000])
@pytest.mark.parametrize("density", [0.001, 0.01, 0.03, 0.1])
def test_length_is_within_three_percent_of_the_entropy(size: int, density: float) -> None:
    count = round(size * density)
    bound = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    bits = bound / math.log(2)
    for seed in range(3):
        indices = subset(size, count, seed)
        encoded = positions.encode(indices, size)
        assert 0.99 * bits < 8 * len(encoded) < 1.03 * bits
        np.testing.assert_array_equal(positions.decode(encoded, size, count), indices)


@pytest.mark.parametrize("count", [1, 5, 40, 300, 1500, 3000])
def test_the_shortest_rice_code_or_the_bitmap_is_chosen(count: int) -> None:
    size = 4000
    clustered = np.arange(count, dtype=np.int64)
    at_the_end = np.arange(size - count, size, dtype=np.int64)
    for indices in (subset(size, count), clustered, at_the_end):
        best = min(rice_bytes(indices, b) for b in range(13))
        assert len(positions.encode(indices, size)) == 1 + min(best, size // 8)


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
    with pytest.raises(ValueError, match="int64"):
        positions.encode(np.array([1, 2], dtype=np.int32), 10)
    with pytest.raises(ValueError, match="count must be in"):
        positions.encode(np.arange(11), 10)
    with pytest.raises(ValueError, match="count must be in"):
        positions.decode(b"", 10, -1)


# A legal code, written by hand. Gaps of 3, 14, 15, 92 are 3, 10, 0, 76; with b = 4 the remainders
# are 3, 10, 0, 12 (planes 1000 1100 0001 0101) and the quotients 0, 0, 0, 4 (bits 1 1 1 00001).
LEGAL = bytes([4, 0b00110001, 0b10101000, 0b10000111])


def test_the_format_is_the_documented_one() -> None:
    assert positions.encode(np.array([3, 14, 15, 92]), 100) == LEGAL


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (LEGAL[:3], "truncated or trailing"),
        (LEGAL[:1], "truncated or trailing"),
        (LEGAL + b"\0", "trailing bytes"),
        (LEGAL + b"\1", "must be 4 in number, got 5"),
        (LEGAL + bytes(20), "at most"),
        (bytes([6]) + LEGAL[1:], "mode must be 255 or a Rice parameter up to 5"),
        (bytes([254]) + LEGAL[1:], "mode must be 255"),
        (bytes([255]) + LEGAL[1:], "a bitmap of 100 takes 14 bytes, got 4"),
        (bytes([4, 0, 0, 0b10000011]), "must be 4 in number, got 3"),
        (bytes([4, 0, 0, 0b11000111]), "must be 4 in number, got 5"),
        (bytes([4, 0, 0, 0b00000111, 0b1000]), "below 100, got 131"),
        (bytes([4, 0, 0, 0]), "trailing bytes"),
        (bytes([4, 1, 1, 0]), "trailing bytes"),
    ],
)
def test_hostile_codes_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        positions.decode(data, 100, 4)


def test_pad_bits_are_refused() -> None:
    rice = positions.encode(np.array([3, 50, 70]), 100)
    assert rice[0] != 255
    assert rice[-1] < 0x80
    with pytest.raises(ValueError, match="must be 3 in number, got 4"):
        positions.decode(rice[:-1] + bytes([rice[-1] | 0x80]), 100, 3)
    bitmap = np.packbits(np.arange(20) % 2 == 0, bitorder="little").tobytes()
    every_other = positions.decode(b"\xff" + bitmap, 20, 10)
    np.testing.assert_array_equal(every_other, np.arange(0, 20, 2))
    with pytest.raises(ValueError, match="pad bits after a bitmap of 20"):
        positions.decode(b"\xff" + bitmap[:-1] + bytes([bitmap[-1] & ~1 | 0x80]), 20, 10)


def test_random_bytes_never_leave_the_plan() -> None:
    rng = np.random.default_rng(8)
    accepted = 0
    for _ in range(6000):
        size = int(rng.integers(1, 40))
        count = int(rng.integers(0, size + 1))
        data = rng.bytes(int(rng.integers(0, positions.limit(size, count) + 2)))
        if data:
            mode = int(rng.choice([255, *range(7)]))
            data = bytes([mode]) + data[1:]
        try:
            indices = positions.decode(data, size, count)
        except ValueError:
            continue
        accepted += 1
        assert indices.shape == (count,)
        assert np.all(np.diff(indices) > 0)
        assert count == 0 or (indices[0] >= 0 and indices[-1] < size)
    assert accepted > 100


def test_memory_follows_the_plan_and_not_the_payload() -> None:
    hostile = [bytes([0]) + b"\xff" * 5_000_000, bytes([255]) + bytes(5_000_000)]
    hostile += [bytes([mode]) + b"\xff" * 230 for mode in (*range(8), 255)]
    tracemalloc.start()
    try:
        for data in hostile:
            with pytest.raises(ValueError, match=r"positions|bitmap|Rice"):
                positions.decode(data, 20_000, 200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000
