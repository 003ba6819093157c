from __future__ import annotations

import numpy as np

from fedlite.compression import Decoded
from fedlite.scenario import Federation
from strategies import make

CORNERS = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.1, 1.1), (9.0, 9.0)]


def test_the_worked_example_of_five_points() -> None:
    """f = 1 of 5: the two nearest count; (0, 0) has 1 + 1, the others more."""
    strategy = make(Federation(strategy="krum", sites=5, quorum=5))
    strategy.start(2)
    for corner in CORNERS:
        strategy.add(Decoded(2, None, np.array(corner, np.float32)), 0)
    assert strategy.combined().tolist() == [0.0, 0.0]


def test_multi_krum_takes_the_two_best_of_five() -> None:
    """Scores: 2, 2.22, 2.22, 2.44 and 248.8; of two equal ones the first."""
    strategy = make(Federation(strategy="multi-krum", sites=5, quorum=5))
    strategy.start(2)
    for corner in CORNERS:
        strategy.add(Decoded(2, None, np.array(corner, np.float32)), 0)
    np.testing.assert_allclose(strategy.combined(), [0.0, 0.5])


def test_a_long_common_part_does_not_drown_the_distances() -> None:
    rng = np.random.default_rng(0)
    common = np.float32(1e5) * np.ones(50, np.float32)
    rows = [common + rng.normal(size=50).astype(np.float32) for _ in range(7)]
    exact = [[float(((a.astype(float) - b) ** 2).sum()) for b in rows] for a in rows]
    scores = [sum(sorted(row)[1:4]) for row in exact]
    strategy = make(Federation(strategy="krum", sites=7, quorum=7))
    strategy.start(50)
    for row in rows:
        strategy.add(Decoded(50, None, row), 0)
    # f is 2 of 7, so three neighbours.
    np.testing.assert_array_equal(strategy.combined(), rows[int(np.argmin(scores))])
