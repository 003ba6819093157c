from __future__ import annotations

import numpy as np
import pytest

from fedlite.compression import Decoded
from fedlite.scenario import Federation
from strategies import make
from strategies.geometric import GeometricMedian


def of(points: list[list[float]], **options: int) -> np.ndarray:
    federation = Federation(strategy="geometric-median", sites=len(points), quorum=3)
    strategy = GeometricMedian(federation, **options)
    strategy.start(len(points[0]))
    for point in points:
        strategy.add(Decoded(len(point), None, np.array(point, np.float32)), 0)
    return strategy.combined()


def test_in_one_dimension_it_is_the_median() -> None:
    np.testing.assert_allclose(of([[-7.0], [1.0], [2.0], [3.0], [1e9]]), [2.0], atol=1e-4)


def test_of_a_triangle_it_is_fermat_s_point() -> None:
    """Of an equilateral one the centre; with an angle of 120 degrees or more that corner."""
    high = np.sqrt(3.0)
    np.testing.assert_allclose(of([[0, 0], [2, 0], [1, high]]), [1.0, high / 3], atol=1e-5)
    np.testing.assert_allclose(of([[-9, 1], [0, 0], [9, 1]]), [0.0, 0.0], atol=1e-3)


def test_equal_updates_are_their_own_median() -> None:
    np.testing.assert_allclose(of([[3.0, 4.0]] * 5), [3.0, 4.0], rtol=1e-6)
    np.testing.assert_array_equal(of([[0.0, 0.0]] * 5), [0.0, 0.0])


def test_one_iteration_weighs_by_distance_to_the_mean() -> None:
    points = [[0.0], [1.0], [5.0]]
    weights = [1 / abs(p[0] - 2.0) for p in points]
    expected = sum(w * p[0] for w, p in zip(weights, points, strict=True)) / sum(weights)
    assert of(points, iterations=1)[0] == pytest.approx(expected, rel=1e-6)


def test_it_is_registered() -> None:
    assert isinstance(
        make(Federation(strategy="geometric-median", sites=3, quorum=3)), GeometricMedian
    )
