"""Selection against a brute-force sort, with ties, on both sides of the sampled path."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlite.compression import selection
from fedlite.compression.selection import count, top_k


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


def test_the_sampled_path_is_the_one_that_runs_on_ordinary_vectors() -> None:
    vector = np.random.default_rng(0).laplace(size=600_000).astype(np.float32)
    candidates = selection._candidates(vector, 6_000)
    assert candidates is not None
    assert 6_000 <= candidates.size < 12_000


def test_a_misleading_sample_falls_back_to_the_exact_path() -> None:
    n = 600_000
    vector = np.zeros(n, dtype=np.float32)
    # Only sampled places are large, so the proposed threshold is too high for k.
    vector[:: (n // selection._SAMPLE) | 1] = 1.0
    k = 200_000
    assert selection._candidates(vector, k) is None
    np.testing.assert_array_equal(top_k(vector, k), brute_force(vector, k))


def test_strided_and_read_only_vectors_are_accepted() -> None:
    vector = np.random.default_rng(1).normal(size=400_000).astype(np.float32)[::2]
    vector.flags.writeable = False
    np.testing.assert_array_equal(top_k(vector, 500), brute_force(vector, 500))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [1, 10, 300_000])
def test_vectors_that_are_not_finite_are_refused(bad: float, n: int) -> None:
    vector = np.ones(n, dtype=np.float32)
    vector[n // 2] = bad
    with pytest.raises(ValueError, match=f"1 of {n} values are NaN or infinite"):
        top_k(vector, 1)


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
