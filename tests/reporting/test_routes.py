"""What is promised of a threshold is said in the digits that it was asked for with."""

from __future__ import annotations

import re

import pytest

from fedlite.reporting.routes import promise


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
