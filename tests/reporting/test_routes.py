"""What is promised of a threshold is said in the digits that it was asked for with."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from fedlite.reporting.routes import draw, promise


@pytest.mark.parametrize(
    ("alpha", "confidence", "words"),
    [
        (0.02, 0.95, "At most 2 points of the deep branch's accuracy are lost, with prob"),
        (0.07, 0.9999999, "At most 7 points of .* with probability 99.99999 %;"),
        (0.01234564, 0.3, "At most 1.234564 points .* with probability 30 %;"),
    ],
)
def test_a_promise_is_rounded_to_no_better_one(alpha: float, confidence: float, words: str) -> None:
    told = {"alpha": alpha, "confidence": confidence, "kind": "pooled", "promise": "holds"}
    choice = {"threshold": 0.5, "missing": 0}
    assert re.search(words, promise(told, choice))


def test_what_was_not_shown_is_not_said_to_be_false() -> None:
    told = {"alpha": 0.01, "confidence": 0.95, "kind": "pooled", "promise": "holds"}
    said = promise(told, {"threshold": None, "missing": 0})
    assert said.startswith("All inputs go deep: the calibration records show of no threshold that")


def test_copies_among_the_calibration_records_are_told() -> None:
    told = {"alpha": 0.01, "confidence": 0.95, "kind": "shrunk", "promise": "holds", "copies": 7}
    said = promise(told, {"threshold": 0.5, "missing": 0})
    assert said.startswith("It is meant that at most 1 points")
    assert "7 calibration records had the values of others" in said
    assert "others" not in promise(told | {"copies": 0}, {"threshold": 0.5, "missing": 0})


@pytest.mark.parametrize("shallow", [0.70, 0.904, 0.9049, 0.9051, 0.906, 0.92])
def test_no_label_of_the_figure_is_printed_over_another(shallow: float) -> None:
    curve = [
        {"macs": 20_000, "accuracy": shallow},
        {"macs": 60_000, "accuracy": 0.915},
        {"macs": 100_000, "accuracy": 0.925},
    ]
    found = {
        "curve": curve,
        "alpha": 0.02,
        "macs": {"shallow": 20_000, "deep": 100_000, "adaptive": 60_000},
        "accuracy": {"shallow": shallow, "deep": 0.925, "adaptive": 0.915},
    }
    figure = draw(found)
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert len(boxes) == 4
    for (one, its), (other, box) in combinations(boxes.items(), 2):
        assert not its.overlaps(box), f"{one!r} over {other!r}"
