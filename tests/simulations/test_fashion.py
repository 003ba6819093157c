"""The study of compression: what its methods stand for, and which images it chooses by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlite.data import catalog
from fedlite.data.catalog import load
from simulations.benchmarks import fashion
from simulations.benchmarks.fashion import LINKS, METHODS, Job, configure, hold_out, parts


@pytest.mark.parametrize("link", LINKS)
def test_every_link_makes_a_scenario_with_a_dense_way_down(link: str) -> None:
    job = Job("fashion", 7, f"{link}/dense@1.5", 30, 0.25, Path("unused"), ("training.steps=8",))
    scenario = configure(job)
    uplink = {key: getattr(scenario.uplink, key) for key in LINKS[link]}
    assert uplink == LINKS[link] and scenario.downlink.compressor == "dense"
    federation = scenario.federation
    assert (federation.seed, federation.rounds, federation.participants) == (7, 30, 5)
    assert federation.server_learning_rate == 1.5 and scenario.training.steps == 8


def test_a_method_is_two_links_and_perhaps_a_step() -> None:
    assert [parts(method)[2] for method in METHODS] == [0.0] * len(METHODS)
    plain = Job("fashion", 1, "dense/topk-8", 30, 1.0, Path("unused"))
    assert configure(plain).federation.server_learning_rate == 1.0
    for wrong in ("none-such/dense", "dense", "dense/dense@fast"):
        with pytest.raises(ValueError, match=r"a link must be one of|could not convert"):
            parts(wrong)


def test_images_to_choose_by_are_no_site_s_and_not_the_test_set_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Put back afterwards.
    monkeypatch.setitem(catalog._ENTRIES, "digits", catalog.find("digits"))
    before = load("digits")
    hold_out("digits", 100)
    after = load("digits")
    assert after.test is not None
    np.testing.assert_array_equal(after.test.x, before.train.x[-100:])
    np.testing.assert_array_equal(after.train.y, before.train.y[:-100])
    assert len(after.train) + len(after.test) == len(before.train)


def test_points_lost_are_to_the_twin_of_the_same_seed() -> None:
    def summary(deep: float) -> dict[str, object]:
        return {
            "accuracy": {"deep": deep, "shallow": 0.5},
            "bytes": {"up_ratio": 2.0, "down_ratio": 1.0},
            "seconds": {"round_median": 1.0},
        }

    methods = {fashion.DENSE: (0.8, 0.9), "rotated-3/dense@2": (0.7, 0.85)}
    jobs = [
        Job("fashion", seed, method, 1, 1.0, Path("unused"))
        for seed in (1, 2)
        for method in methods
    ]
    rows = fashion.table(jobs, [summary(methods[job.method][job.seed - 1]) for job in jobs])
    assert [row["step"] for row in rows] == [0.0, 2.0]
    assert rows[1]["deep_lost"] == pytest.approx(7.5)
    assert rows[1]["deep_lost_sd"] == pytest.approx(5.0 / 2**0.5)
    assert "| rotated-3 | dense | 2.0 | 77.50 | 50.00 | +7.50 ± 3.54 |" in fashion.render(rows)
