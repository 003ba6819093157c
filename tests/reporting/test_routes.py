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
