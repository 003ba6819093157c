"""Selection against a brute-force sort, with ties, on both sides of the sampled path."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fedlite.compression import selection
from fedlite.compression.selection import count, select, top_k


def brute_force(vector: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Sort by magnitude, then by index: the definition of top-k with ties."""
    order = np.lexsort((np.arange(vector.size), -np.abs(vector).astype(np.float64)))
    return np.sort(order[:k])


FEW_LEVELS = st.lists(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0]), max_size=60)
ANY_FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=60)


@settings(deadline=None, max_examples=200)
@given(values=st.one_of(FEW_LEVELS, ANY_FLOATS), data=st.data())
def test_small_vectors_equal_brute_force(values: list[float], data: st.DataObject) -> None:
    vector = np.array(values, dtype=np.float32)
    k = data.draw(st.integers(0, vector.size))
    chosen = top_k(vector, k)
    assert chosen.dtype == np.int64
    np.testing.assert_array_equal(chosen, brute_force(vector, k))


@pytest.mark.parametrize("density", [1e-5, 0.001, 0.01, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["laplace", "ties", "sparse", "constant", "striped"])
def test_large_vectors_equal_brute_force(kind: str, density: float) -> None:
    n = 600_011
    rng = np.random.default_rng(3)
    vector = {
        "laplace": rng.laplace(size=n),
        "ties": rng.integers(-20, 21, size=n),
        "sparse": np.where(rng.random(n) < 0.002, rng.normal(size=n), 0.0),
        "constant": np.full(n, -0.5),
        "striped": np.where(np.arange(n) % 5 == 0, 0.0, rng.normal(size=n)),
    }[kind].astype(np.float32)
    k = count(n, density)
    np.testing.assert_array_equal(top_k(vector, k), brute_force(vector, k))


def test_the_sampled_path_is_the_one_that_runs_on_ordinary_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(selection, "_exact")
    vector = np.random.default_rng(0).laplace(size=600_000).astype(np.float32)
    for k in (1, 600, 6_000, 60_000, 300_000):
        np.testing.assert_array_equal(top_k(vector, k), brute_force(vector, k))


def largest_where_it_is_sampled(n: int) -> NDArray[np.float32]:
    """The proposed threshold is too high: fewer than k reach it."""
    vector = np.zeros(n, dtype=np.float32)
    vector[:: selection._stride(n)] = 1.0
    return vector


def smallest_where_it_is_sampled(n: int) -> NDArray[np.float32]:
    """The proposed threshold is too low: far more than k reach it."""
    vector = np.random.default_rng(5).uniform(1.0, 2.0, size=n).astype(np.float32)
    vector[:: selection._stride(n)] *= -1e-3
    return vector


@pytest.mark.parametrize("build", [largest_where_it_is_sampled, smallest_where_it_is_sampled])
@pytest.mark.parametrize("k", [70_000, 200_000])
def test_a_misleading_sample_falls_back_to_the_exact_path(
    build: Callable[[int], NDArray[np.float32]], k: int
) -> None:
    vector = build(600_000)
    assert selection._candidates(vector.view(np.int32), k) is None
    np.testing.assert_array_equal(top_k(vector, k), brute_force(vector, k))


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_the_exact_path_keeps_the_lowest_indices_of_equals(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_CHUNK", chunk)
    rng = np.random.default_rng(9)
    spread = (rng.normal(size=500) * 10.0 ** rng.integers(-42, 38, size=500)).astype(np.float32)
    # Neighbours in the last bits share the first histogram's bin.
    near = (np.float32(1.0) + rng.integers(0, 9, size=500) * np.float32(2**-23)).astype(np.float32)
    tied = rng.integers(-2, 3, size=500).astype(np.float32)
    for vector in (spread, near, tied, np.full(500, -0.0, dtype=np.float32)):
        for k in (1, 3, 250, 499):
            indices, bits = selection._exact(vector.view(np.int32), k)
            np.testing.assert_array_equal(indices, brute_force(vector, k))
            np.testing.assert_array_equal(bits.view(np.float32), vector[indices])


@settings(deadline=None, max_examples=100)
@given(values=st.one_of(FEW_LEVELS, ANY_FLOATS), data=st.data())
def test_a_part_is_selected_by_itself(values: list[float], data: st.DataObject) -> None:
    vector = np.array(values, dtype=np.float32)
    start = data.draw(st.integers(0, vector.size))
    stop = data.draw(st.integers(start, vector.size))
    k = data.draw(st.integers(0, stop - start))
    indices, found = select(vector, k, start, stop)
    assert indices.dtype == np.int32
    assert found.dtype == np.float32
    np.testing.assert_array_equal(indices, brute_force(vector[start:stop], k))
    np.testing.assert_array_equal(found, vector[start:stop][indices])


def test_selection_holds_little_more_than_its_result() -> None:
    vector = np.random.default_rng(0).laplace(size=4_000_000).astype(np.float32)
    for case in (vector, np.full_like(vector, 0.5), largest_where_it_is_sampled(vector.size)):
        tracemalloc.start()
        try:
            select(case, 40_000)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 0.35 * case.nbytes


def test_strided_and_read_only_vectors_are_accepted() -> None:
    vector = np.random.default_rng(1).normal(size=400_000).astype(np.float32)[::2]
    vector.flags.writeable = False
    np.testing.assert_array_equal(top_k(vector, 500), brute_force(vector, 500))


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [1, 10, 300_000])
@pytest.mark.parametrize("part", [0.0, 1e-5, 0.01, 0.6, 1.0])
@pytest.mark.parametrize("tied", [False, True])
def test_vectors_that_are_not_finite_are_refused(
    bad: float, n: int, part: float, tied: bool
) -> None:
    rng = np.random.default_rng(n)
    vector = (np.ones(n) if tied else rng.laplace(size=n)).astype(np.float32)
    vector[n - 1 - n // 3] = bad
    with pytest.raises(ValueError, match=f"1 of {n} values are NaN or infinite"):
        top_k(vector, math.ceil(part * n))


def test_every_way_to_write_nan_is_refused() -> None:
    """Also those with few bits set, and when most of the sample is NaN."""
    for bits in (0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7F800000):
        vector = np.ones(200_000, dtype=np.float32)
        vector.view(np.uint32)[123_457] = bits
        with pytest.raises(ValueError, match="1 of 200000 values are NaN or infinite"):
            top_k(vector, 2_000)
        vector.view(np.uint32)[: 3 * vector.size // 4] = bits
        with pytest.raises(ValueError, match="150000 of 200000 values are NaN or infinite"):
            top_k(vector, 2_000)


def test_the_message_counts_the_whole_vector() -> None:
    vector = np.ones(100, dtype=np.float32)
    vector[[5, 95]] = np.nan
    with pytest.raises(ValueError, match="2 of 100 values are NaN or infinite"):
        select(vector, 3, 0, 10)
    np.testing.assert_array_equal(select(vector, 2, 10, 90)[0], [0, 1])


@pytest.mark.parametrize("vector", [np.ones(3), np.ones((2, 2), dtype=np.float32)])
def test_other_types_and_shapes_are_refused(vector: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="float32 with one dimension"):
        top_k(vector, 1)


@pytest.mark.parametrize("k", [-1, 4])
def test_k_outside_the_vector_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=r"k must be in \[0, 3\]"):
        top_k(np.ones(3, dtype=np.float32), k)


@settings(deadline=None)
@given(size=st.integers(1, 10**9), thousandths=st.integers(1, 1000))
def test_count_is_the_exact_ceiling(size: int, thousandths: int) -> None:
    exact = Fraction(thousandths * size, 1000)
    k = count(size, thousandths / 1000)
    assert k - 1 < exact <= k
    assert 1 <= k <= size


def test_count_of_an_empty_vector_is_zero() -> None:
    assert count(0, 0.3) == 0


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_density_outside_its_range_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]"):
        count(100, density)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be 0 or more, got -1"):
        count(-1, 0.5)
