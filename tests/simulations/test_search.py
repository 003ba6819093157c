from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from fedlite.scenario import ScenarioError
from simulations.search import Range, Search, begin, play_search, propose, ranges_of, results
from simulations.sweep import compared, opened

RATE = "training.learning_rate"
BASE: dict[str, Any] = {
    "federation": {"name": "tiny", "rounds": 2, "sites": 3},
    "model": {"name": "mlp"},
    "data": {"test_fraction": 0.2},
}


def test_the_coarse_grid_lies_inside_the_ranges_evenly_in_their_scale() -> None:
    search = Search({RATE: Range(0.01, 1.0, log=True)}, 8)
    # Four points in the middles of four parts of two decades: 10^-1.75, 10^-1.25, ...
    expected = [10 ** (-2 + 2 * (n + 0.5) / 4) for n in range(4)]
    assert [point[RATE] for point in search.coarse()] == pytest.approx(expected, rel=1e-3)
    two = Search({RATE: Range(0.0, 1.0), "training.epochs": Range(1, 9, whole=True)}, 18)
    assert len(two.coarse()) == 9
    assert {point["training.epochs"] for point in two.coarse()} == {2, 5, 8}
    assert all(isinstance(point["training.epochs"], int) for point in two.coarse())


def test_the_second_stage_is_around_the_best_three() -> None:
    search = Search({RATE: Range(0.0, 1.0)}, 16, score="accuracy.deep")
    points = [point[RATE] for point in search.coarse()]
    assert points == pytest.approx([(n + 0.5) / 8 for n in range(8)], rel=1e-3)
    done = [({RATE: x}, 1 - abs(x - 0.4)) for x in points]
    # The best are 0.3125, 0.4375 and 0.5625 (0.1875 is further away); half a step more each way.
    fine = search.fine(done)[RATE]
    assert (fine.low, fine.high) == pytest.approx((0.25, 0.625), rel=1e-3)
    worst = Search({RATE: Range(0.0, 1.0)}, 16, score="loss.deep").fine(done)[RATE]
    assert worst.high == 1.0, "of a loss the least is best"


def test_the_bayesian_stage_comes_closer_to_the_best_than_the_grid() -> None:
    search = Search({RATE: Range(0.001, 10.0, log=True)}, 40, score="accuracy.deep")

    def score(x: float) -> float:
        return 1 - (math.log10(x) - math.log10(0.3)) ** 2 / 10

    done = [(point, score(point[RATE])) for point in search.coarse()[::2]]
    done += [(point, score(point[RATE])) for point in search.coarse()[1::2]]
    coarse = max(value for _, value in done)
    while len(done) < search.settings:
        (point,) = propose(search, done, len(done), 1)
        done.append((point, score(point[RATE])))
    assert 1 - max(value for _, value in done) < (1 - coarse) / 3


def test_a_proposal_follows_from_what_is_known_alone() -> None:
    search = Search({RATE: Range(0.01, 1.0, log=True)}, 20, score="accuracy.deep", seed=3)
    done = [(point, point[RATE]) for point in search.coarse()]
    first = propose(search, done, len(done), 3)
    assert propose(search, done, len(done), 3) == first
    assert len({point[RATE] for point in first}) == 3
    assert propose(search, done, len(done) + 1, 3) != first


def test_where_all_whole_numbers_were_tried_the_search_ends() -> None:
    search = Search({"training.epochs": Range(1, 2, whole=True)}, 20, score="accuracy.deep")
    done = [({"training.epochs": n}, float(n)) for n in (1, 2)]
    assert propose(search, done, 2, 1) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.learning_rate", "must be section.key=LOW:HIGH"),
        ("training.learning_rate=1:0.1", "LOW < HIGH"),
        ("training.learning_rate=0:1:log", "above 0 where :log"),
        ("training.learning_rate=a:b", "LOW < HIGH"),
        ("training.learning_rate=0:inf", "LOW < HIGH"),
        ("training.learning_rate=1:2:3", "must be section.key=LOW:HIGH"),
        ("training.rate=1:2", "a key that holds a number"),
        ("nothing.rate=1:2", "a key that holds a number"),
        ("model.name=1:2", "a key that holds a number"),
        ("downlink.error_feedback=0:1", "a key that holds a number"),
        ("federation.seed=1:2", "not the seed"),
        ("training.epochs=0.5:3", "must have whole numbers"),
    ],
)
def test_a_wrong_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        ranges_of([text])


def test_a_search_that_cannot_be_is_refused_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranges = ranges_of([f"{RATE}=0.1:1"])
    with pytest.raises(ScenarioError, match=r"--search: needs a range to search"):
        begin(BASE, Search({}, 10))
    with pytest.raises(ScenarioError, match=r"--trials: must be at least 2"):
        begin(BASE, Search(ranges, 1))
    with pytest.raises(ScenarioError, match=r"data.test_fraction: must be greater than 0 in a sea"):
        begin(BASE | {"data": {"test_fraction": 0.0}}, Search(ranges, 4))
    with pytest.raises(ScenarioError, match=r"trial 001-.*learning_rate: must be greater than 0"):
        begin(BASE, Search(ranges_of([f"{RATE}=-9:1"]), 4))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScenarioError, match=r"pip install 'fedlite\[search\]'"):
        begin(BASE, Search(ranges, 4))


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_search_plays_both_stages_and_an_interrupted_one_tries_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(ranges_of([f"{RATE}=0.01:3:log"]), 6)
    found = begin(BASE, search)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        found.save(folder)
    played, outcomes = play_search(found, whole)
    assert len(played.trials) == len(outcomes) == 6
    done, score = results(played, search, whole)
    assert score == "accuracy.deep" and len(done) == 6

    class Stopped(Exception):
        pass

    def stop(trial: Any, outcome: Any) -> None:
        if trial.name.startswith("004"):
            raise Stopped

    with pytest.raises(Stopped):
        play_search(found, cut, tell=stop)
    again, _ = play_search(opened(cut), cut)
    assert again == played == opened(cut)
    assert results(again, search, cut) == (done, score)
    comparison = compared(whole)
    best = max(done, key=lambda pair: pair[1])
    assert comparison.searched and comparison.ranked[0][1].mean == pytest.approx(best[1])
