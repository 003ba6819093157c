"""A round that moves the model out of all proportion is told of, in record and log."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from server.alarm import distance, jump
from tests.server.hostile import N, World, frame, says

DENSE = {"uplink": {"compressor": "dense"}, "downlink": {"compressor": "dense"}}


@pytest.mark.parametrize("number", [1, 3])
def test_two_sites_have_no_median_and_a_loud_word(
    world: World, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can tell which of two is the odd one; the run does not end as if nothing had been."""
    some = world(sites=2, **DENSE)
    values = np.full(N, 9e14, np.float32)
    some.members[0].tricks[number] = says(lambda m, i: frame(m, i, values=values))
    played = some.play()
    jumps = {r.round: r.jump for r in played.records if r.jump}
    assert list(jumps) == [number] and jumps[number] > 1e12
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert told == [f"round {number} moved the model {jumps[number]:.3g} times as far as usual"]


def test_one_that_grows_by_and_by_is_told_as_well(world: World) -> None:
    some = world(sites=2, federation={"rounds": 25}, **DENSE)
    some.members[0].always = says(
        lambda m, i: frame(m, i, values=np.full(N, 2.0**i.round, np.float32))
    )
    jumps = [r.round for r in some.play().records if r.jump]
    assert jumps and jumps[0] < 20


def test_an_honest_run_is_told_nothing_of(world: World) -> None:
    assert not any(r.jump for r in world(sites=4, federation={"rounds": 9}).play().records)


def test_how_far_is_usual() -> None:
    before = np.array([3.0, 4.0, 0.0, 0.0], np.float32)
    assert distance(before, before * 2) == 5.0
    # Nothing has moved yet: the model's own length, or that of one with all weights 1.
    assert jump(499.0, [], before) == 0.0 and jump(501.0, [0.0], before) == pytest.approx(100.2)
    assert jump(201.0, [], 0 * before) == pytest.approx(100.5)
    assert jump(101.0, [1.0, 1e9, 0.5, 0.0], before) == pytest.approx(101.0)
    assert jump(0.0, [], before) == jump(99.0, [1.0], before) == 0.0
